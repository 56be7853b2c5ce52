//! A server, and a well-behaved client that asks it for things while others do harm.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{Method, StatusCode};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use skep_pki::{Kubeconfig, client_config};
use skep_tests::bench::client::{Client, Protocol};
use skep_tests::bench::usage::{forget_peak, peak_rss_mb, rss_mb};
use skep_tests::cluster::LIMIT;
use skep_tests::masters::Masters;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) const HTTP1: &[u8] = b"http/1.1";
pub(crate) const HTTP2: &[u8] = b"h2";
pub(crate) const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Nothing here is slow by itself: a wait this long has failed.
pub(crate) const LONG: Duration = LIMIT;

/// A server, and how to reach it.
pub(crate) struct World {
    masters: Masters,
    pub(crate) address: SocketAddr,
    tls: rustls::ClientConfig,
}

/// Starts a server and runs `test` against it.
pub(crate) fn run<F: Future<Output = Result<()>>>(test: impl FnOnce(Arc<World>) -> F) -> Result<()> {
    let world = World::start()?;
    tokio::runtime::Runtime::new()?.block_on(async {
        world.settle().await?;
        test(world).await
    })
}

impl World {
    fn start() -> Result<Arc<Self>> {
        let masters = Masters::start(1)?;
        let credentials = Kubeconfig::load(&masters.kubeconfig(0))?.credentials()?;
        let tls =
            client_config(&credentials.ca.context("admin.conf names no authority")?, credentials.identity.as_ref())?;
        let address = masters.url(0).trim_start_matches("https://").parse()?;
        Ok(Arc::new(Self { masters, address, tls }))
    }

    /// Waits for what controllers put into the namespace: nobody but the test changes it afterwards.
    async fn settle(&self) -> Result<()> {
        let client = self.client(1).await?;
        let path = format!("{MAPS}/kube-root-ca.crt");
        let wait = async {
            while client.send(Method::GET, &path, Bytes::new()).await?.0 != StatusCode::OK {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok(())
        };
        timeout(LIMIT, wait).await.context("there is no kube-root-ca.crt")?
    }

    /// A client of a few HTTP/2 connections.
    pub(crate) async fn client(&self, connections: usize) -> Result<Client> {
        Client::connect_with(self.address, self.tls.clone(), Protocol::Http2, connections).await
    }

    pub(crate) fn pid(&self) -> Result<i32> {
        self.masters.server(0).pid().context("the server has ended")
    }

    /// A connection that speaks what the test writes; its kernel takes little of what it does not read.
    pub(crate) async fn raw(&self, protocol: &[u8]) -> Result<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(8 * 1024)?;
        let stream = socket.connect(self.address).await?;
        let mut tls = self.tls.clone();
        tls.alpn_protocols = vec![protocol.to_vec()];
        let name = ServerName::from(self.address.ip());
        Ok(TlsConnector::from(Arc::new(tls)).connect(name, stream).await?)
    }

    /// How many descriptors the server has open.
    pub(crate) fn descriptors(&self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.pid()?))?.count())
    }

    /// Starts to measure the server's memory.
    pub(crate) fn growth(&self) -> Result<Growth> {
        let pid = self.pid()?;
        forget_peak(pid)?;
        Ok(Growth { pid, before: rss_mb(pid)? })
    }

    /// Runs `abuse` while a well-behaved client goes on with its work: none of its requests may fail.
    pub(crate) async fn while_others_are_served(
        self: &Arc<Self>,
        abuse: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let canary = Canary::start(self).await?;
        let outcome = abuse.await;
        let served = canary.stop().await;
        outcome?;
        let served = served?;
        eprintln!("meanwhile {served} rounds of requests were served");
        ensure!(served > 0, "nobody asked anything meanwhile");
        Ok(())
    }
}

/// How the server's memory was when it was begun.
pub(crate) struct Growth {
    pid: i32,
    before: f64,
}

