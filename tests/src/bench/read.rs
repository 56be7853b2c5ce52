//! Reads through the API server against a bare server that returns the same bytes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Method;

use super::bare::Bare;
use super::client::{Client, Protocol, load};
use super::contest::{Contest, ROUNDS};
use super::row::{Goal, Row, median};
use super::server::{CONCURRENCY, Etcd, Server, make_pods, pod, pod_path};
use super::usage::{forget_peak, peak_rss_mb, rss_mb};

/// GETs in one round.
const GETS: usize = 20_000;
/// Pods in the large list.
const MANY: usize = 10_000;

/// Measures GETs of one pod, with an etcd of the server's own and with one of somebody else's.
pub fn get() -> Result<Vec<Row>> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut rows = gets_with(Etcd::Own, "").await?;
        rows.extend(gets_with(Etcd::External, ", external etcd").await?);
        Ok(rows)
    })
}

async fn gets_with(etcd: Etcd, with: &str) -> Result<Vec<Row>> {
    let server = Server::start_with(etcd).await?;
    let maker = server.client(Protocol::Http2, 1).await?;
    let path = pod_path("sample");
    maker.expect(Method::POST, &pod_path(""), pod("sample", 0)).await?;
    let body = maker.expect(Method::GET, &path, Bytes::new()).await?;
    let bare = Bare::start(&server.folder().join("bare"), &body)?;
    let mut rows = Vec::new();
    for (protocol, connections, name) in [
        (Protocol::Http2, 4, "GET a 4 KiB pod, consistent, HTTP/2"),
        (Protocol::Http1, CONCURRENCY, "GET a 4 KiB pod, consistent, HTTP/1.1"),
    ] {
        let ours = Arc::new(server.client(protocol, connections).await?);
        let limit = Arc::new(bare.client(protocol, connections).await?);
        let round = async |client: &Arc<Client>| gets(client, &path, body.len(), CONCURRENCY, GETS).await;
        let contest =
            Contest::run(GETS, server.pid()?, async |_| round(&limit).await, async |_| round(&ours).await).await?;
        rows.extend(contest.rows(&format!("{name}{with}"), "bare hyper and rustls", 0.7, 0.06));
    }
    Ok(rows)
}

async fn gets(client: &Arc<Client>, path: &str, expected: usize, concurrency: usize, total: usize) -> Result<Duration> {
    let (client, path) = (Arc::clone(client), Arc::<str>::from(path));
    load(concurrency, total, move |_| {
        let (client, path) = (Arc::clone(&client), Arc::clone(&path));
        async move {
            let length = client.count(&path).await?;
            ensure!(length == expected, "{path}: an answer of {length} bytes");
            Ok(())
        }
    })
    .await
}

/// Measures lists of 1,000 and 10,000 pods, whole, in pages and selected.
pub fn list() -> Result<Vec<Row>> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let server = Server::start().await?;
        let client = Arc::new(server.client(Protocol::Http2, 8).await?);
        let mut rows = Vec::new();
        make_pods(&client, "a", 1_000).await?;
        rows.extend(whole(&server, &client, 1_000, 40).await?);
        make_pods(&client, "b", MANY - 1_000).await?;
        rows.extend(whole(&server, &client, MANY, 6).await?);
        rows.push(memory(&server, &client).await?);
        rows.push(paged(&client).await?);
        for (name, query) in [
            ("LIST of 10,000 pods, 1 % label selector", "labelSelector=share%3Done-percent"),
            ("LIST of 10,000 pods, spec.nodeName selector", "fieldSelector=spec.nodeName%3Dnode-7"),
        ] {
            rows.push(selected(&client, name, query).await?);
        }
        Ok(rows)
    })
}

/// How many lists are under way at once.
const LISTERS: usize = 4;

