//! A thousand watchers of one namespace that changes two hundred times a second.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::client::{Client, Protocol};
use super::row::{Goal, Row};
use super::server::Server;
use super::usage::cpu_seconds;

const WATCHERS: usize = 1_000;
/// Connections the watchers share.
const CONNECTIONS: usize = 40;
const RATE: f64 = 200.0;
const CHANGES: usize = 1_000;
const PATH: &str = "/api/v1/namespaces/default/configmaps";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Measures this group.
pub fn measure() -> Result<Vec<Row>> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let server = Server::start().await?;
        let writer = server.client(Protocol::Http2, 1).await?;
        let map =
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "watched" }, "data": { "n": "0" } });
        let made = writer.expect(Method::POST, PATH, Bytes::from(map.to_string())).await?;
        let made: Value = serde_json::from_slice(&made)?;
        let from = made["metadata"]["resourceVersion"].as_str().context("no resourceVersion")?;
        let last = Arc::new(Arrivals::default());
        let watching = server.client(Protocol::Http2, CONNECTIONS).await?;
        let mut watchers = Vec::new();
        for number in 0..WATCHERS {
            // Every second one as controllers written in Go watch.
            let (accept, protobuf) = if number % 2 == 0 { ("application/json", false) } else { (PROTOBUF, true) };
            let path = format!("{PATH}?watch=1&resourceVersion={from}");
            let body = watching.stream(&path, accept).await?.into_body();
            watchers.push(tokio::spawn(watch(body, protobuf, Arc::clone(&last))));
        }
        let counted = encodings(&writer).await?;
        let before = cpu_seconds(server.pid()?)?;
        let answered = write(&writer, map).await?;
        for watcher in watchers {
            tokio::time::timeout(Duration::from_secs(60), watcher).await.context("a watcher got too little")???;
        }
        let used = cpu_seconds(server.pid()?)? - before;
        let encodings = (encodings(&writer).await? - counted) / CHANGES as f64;
        let arrivals = last.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut delays: Vec<f64> = answered
            .iter()
            .zip(&*arrivals)
            .map(|(answered, (_, last))| last.saturating_duration_since(*answered).as_secs_f64() * 1e3)
            .collect();
        delays.sort_by(f64::total_cmp);
        let p99 = delays[delays.len() * 99 / 100];
        let name = "1,000 watchers, 200 changes/s";
        Ok(vec![
            Row {
                name: format!("{name}: from the write's answer to the last watcher, p99"),
                measured: format!("median {:.1} ms, p99 {p99:.1} ms", delays[delays.len() / 2]),
                limit: String::new(),
                score: p99,
                goal: Goal::Under(50.0, " ms"),
            },
            Row {
                name: format!("{name}: encodings of an event, JSON and protobuf"),
                measured: format!("{encodings:.2}"),
                limit: "2 formats".to_owned(),
                score: encodings,
                goal: Goal::Under(2.01, ""),
            },
            Row {
                name: format!("{name}: CPU"),
                measured: format!("{:.3} s per 1,000 events delivered", used / (CHANGES * WATCHERS) as f64 * 1e3),
                limit: String::new(),
                score: used / (CHANGES as f64 / RATE),
                goal: Goal::Under(1.0, " cores"),
            },
        ])
    })
}

/// Of each change: how many watchers have it, and when the last one came.
#[derive(Default)]
struct Arrivals(Mutex<Vec<(usize, Instant)>>);

/// Reads until all changes have come.
async fn watch(mut body: Incoming, protobuf: bool, arrivals: Arc<Arrivals>) -> Result<()> {
    let mut seen = 0;
    let mut pending = Vec::new();
    while seen < CHANGES {
        let frame = body.frame().await.context("a watch ended")??;
        let Some(data) = frame.data_ref() else { continue };
        let now = Instant::now();
        let came = if protobuf {
            pending.extend_from_slice(data);
            take_frames(&mut pending)
        } else {
            data.iter().filter(|byte| **byte == b'\n').count()
        };
        let mut arrivals = arrivals.0.lock().unwrap_or_else(PoisonError::into_inner);
        for number in seen..seen + came {
            if arrivals.len() <= number {
                arrivals.resize(number + 1, (0, now));
            }
            arrivals[number].0 += 1;
            arrivals[number].1 = arrivals[number].1.max(now);
        }
        seen += came;
    }
    ensure!(seen == CHANGES, "{seen} events");
    Ok(())
}

/// Removes the whole frames at the beginning (four bytes of length, then the event); how many there were.
fn take_frames(pending: &mut Vec<u8>) -> usize {
    let (mut at, mut count) = (0, 0);
    while let Some(head) = pending[at..].first_chunk::<4>() {
        let end = at + 4 + u32::from_be_bytes(*head) as usize;
        if end > pending.len() {
            break;
        }
        (at, count) = (end, count + 1);
    }
    pending.drain(..at);
    count
}

/// Changes the map at the rate; when each change was answered.
async fn write(writer: &Client, mut map: Value) -> Result<Vec<Instant>> {
    let start = Instant::now();
    let mut answered = Vec::with_capacity(CHANGES);
    // One at a time, so that the order of the events is known.
    for number in 0..CHANGES {
        tokio::time::sleep_until((start + Duration::from_secs_f64(number as f64 / RATE)).into()).await;
        map["data"]["n"] = json!((number + 1).to_string());
        writer.expect(Method::PUT, &format!("{PATH}/watched"), Bytes::from(map.to_string())).await?;
        answered.push(Instant::now());
    }
    Ok(answered)
}

/// How many frames the server has encoded, by its own count.
async fn encodings(client: &Client) -> Result<f64> {
    let text = client.expect(Method::GET, "/metrics", Bytes::new()).await?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines = text.lines().filter_map(|line| line.strip_prefix("skep_storage_watch_frames_encoded_total"));
    lines.map(|line| Ok(line.rsplit(' ').next().unwrap_or_default().parse::<f64>()?)).sum()
}
