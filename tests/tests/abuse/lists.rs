//! Lists that are huge, asked for by clients that read nothing of them.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;
use skep_tests::bench::client::Client;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use crate::world::{HTTP1, LONG, MAPS, map, run, to_the_end};

const OBJECTS: usize = 32;
const BYTES: usize = 500_000;
const FORMS: [&str; 4] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;as=Table;v=v1;g=meta.k8s.io",
];

#[test]
fn huge_lists_nobody_reads_cost_little_and_are_whole_when_they_are_read() -> Result<()> {
    /// Clients of each form, on connections of their own and on a shared one.
    const EACH: usize = 6;
    /// What the server may grow by: a fraction of what a copy for each client would take.
    const GROWTH: f64 = (2 * EACH * FORMS.len() * OBJECTS * BYTES) as f64 / 1e6 / 4.0;
    run(async |world| {
        let client = Arc::new(world.client(4).await?);
        for number in 0..OBJECTS {
            client.expect(Method::POST, MAPS, map(&format!("huge-{number}"), &"x".repeat(BYTES))).await?;
        }
        let path = format!("{MAPS}?includeObject=Object");
        let growth = world.growth()?;
        let (mut slow, mut unread) = (Vec::new(), Vec::new());
        let shared = world.client(1).await?;
        let abuse = async {
            for form in FORMS.repeat(EACH) {
                let mut stream = world.raw(HTTP1).await?;
                let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\naccept: {form}\r\n\r\n", world.address);
                stream.write_all(request.as_bytes()).await?;
                slow.push(stream);
                let answer = timeout(LONG, shared.stream(&path, form)).await.context("no answer begins")??;
                unread.push((form, answer));
            }
            // Somebody else reads the same lists meanwhile.
            try_join_all(FORMS.iter().map(async |form| timeout(LONG, reads_all(&client, &path, form)).await?)).await?;
            growth.below(GROWTH).map(drop)
        };
        world.while_others_are_served(abuse).await?;
        // All at once: they share one window.
        let lengths = unread.into_iter().map(async |(form, answer)| {
            let length = timeout(LONG, length(answer.into_body())).await.context("a list does not end")??;
            ensure!(length > OBJECTS * BYTES, "{form}: only {length} bytes");
            Ok(())
        });
        try_join_all(lengths).await?;
        // These would take a while to read through their small windows: it is enough that they can be read.
        let mut stream = slow.pop().context("no slow client")?;
        drop(slow);
        let heard = timeout(LONG, to_the_end(&mut stream)).await.context("a list does not end")??;
        ensure!(heard > OBJECTS * BYTES, "{heard} bytes of a list");
        Ok(())
    })
}

async fn length(mut body: Incoming) -> Result<usize> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame?.data_ref().map_or(0, Bytes::len);
    }
    Ok(length)
}

async fn reads_all(client: &Client, path: &str, form: &str) -> Result<()> {
    let body = client.stream(path, form).await?.into_body();
    if form != FORMS[0] {
        let length = length(body).await?;
        ensure!(length > OBJECTS * BYTES, "{form}: only {length} bytes");
        return Ok(());
    }
    let list: Value = serde_json::from_slice(&body.collect().await?.to_bytes())?;
    let items = list["items"].as_array().context("no items")?;
    // One is the certificate authority that every namespace has.
    ensure!(items.len() == OBJECTS + 1, "{} items", items.len());
    Ok(())
}
