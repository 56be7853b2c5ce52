//! A lean HTTP/2 client, so that what is measured is the server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How many connections share the requests.
const CONNECTIONS: usize = 4;

/// Requests to one server over a few connections.
pub struct Client {
    senders: Vec<SendRequest<Full<Bytes>>>,
    base: String,
    next: AtomicUsize,
}

impl Client {
    /// Connects to `address`; `tls` must trust the certificate it shows for its IP address.
    pub async fn connect(address: SocketAddr, mut tls: rustls::ClientConfig) -> Result<Self> {
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let connector = TlsConnector::from(Arc::new(tls));
        let mut senders = Vec::new();
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let stream = connector.connect(ServerName::from(address.ip()), stream).await?;
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            // Ends with its sender.
            tokio::spawn(connection);
            senders.push(sender);
        }
        Ok(Self { senders, base: format!("https://{address}"), next: AtomicUsize::new(0) })
    }

    /// Sends one request and reads the whole answer.
    pub async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes)> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let mut sender = self.senders[turn % self.senders.len()].clone();
        sender.ready().await?;
        let response = sender.send_request(request.body(Full::new(body))?).await?;
        let status = response.status();
        let body = response.into_body().collect().await.context("the answer broke off")?.to_bytes();
        Ok((status, body))
    }

    /// Like [`Client::send`]; any status but a success is an error.
    pub async fn expect(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes> {
        let (status, answer) = self.send(method, path, body).await?;
        ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&answer));
        Ok(answer)
    }
}

/// Runs `total` operations, `concurrency` at a time, and returns how long that took; the first failure ends it.
pub async fn load<F, Fut>(concurrency: usize, total: usize, operation: F) -> Result<Duration>
where
    F: Fn(usize) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<()>> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let workers: Vec<_> = (0..concurrency)
        .map(|_| {
            let (next, operation) = (Arc::clone(&next), operation.clone());
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= total {
                        return Ok::<_, anyhow::Error>(());
                    }
                    operation(number).await?;
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await??;
    }
    Ok(start.elapsed())
}
