//! What the rows of the API are measured on: a `skep-server` with nothing but the API, and its etcd, on loopback.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::Method;
use serde_json::json;
use skep_pki::{Credentials, Kubeconfig, client_config};
use tempfile::TempDir;
use xtask::command::require;
use xtask::process::Daemon;
use xtask::{wait, workspace};

use super::client::{Client, Protocol, load};

/// How many requests are under way at once, as in the published figures of upstream's API server.
pub const CONCURRENCY: usize = 32;
/// The namespace everything is measured in.
pub const NAMESPACE: &str = "default";

/// Who runs the etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Etcd {
    /// The server, as it does unless told of another.
    Own,
    /// Somebody else: the server is given its endpoint.
    External,
}

/// The running pair; both end when this is dropped.
pub struct Server {
    /// Not started when the server runs its own.
    etcd: Daemon,
    server: Daemon,
    etcd_url: String,
    address: SocketAddr,
    folder: TempDir,
}

impl Server {
    /// Starts a server with its own etcd and waits until the API is ready.
    pub async fn start() -> Result<Self> {
        Self::start_with(Etcd::Own).await
    }

    /// Starts both and waits until the API is ready.
    pub async fn start_with(etcd: Etcd) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("skep-bench").tempdir()?;
        let (client_port, peer_port, api_port) = (free_port()?, free_port()?, free_port()?);
        let etcd_url = format!("http://127.0.0.1:{client_port}");
        let started = Self {
            etcd: Daemon::new("etcd", folder.path()),
            server: Daemon::new("skep-server", folder.path()),
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), api_port),
            etcd_url,
            folder,
        };
        let (data, url) = (started.folder.path(), &started.etcd_url);
        let port = client_port.to_string();
        let which = match etcd {
            Etcd::Own => ["--etcd-client-port", &port],
            Etcd::External => {
                let peer_url = format!("http://127.0.0.1:{peer_port}");
                started.etcd.start(
                    Command::new(require("etcd")?)
                        .arg("--data-dir")
                        .arg(data.join("etcd"))
                        .args(["--listen-client-urls", url, "--advertise-client-urls", url])
                        .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
                        .args(["--initial-cluster", &format!("default={peer_url}")]),
                )?;
                ["--etcd-endpoints", url]
            }
        };
        started.server.start(
            Command::new(workspace::programs(super::profile::chosen()).join("skep-server"))
                .args(["run", "--components", "apiserver", "--bind-address", "127.0.0.1"])
                // Only written into Endpoints that nobody follows here; a loopback address is refused.
                .args(["--advertise-address", "198.51.100.1", "--secure-port", &api_port.to_string()])
                .args(which)
                .arg("--data-dir")
                .arg(data.join("server")),
        )?;
        started.wait_ready().await?;
        Ok(started)
    }

    async fn wait_ready(&self) -> Result<()> {
        for _ in 0..600 {
            self.server.check()?;
            if let Ok(client) = self.client(Protocol::Http2, 1).await
                && client.expect(Method::GET, "/readyz", Bytes::new()).await.is_ok()
            {
                return make_service_account(&client).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("skep-server is not ready: {}", self.server.log_tail(10))
    }

    /// An administrator's client of its own connections.
    pub async fn client(&self, protocol: Protocol, connections: usize) -> Result<Client> {
        let credentials = self.credentials()?;
        let ca = credentials.ca.context("admin.conf names no authority")?;
        let tls = client_config(&ca, credentials.identity.as_ref())?;
        Client::connect_with(self.address, tls, protocol, connections).await
    }

    fn credentials(&self) -> Result<Credentials> {
        let config = self.folder.path().join("server/admin.conf");
        wait::until("skep-server's admin.conf", Duration::from_secs(60), || {
            self.server.check()?;
            Ok(Kubeconfig::load(&config)?.credentials()?)
        })
    }

    /// A plain client of the same etcd.
    pub async fn etcd(&self) -> Result<etcd_client::Client> {
        Ok(etcd_client::Client::connect([&self.etcd_url], None).await?)
    }

    /// The server's process.
    pub fn pid(&self) -> Result<i32> {
        self.server.pid().context("skep-server has ended")
    }

    /// A folder for files of the measurement.
    pub fn folder(&self) -> &Path {
        self.folder.path()
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

/// Pods need the namespace's ServiceAccount, which the controllers make; here only the API server runs.
async fn make_service_account(client: &Client) -> Result<()> {
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } });
    let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
    client.expect(Method::POST, &path, Bytes::from(account.to_string())).await.map(drop)
}

/// The path of a pod; of all of them without a name.
pub fn pod_path(name: &str) -> String {
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    if name.is_empty() { pods } else { format!("{pods}/{name}") }
}

/// A pod that takes 4 KiB as it is stored, with what the server adds (checked by [`make_pods`]); `number` decides its node (of a hundred) and every hundredth is marked.
pub fn pod(name: &str, number: usize) -> Bytes {
    let filler = "x".repeat(1_950);
    let share = if number.is_multiple_of(100) { "one-percent" } else { "rest" };
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": "bench", "share": share }, "annotations": { "filler": filler } },
        "spec": {
            "containers": [{ "name": "c", "image": "localhost/skep/toolbox:1" }],
            "nodeName": format!("node-{}", number % 100),
        },
    });
    Bytes::from(pod.to_string())
}

/// Creates `count` pods called `<prefix><number>`.
pub async fn make_pods(client: &Arc<Client>, prefix: &'static str, count: usize) -> Result<()> {
    let client = Arc::clone(client);
    load(CONCURRENCY, count, move |number| {
        let client = Arc::clone(&client);
        async move {
            let stored = client.expect(Method::POST, &pod_path(""), pod(&format!("{prefix}{number}"), number)).await?;
            anyhow::ensure!(stored.len().abs_diff(4096) < 64, "the pod takes {} bytes and not 4 KiB", stored.len());
            Ok(())
        }
    })
    .await
    .map(drop)
}