impl Growth {
    /// By how much it grew at most, in MB; an error when that is more than `most`.
    pub(crate) fn below(&self, most: f64) -> Result<f64> {
        let growth = peak_rss_mb(self.pid)? - self.before;
        eprintln!("the server grew by {growth:.0} MB at most, {most:.0} MB were allowed");
        ensure!(growth < most, "the server grew by {growth:.0} MB, more than {most:.0} MB");
        Ok(growth)
    }

    /// By how much it has grown now, in MB.
    pub(crate) fn now(&self) -> Result<f64> {
        Ok(rss_mb(self.pid)? - self.before)
    }
}

/// Reads, writes and asks for the server's health again and again, on an old connection and on new ones.
struct Canary {
    done: Arc<AtomicBool>,
    task: JoinHandle<Result<u64>>,
}

impl Canary {
    async fn start(world: &Arc<World>) -> Result<Self> {
        let done = Arc::new(AtomicBool::new(false));
        let (ended, world) = (Arc::clone(&done), Arc::clone(world));
        let old = world.client(1).await?;
        let task = tokio::spawn(async move {
            let mut rounds = 0;
            while !ended.load(Ordering::SeqCst) {
                let new = timeout(LIMIT, world.client(1)).await.context("no connection is accepted")??;
                for client in [&old, &new] {
                    timeout(LIMIT, round(client, rounds)).await.context("the canary waits in vain")??;
                }
                rounds += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(rounds)
        });
        Ok(Self { done, task })
    }

    async fn stop(self) -> Result<u64> {
        self.done.store(true, Ordering::SeqCst);
        self.task.await?
    }
}

async fn round(client: &Client, number: u64) -> Result<()> {
    for path in ["/livez", "/readyz", "/healthz", "/api/v1/namespaces/default", "/api/v1/namespaces?limit=5"] {
        client.expect(Method::GET, path, Bytes::new()).await?;
    }
    let name = format!("canary-{number}");
    let namespace = "/api/v1/namespaces/kube-public/configmaps";
    let (status, answer) = client.send(Method::POST, namespace, map(&name, "sings")).await?;
    ensure!(status.is_success() || status == StatusCode::CONFLICT, "{status}: {answer:?}");
    let path = format!("{namespace}/{name}");
    let read = client.expect(Method::GET, &path, Bytes::new()).await?;
    ensure!(serde_json::from_slice::<Value>(&read)?["data"]["value"] == "sings", "{read:?}");
    Ok(())
}

pub(crate) fn map(name: &str, value: &str) -> Bytes {
    json!({"metadata": {"name": name}, "data": {"value": value}}).to_string().into()
}

/// Waits until `happened`, and says what was awaited if it does not.
pub(crate) async fn until(what: &str, mut happened: impl FnMut() -> Result<bool>) -> Result<()> {
    let waited = timeout(LONG, async {
        while !happened()? {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    });
    waited.await.with_context(|| format!("in vain: {what}"))?
}

pub(crate) async fn version(client: &Client) -> Result<String> {
    let list = client.expect(Method::GET, &format!("{MAPS}?limit=1"), Bytes::new()).await?;
    let list: Value = serde_json::from_slice(&list)?;
    Ok(list["metadata"]["resourceVersion"].as_str().context("no resourceVersion")?.to_owned())
}

/// How many bytes come until the answer or the connection ends.
pub(crate) async fn to_the_end(stream: &mut TlsStream<TcpStream>) -> Result<usize> {
    let (mut buffer, mut heard, mut tail) = (vec![0; 64 * 1024], 0, Vec::new());
    loop {
        let length = match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return Ok(heard),
            Ok(length) => length,
        };
        heard += length;
        tail.extend_from_slice(&buffer[..length]);
        // The last chunk.
        if tail.ends_with(b"\r\n0\r\n\r\n") {
            return Ok(heard);
        }
        tail.drain(..tail.len().saturating_sub(16));
    }
}
