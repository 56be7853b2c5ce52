//! Writes through the API server against raw etcd transactions of the same size.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use http::Method;
use serde_json::{Value, json};

use super::client::{Client, Protocol, load};
use super::contest::Contest;
use super::row::Row;
use super::server::{CONCURRENCY, Server, make_pods, pod, pod_path};

/// Writes in one round.
const WRITES: usize = 1_500;

/// Measures creates.
pub fn create() -> Result<Vec<Row>> {
    run(async |server, client| {
        let stored = client.expect(Method::POST, &pod_path(""), pod("sample", 0)).await?.len();
        let etcd = server.etcd().await?;
        let ours = async |round: usize| {
            let client = Arc::clone(client);
            load(CONCURRENCY, WRITES, move |number| {
                let client = Arc::clone(&client);
                async move {
                    let pod = pod(&format!("p-{round}-{number}"), number);
                    client.expect(Method::POST, &pod_path(""), pod).await.map(drop)
                }
            })
            .await
        };
        let limit = async |round| raw_writes(&etcd, stored, Raw::Create(round)).await;
        let contest = Contest::run(WRITES, server.pid()?, limit, ours).await?;
        Ok(contest.rows("create a 4 KiB pod, 32 at once", "raw etcd transactions", 0.8, 0.3))
    })
}

/// Measures status updates, whole and by patch.
pub fn status() -> Result<Vec<Row>> {
    run(async |server, client| {
        make_pods(client, "p", WRITES).await?;
        let limits = (0.7, 0.4);
        let mut rows = updates(server, client, "status update of a 4 KiB pod, PUT", limits, put_status).await?;
        rows.extend(
            updates(server, client, "status update of a 4 KiB pod, strategic merge", limits, patch_status).await?,
        );
        Ok(rows)
    })
}

async fn put_status(client: Arc<Client>, round: usize, number: usize) -> Result<()> {
    let mut pod: Value = serde_json::from_slice(&pod(&format!("p{number}"), number))?;
    pod["status"] = json!({ "phase": "Pending", "message": format!("put {round}") });
    let path = pod_path(&format!("p{number}/status"));
    client.expect(Method::PUT, &path, Bytes::from(pod.to_string())).await.map(drop)
}

async fn patch_status(client: Arc<Client>, round: usize, number: usize) -> Result<()> {
    let patch = Bytes::from(json!({ "status": { "message": format!("patch {round}") } }).to_string());
    let path = pod_path(&format!("p{number}/status"));
    client.patch(&path, "application/strategic-merge-patch+json", patch).await.map(drop)
}

/// Measures server-side apply of a changed label.
pub fn apply() -> Result<Vec<Row>> {
    run(async |server, client| {
        // The first apply of each creates it.
        let maker = Arc::clone(client);
        load(CONCURRENCY, WRITES, move |number| apply_label(Arc::clone(&maker), usize::MAX, number)).await?;
        updates(server, client, "server-side apply of a 4 KiB pod", (0.5, 0.6), apply_label).await
    })
}

async fn apply_label(client: Arc<Client>, round: usize, number: usize) -> Result<()> {
    let name = format!("p{number}");
    let mut pod: Value = serde_json::from_slice(&pod(&name, number))?;
    pod["metadata"]["labels"]["round"] = json!(format!("r{round}"));
    let path = pod_path(&format!("{name}?fieldManager=bench&force=true"));
    client.patch(&path, "application/apply-patch+yaml", Bytes::from(pod.to_string())).await.map(drop)
}

/// Starts a server and measures on it.
fn run(measure: impl AsyncFnOnce(&Server, &Arc<Client>) -> Result<Vec<Row>>) -> Result<Vec<Row>> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let server = Server::start().await?;
        let client = Arc::new(server.client(Protocol::Http2, 4).await?);
        measure(&server, &client).await
    })
}

/// Rounds of `update` of the pods `p<number>`, against raw replacements of values of their size.
async fn updates<F, Fut>(
    server: &Server,
    client: &Arc<Client>,
    name: &str,
    (ratio, cpu): (f64, f64),
    update: F,
) -> Result<Vec<Row>>
where
    F: Fn(Arc<Client>, usize, usize) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<()>> + Send,
{
    let stored = client.expect(Method::GET, &pod_path("p0"), Bytes::new()).await?.len();
    let etcd = server.etcd().await?;
    raw_writes(&etcd, stored, Raw::Seed).await?;
    let ours = async |round| {
        let (client, update) = (Arc::clone(client), update.clone());
        load(CONCURRENCY, WRITES, move |number| update(Arc::clone(&client), round, number)).await
    };
    let limit = async |_| raw_writes(&etcd, stored, Raw::Replace).await;
    Ok(Contest::run(WRITES, server.pid()?, limit, ours).await?.rows(name, "raw etcd transactions", ratio, cpu))
}

#[derive(Clone, Copy)]
enum Raw {
    /// New keys, by the number of the round.
    Create(usize),
    /// Makes the keys that are replaced, or makes them anew.
    Seed,
    /// The keys that were seeded.
    Replace,
}

async fn raw_writes(etcd: &etcd_client::Client, size: usize, raw: Raw) -> Result<Duration> {
    let etcd = etcd.clone();
    let value = vec![b'x'; size];
    load(CONCURRENCY, WRITES, move |number| {
        let (mut etcd, value) = (etcd.kv_client(), value.clone());
        async move {
            let (key, compare, revision) = match raw {
                Raw::Create(round) => (format!("/bench/{round}/{number}"), CompareOp::Equal, 0),
                Raw::Seed => (format!("/bench/{number}"), CompareOp::Greater, -1),
                Raw::Replace => (format!("/bench/{number}"), CompareOp::Greater, 0),
            };
            let put = TxnOp::put(key.as_str(), value, None);
            let txn = Txn::new().when([Compare::mod_revision(key.as_str(), compare, revision)]).and_then([put]);
            ensure!(etcd.txn(txn).await?.succeeded(), "{key} is not as it should be");
            Ok(())
        }
    })
    .await
}