async fn whole(server: &Server, client: &Arc<Client>, pods: usize, lists: usize) -> Result<Vec<Row>> {
    let path = pod_path("");
    let body = client.expect(Method::GET, &path, Bytes::new()).await?;
    let bare = Bare::start(&server.folder().join(format!("bare-{pods}")), &body)?;
    let limit = Arc::new(bare.client(Protocol::Http2, 8).await?);
    let contest = Contest::run(
        lists,
        server.pid()?,
        async |_| gets(&limit, &path, body.len(), LISTERS, lists).await,
        async |_| gets(client, &path, body.len(), LISTERS, lists).await,
    )
    .await?;
    let name = format!("LIST of {pods} pods, consistent");
    // The goal is for lists of 1,000.
    Ok(contest.rows(&name, "bare server streaming the same bytes", 0.6, 4.0 * pods as f64 / 1e3))
}

/// How much memory the largest list takes while it is sent.
async fn memory(server: &Server, client: &Arc<Client>) -> Result<Row> {
    let pid = server.pid()?;
    let path = pod_path("");
    let size = client.count(&path).await?;
    let before = rss_mb(pid)?;
    forget_peak(pid)?;
    gets(client, &path, size, LISTERS, LISTERS).await?;
    let grown = (peak_rss_mb(pid)? - before).max(0.0);
    Ok(Row {
        name: format!("memory for {LISTERS} LISTs of {MANY} pods at once"),
        measured: format!("{grown:.1} MB"),
        limit: format!("{:.0} MB of answers", (size * LISTERS) as f64 / 1e6),
        score: grown,
        goal: Goal::Under(16.0, " MB"),
    })
}

/// Pages of 500 against the whole.
async fn paged(client: &Arc<Client>) -> Result<Row> {
    let (mut wholes, mut pages) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = std::time::Instant::now();
        client.count(&pod_path("")).await?;
        wholes.push(start.elapsed().as_secs_f64());
        let start = std::time::Instant::now();
        let mut token = String::new();
        let mut count = 0;
        loop {
            let page = client.expect(Method::GET, &pod_path(&format!("?limit=500{token}")), Bytes::new()).await?;
            count += 1;
            // The metadata come first.
            let head = String::from_utf8_lossy(&page[..page.len().min(500)]).into_owned();
            let Some((_, rest)) = head.split_once("\"continue\":\"") else { break };
            token = format!("&continue={}", rest.split('"').next().unwrap_or_default());
        }
        ensure!(count == MANY / 500, "{count} pages");
        pages.push(start.elapsed().as_secs_f64());
    }
    let score = median(wholes.iter().zip(&pages).map(|(whole, pages)| whole / pages).collect());
    Ok(Row {
        name: format!("LIST of {MANY} pods in pages of 500"),
        measured: format!("{:.0} ms for all pages", median(pages) * 1e3),
        limit: format!("{:.0} ms whole", median(wholes) * 1e3),
        score,
        goal: Goal::AtLeast(0.9, ""),
    })
}

async fn selected(client: &Arc<Client>, name: &str, query: &str) -> Result<Row> {
    let path = pod_path(&format!("?{query}"));
    let (whole, part) = (client.count(&pod_path("")).await?, client.count(&path).await?);
    ensure!((whole / 110..whole / 90).contains(&part), "{part} of {whole} bytes were selected");
    let (mut wholes, mut parts) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        wholes.push(gets(client, &pod_path(""), whole, LISTERS, LISTERS).await?.as_secs_f64() / LISTERS as f64);
        parts.push(gets(client, &path, part, LISTERS, 50).await?.as_secs_f64() / 50.0);
    }
    let score = median(wholes.iter().zip(&parts).map(|(whole, part)| whole / part).collect());
    Ok(Row {
        name: name.to_owned(),
        measured: format!("{:.0}/s", 1.0 / median(parts)),
        limit: format!("{:.0}/s whole", 1.0 / median(wholes)),
        score,
        goal: Goal::AtLeast(10.0, ""),
    })
}
