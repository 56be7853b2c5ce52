//! A thousand nodes that renew their leases, each once a second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::client::{Client, Protocol, load};
use super::row::{Goal, Row, median};
use super::server::{CONCURRENCY, Server};
use super::usage::cpu_seconds;

const NODES: usize = 1_000;
const RATE: f64 = 1_000.0;
/// Seconds of each round.
const SECONDS: usize = 4;
const ROUNDS: usize = 3;
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// Measures this group.
pub fn measure() -> Result<Vec<Row>> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let server = Server::start().await?;
        let client = Arc::new(server.client(Protocol::Http2, 100).await?);
        let leases: Arc<Vec<Mutex<Value>>> = Arc::new((0..NODES).map(|n| Mutex::new(lease(n))).collect());
        {
            let (client, leases) = (Arc::clone(&client), Arc::clone(&leases));
            load(CONCURRENCY, NODES, move |node| {
                let (client, leases) = (Arc::clone(&client), Arc::clone(&leases));
                async move {
                    let mut lease = leases[node].lock().await;
                    *lease = serde_json::from_slice(&client.expect(Method::POST, LEASES, body(&lease)).await?)?;
                    Ok(())
                }
            })
            .await?;
        }
        let etcd = server.etcd().await?;
        let value = body(&*leases[0].lock().await);
        let (mut ours, mut limits, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let (etcd, value) = (etcd.clone(), value.clone());
            let limit = paced(move |node| {
                let (mut etcd, value) = (etcd.kv_client(), value.clone());
                async move {
                    let key = format!("/bench/leases/{node}");
                    let txn = Txn::new()
                        .when([Compare::mod_revision(key.as_str(), CompareOp::Greater, -1)])
                        .and_then([TxnOp::put(key.as_str(), value.to_vec(), None)]);
                    etcd.txn(txn).await.map(drop).map_err(Into::into)
                }
            })
            .await?;
            let before = cpu_seconds(server.pid()?)?;
            let (client, leases) = (Arc::clone(&client), Arc::clone(&leases));
            let our = paced(move |node| {
                let (client, leases) = (Arc::clone(&client), Arc::clone(&leases));
                async move {
                    let mut lease = leases[node].lock().await;
                    lease["spec"]["renewTime"] = json!(format!("2030-01-01T00:00:00.{:06}Z", round * NODES + node));
                    let path = format!("{LEASES}/node-{node}");
                    *lease = serde_json::from_slice(&renew(&client, &path, body(&lease)).await?)?;
                    Ok(())
                }
            })
            .await?;
            let used = cpu_seconds(server.pid()?)? - before;
            // The first round is for warming up.
            if round > 0 {
                limits.push(limit);
                ours.push(our);
                cpu.push(used / (SECONDS as f64 * RATE) * 1e3);
            }
        }
        let score = median(ours.iter().zip(&limits).map(|(ours, limit)| ours - limit).collect());
        let name = "1,000 nodes renew their leases at 1,000/s";
        Ok(vec![
            Row {
                name: format!("{name}: p99 over etcd's own"),
                measured: format!("p99 {:.1} ms", median(ours)),
                limit: format!("p99 {:.1} ms raw etcd transactions", median(limits)),
                score,
                goal: Goal::Under(10.0, " ms"),
            },
            Row::cpu(name, median(cpu), 0.2),
        ])
    })
}

/// A renewal, sent again while the server has no room: a neighbour that stops it for a moment makes a crowd, and the wait counts.
async fn renew(client: &Client, path: &str, body: Bytes) -> Result<Bytes> {
    loop {
        match client.send(Method::PUT, path, body.clone()).await? {
            (StatusCode::TOO_MANY_REQUESTS, _) => tokio::time::sleep(Duration::from_millis(5)).await,
            (status, answer) if status.is_success() => return Ok(answer),
            (status, answer) => anyhow::bail!("{path}: {status}: {}", String::from_utf8_lossy(&answer)),
        }
    }
}

/// Starts `operation` for each node in turn, [`RATE`] times a second, however long each takes. The 99th percentile in ms.
async fn paced<F, Fut>(operation: F) -> Result<f64>
where
    F: Fn(usize) -> Fut,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    let total = (RATE * SECONDS as f64) as usize;
    let start = Instant::now();
    let mut running = Vec::with_capacity(total);
    for number in 0..total {
        let due = start + Duration::from_secs_f64(number as f64 / RATE);
        tokio::time::sleep_until(due.into()).await;
        let operation = operation(number % NODES);
        running.push(tokio::spawn(async move {
            // From when it was due: what waits for its start waits, too.
            operation.await.map(|()| due.elapsed().as_secs_f64() * 1e3)
        }));
    }
    let mut times = Vec::with_capacity(total);
    for one in running {
        times.push(one.await??);
    }
    times.sort_by(f64::total_cmp);
    times.get(total * 99 / 100).copied().context("no renewals")
}

fn lease(node: usize) -> Value {
    let name = format!("node-{node}");
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": name },
        "spec": { "holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": "2030-01-01T00:00:00.000000Z" },
    })
}

fn body(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}
