//! Watches by the thousand, and watches that nobody reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use http::{Method, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;
use skep_tests::bench::client::{Client, load};
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use crate::world::{HTTP1, LONG, MAPS, map, run, to_the_end, until, version};

const JSON: &str = "application/json";

#[test]
fn ten_thousand_idle_watches_cost_little_and_all_hear_the_next_change() -> Result<()> {
    const WATCHES: usize = 10_000;
    const CONNECTIONS: usize = 20;
    /// Far more than what one is known to cost, and far less than a buffer for each.
    const KIB_PER_WATCH: f64 = 16.0;
    run(async |world| {
        let client = Arc::new(world.client(CONNECTIONS).await?);
        let path = format!("{MAPS}?watch=1&resourceVersion={}", version(&client).await?);
        // What the first watches make ready is not counted.
        let mut watches = try_join_all((0..CONNECTIONS).map(|_| client.stream(&path, JSON))).await?;
        let (growth, open) = (world.growth()?, world.descriptors()?);
        let abuse = async {
            while watches.len() < WATCHES {
                let next = (0..100.min(WATCHES - watches.len())).map(|_| client.stream(&path, JSON));
                watches.extend(try_join_all(next).await?);
            }
            let cost = growth.now()? * 1e6 / 1024.0 / WATCHES as f64;
            eprintln!("an idle watch costs {cost:.1} KiB");
            ensure!(cost < KIB_PER_WATCH, "an idle watch costs {cost:.1} KiB");
            client.expect(Method::POST, MAPS, map("news", "for all")).await?;
            try_join_all(watches.iter_mut().map(hears_the_news)).await.map(drop)
        };
        world.while_others_are_served(abuse).await?;
        drop(watches);
        drop(client);
        until("the end of the watches' connections", || Ok(world.descriptors()? < open)).await
    })
}

async fn hears_the_news(watch: &mut Response<Incoming>) -> Result<()> {
    let frame = timeout(LONG, watch.body_mut().frame()).await.context("a watch heard nothing")?;
    let data = frame.context("a watch ended")??.into_data().ok().context("trailers")?;
    let event: Value = serde_json::from_slice(&data)?;
    ensure!(event["type"] == "ADDED" && event["object"]["metadata"]["name"] == "news", "{event}");
    Ok(())
}

/// Changes of one object that are more than the history keeps (64 MiB), and how large it is.
const CHANGES: usize = 80;
const BYTES: usize = 1_000_000;

#[test]
fn watchers_that_read_nothing_cost_little_and_are_cut_off_while_others_see_every_change() -> Result<()> {
    const SLOW: usize = 30;
    const GOOD: usize = 2;
    /// What the server may grow by: a fraction of what a copy for each slow client would take.
    const GROWTH: f64 = (2 * SLOW * CHANGES * BYTES) as f64 / 1e6 / 8.0;
    run(async |world| {
        let client = Arc::new(world.client(4).await?);
        client.expect(Method::POST, MAPS, map("busy", "")).await?;
        let from = version(&client).await?;
        let path = format!("{MAPS}?watch=1&resourceVersion={from}&fieldSelector=metadata.name%3Dbusy");
        let mut slow = Vec::new();
        for _ in 0..SLOW {
            let mut stream = world.raw(HTTP1).await?;
            let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\naccept: {JSON}\r\n\r\n", world.address);
            stream.write_all(request.as_bytes()).await?;
            slow.push(stream);
        }
        let shared = world.client(1).await?;
        let unread = try_join_all((0..SLOW).map(|_| shared.stream(&path, JSON))).await?;
        let good: Vec<_> = (0..GOOD)
            .map(|_| {
                let (client, path) = (Arc::clone(&client), path.clone());
                tokio::spawn(async move { changes(client.stream(&path, JSON).await?).await })
            })
            .collect();
        let growth = world.growth()?;
        let abuse = async {
            change(&client).await?;
            for watcher in good {
                let seen = timeout(LONG, watcher).await.context("a good watcher waits in vain")???;
                ensure!(seen == CHANGES, "a good watcher saw {seen} of {CHANGES} changes");
            }
            growth.below(GROWTH).map(drop)
        };
        world.while_others_are_served(abuse).await?;
        // Once they read, they find the end: the history does not wait for them.
        for stream in &mut slow {
            let heard = timeout(LONG, to_the_end(stream)).await.context("a slow watch was never cut off")??;
            ensure!(heard < CHANGES * BYTES / 2, "a slow watch heard {heard} bytes: it was not slow");
        }
        let cut_off = unread.into_iter().map(async |watch| {
            let seen = timeout(LONG, changes(watch)).await.context("a watch nobody read was never cut off")??;
            ensure!(seen < CHANGES, "a watch nobody read saw everything");
            Ok(())
        });
        try_join_all(cut_off).await.map(drop)
    })
}

/// Makes the changes, one after the other.
async fn change(client: &Arc<Client>) -> Result<()> {
    let (client, number) = (Arc::clone(client), Arc::new(AtomicU64::new(0)));
    let padding: Arc<str> = "x".repeat(BYTES).into();
    let operation = move |_| {
        let (client, padding) = (Arc::clone(&client), Arc::clone(&padding));
        let number = number.fetch_add(1, Ordering::SeqCst);
        async move {
            let path = format!("{MAPS}/busy");
            let (status, answer) = client.send(Method::PUT, &path, map("busy", &format!("{number}{padding}"))).await?;
            ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&answer[..answer.len().min(300)]));
            Ok(())
        }
    };
    load(1, CHANGES, operation).await.map(drop)
}

/// Counts the changes a watch hears, in order, until it has heard all, ends, or is cut off.
async fn changes(watch: Response<Incoming>) -> Result<usize> {
    let (mut body, mut line, mut seen, mut last) = (watch.into_body(), Vec::new(), 0, 0);
    while seen < CHANGES {
        let Some(frame) = body.frame().await else { break };
        let Ok(mut data) = frame?.into_data() else { continue };
        while let Some(length) = newline(&data) {
            line.extend_from_slice(&data.split_to(length + 1));
            let Some(version) = changed(&line)? else { return Ok(seen) };
            ensure!(version > last, "{version} after {last}");
            (last, seen) = (version, seen + 1);
            line.clear();
        }
        line.extend_from_slice(&data);
    }
    Ok(seen)
}

fn newline(data: &Bytes) -> Option<usize> {
    data.iter().position(|byte| *byte == b'\n')
}

/// The version an event is of; none when it says that the watch is cut off.
fn changed(event: &[u8]) -> Result<Option<u64>> {
    // The middle is what was put there to be large.
    let around = [&event[..event.len().min(1000)], &event[event.len().saturating_sub(1000)..]].concat();
    let text = String::from_utf8_lossy(&around);
    if text.contains("\"type\":\"ERROR\"") {
        ensure!(text.contains("\"code\":410"), "{text}");
        return Ok(None);
    }
    ensure!(text.contains("\"type\":\"MODIFIED\""), "{text}");
    let (_, rest) = text.split_once("\"resourceVersion\":\"").context("no resourceVersion")?;
    let (version, _) = rest.split_once('"').context("no end")?;
    Ok(Some(version.parse()?))
}
