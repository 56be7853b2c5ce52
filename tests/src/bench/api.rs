//! The API server against raw etcd and against a bare HTTPS server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use http::Method;
use serde_json::json;
use skep_pki::{Kubeconfig, client_config};
use tempfile::TempDir;
use xtask::command::require;
use xtask::process::Daemon;
use xtask::{wait, workspace};

use super::bare::Bare;
use super::client::{Client, load};
use super::row::{Goal, Row, median};
use super::usage::cpu_seconds;

/// How many requests are under way at once, as in the published figures of upstream's API server.
const CONCURRENCY: usize = 32;
/// Creates in one round.
const CREATES: usize = 2_000;
/// GETs in one round.
const GETS: usize = 20_000;
/// Rounds; the median ratio counts, because neighbours on the machine disturb single rounds.
const ROUNDS: usize = 5;

/// etcd and a `skep-server` with nothing but the API, on loopback.
struct Server {
    etcd: Daemon,
    server: Daemon,
    etcd_url: String,
    address: SocketAddr,
    folder: TempDir,
}

impl Server {
    fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("skep-bench").tempdir()?;
        let (client_port, peer_port, api_port) = (free_port()?, free_port()?, free_port()?);
        let etcd_url = format!("http://127.0.0.1:{client_port}");
        let peer_url = format!("http://127.0.0.1:{peer_port}");
        let started = Self {
            etcd: Daemon::new("etcd", folder.path()),
            server: Daemon::new("skep-server", folder.path()),
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), api_port),
            etcd_url,
            folder,
        };
        let (data, url) = (started.folder.path(), &started.etcd_url);
        started.etcd.start(
            Command::new(require("etcd")?)
                .arg("--data-dir")
                .arg(data.join("etcd"))
                .args(["--listen-client-urls", url, "--advertise-client-urls", url])
                .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
                .args(["--initial-cluster", &format!("default={peer_url}")]),
        )?;
        started.server.start(
            Command::new(workspace::programs(workspace::Profile::Release).join("skep-server"))
                .args(["run", "--components", "apiserver", "--bind-address", "127.0.0.1"])
                // Only written into Endpoints that nobody follows here; a loopback address is refused.
                .args(["--advertise-address", "198.51.100.1", "--secure-port", &api_port.to_string()])
                .args(["--etcd-endpoints", url])
                .arg("--data-dir")
                .arg(data.join("server")),
        )?;
        Ok(started)
    }

    async fn client(&self) -> Result<Client> {
        let config = self.folder.path().join("server/admin.conf");
        let credentials = wait::until("skep-server's admin.conf", Duration::from_secs(60), || {
            self.server.check()?;
            Ok(Kubeconfig::load(&config)?.credentials()?)
        })?;
        let ca = credentials.ca.context("admin.conf names no authority")?;
        let tls = client_config(&ca, credentials.identity.as_ref())?;
        for _ in 0..200 {
            if let Ok(client) = Client::connect(self.address, tls.clone()).await
                && client.expect(Method::GET, "/readyz", Bytes::new()).await.is_ok()
            {
                return Ok(client);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("skep-server is not ready: {}", self.server.log_tail(10))
    }

    fn pid(&self) -> Result<i32> {
        self.server.pid().context("skep-server has ended")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for daemon in [&self.server, &self.etcd] {
            if let Err(error) = daemon.stop() {
                eprintln!("{error:#}");
            }
        }
    }
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Measures this group.
pub fn measure() -> Result<Vec<Row>> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let server = Server::start()?;
        let client = Arc::new(server.client().await?);
        Ok(vec![create(&server, &client).await?, get(&server, &client).await?])
    })
}

/// A pod of about 4 KiB as it is stored.
fn pod(name: &str) -> Bytes {
    let filler = "x".repeat(3_000);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": "bench" }, "annotations": { "filler": filler } },
        "spec": { "containers": [{ "name": "c", "image": "localhost/skep/toolbox:1" }], "nodeName": "nowhere" },
    });
    Bytes::from(pod.to_string())
}

async fn create(server: &Server, client: &Arc<Client>) -> Result<Row> {
    const PODS: &str = "/api/v1/namespaces/default/pods";
    make_service_account(client).await?;
    let stored = client.expect(Method::POST, PODS, pod("sample")).await?.len();
    let etcd = etcd_client::Client::connect([&server.etcd_url], None).await?;
    let value = Bytes::from(vec![b'x'; stored]);
    let (mut ours, mut limits, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let raw = etcd.clone();
        let value = value.clone();
        let elapsed = load(CONCURRENCY, CREATES, move |number| {
            let (mut raw, value) = (raw.kv_client(), value.clone());
            async move {
                let key = format!("/bench/{round}/{number}");
                let txn = Txn::new()
                    .when([Compare::version(key.as_str(), CompareOp::Equal, 0)])
                    .and_then([TxnOp::put(key.as_str(), value.to_vec(), None)]);
                anyhow::ensure!(raw.txn(txn).await?.succeeded(), "{key} was there");
                Ok(())
            }
        })
        .await?;
        limits.push(CREATES as f64 / elapsed.as_secs_f64());

        let before = cpu_seconds(server.pid()?)?;
        let sender = Arc::clone(client);
        let elapsed = load(CONCURRENCY, CREATES, move |number| {
            let sender = Arc::clone(&sender);
            async move { sender.expect(Method::POST, PODS, pod(&format!("p-{round}-{number}"))).await.map(drop) }
        })
        .await?;
        ours.push(CREATES as f64 / elapsed.as_secs_f64());
        cpu.push((cpu_seconds(server.pid()?)? - before) / CREATES as f64 * 1e3);
    }
    let score = median(ours.iter().zip(&limits).map(|(ours, limit)| ours / limit).collect());
    Ok(Row {
        name: "create a 4 KiB pod, 32 at once",
        measured: format!("{:.0}/s, {:.2} CPU s per 1,000", median(ours), median(cpu)),
        limit: format!("{:.0}/s raw etcd transactions", median(limits)),
        score,
        goal: Goal::AtLeast(0.8, ""),
    })
}

async fn get(server: &Server, client: &Arc<Client>) -> Result<Row> {
    const POD: &str = "/api/v1/namespaces/default/pods/sample";
    let body = client.expect(Method::GET, POD, Bytes::new()).await?;
    let bare = Bare::start(&server.folder.path().join("bare"), &body)?;
    let limit_client = Arc::new(Client::connect(bare.address, bare.client_tls()?).await?);
    let (mut ours, mut limits, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let before = cpu_seconds(server.pid()?)?;
        for (client, rates) in [(&limit_client, &mut limits), (client, &mut ours)] {
            let sender = Arc::clone(client);
            let expected = body.len();
            let elapsed = load(CONCURRENCY, GETS, move |_| {
                let sender = Arc::clone(&sender);
                async move {
                    let answer = sender.expect(Method::GET, POD, Bytes::new()).await?;
                    anyhow::ensure!(answer.len() == expected, "an answer of {} bytes", answer.len());
                    Ok(())
                }
            })
            .await?;
            rates.push(GETS as f64 / elapsed.as_secs_f64());
        }
        cpu.push((cpu_seconds(server.pid()?)? - before) / GETS as f64 * 1e3);
    }
    let score = median(ours.iter().zip(&limits).map(|(ours, limit)| ours / limit).collect());
    Ok(Row {
        name: "GET a 4 KiB pod, consistent, HTTP/2",
        measured: format!("{:.0}/s, {:.3} CPU s per 1,000", median(ours), median(cpu)),
        limit: format!("{:.0}/s bare hyper and rustls", median(limits)),
        score,
        goal: Goal::AtLeast(0.7, ""),
    })
}

/// Pods need the namespace's ServiceAccount, which the controllers make; here only the API server runs.
async fn make_service_account(client: &Client) -> Result<()> {
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } });
    let path = "/api/v1/namespaces/default/serviceaccounts";
    client.expect(Method::POST, path, Bytes::from(account.to_string())).await.map(drop)
}
