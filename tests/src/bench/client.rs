//! A lean HTTP client, so that what is measured is the server.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How many connections share the requests unless said otherwise.
const CONNECTIONS: usize = 4;

/// Which HTTP is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A connection serves one request at a time: there must be as many as requests under way.
    Http1,
    /// Requests go round among the connections.
    Http2,
}

impl Protocol {
    fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}

/// Requests to one server over a few connections.
pub struct Client {
    senders: Senders,
    address: SocketAddr,
}

enum Senders {
    /// Those that are free.
    Http1(Mutex<Vec<http1::SendRequest<Full<Bytes>>>>),
    Http2(Vec<http2::SendRequest<Full<Bytes>>>, AtomicUsize),
}

impl Client {
    /// Connects to `address` with HTTP/2; `tls` must trust the certificate it shows for its IP address.
    pub async fn connect(address: SocketAddr, tls: rustls::ClientConfig) -> Result<Self> {
        Self::connect_with(address, tls, Protocol::Http2, CONNECTIONS).await
    }

    /// The same with a choice.
    pub async fn connect_with(
        address: SocketAddr,
        mut tls: rustls::ClientConfig,
        protocol: Protocol,
        connections: usize,
    ) -> Result<Self> {
        tls.alpn_protocols = vec![protocol.alpn().to_vec()];
        let connector = TlsConnector::from(Arc::new(tls));
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for _ in 0..connections {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let stream = TokioIo::new(connector.connect(ServerName::from(address.ip()), stream).await?);
            // Each connection ends with its sender.
            match protocol {
                Protocol::Http1 => {
                    let (sender, connection) = http1::handshake(stream).await?;
                    tokio::spawn(connection);
                    first.push(sender);
                }
                Protocol::Http2 => {
                    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
                    tokio::spawn(connection);
                    second.push(sender);
                }
            }
        }
        let senders = match protocol {
            Protocol::Http1 => Senders::Http1(Mutex::new(first)),
            Protocol::Http2 => Senders::Http2(second, AtomicUsize::new(0)),
        };
        Ok(Self { senders, address })
    }

    /// Sends one request, its body in JSON, and reads the whole answer.
    pub async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes)> {
        self.send_typed(method, path, "application/json", body).await
    }

    /// Like [`Client::send`] with a body of some media type.
    pub async fn send_typed(
        &self,
        method: Method,
        path: &str,
        media_type: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes)> {
        let request = self.request(method, path, media_type, body)?;
        self.exchange(request, async |body| Ok(body.collect().await?.to_bytes())).await
    }

    /// Like [`Client::send`]; any status but a success is an error.
    pub async fn expect(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes> {
        let (status, answer) = self.send(method, path, body).await?;
        succeeded(path, status, &answer)
    }

    /// A PATCH of some media type, which must succeed.
    pub async fn patch(&self, path: &str, media_type: &str, body: Bytes) -> Result<Bytes> {
        let request = self.request(Method::PATCH, path, media_type, body)?;
        let (status, answer) = self.exchange(request, async |body| Ok(body.collect().await?.to_bytes())).await?;
        succeeded(path, status, &answer)
    }

    /// A GET whose answer is counted and not kept: how many bytes it has.
    pub async fn count(&self, path: &str) -> Result<usize> {
        let request = self.request(Method::GET, path, "", Bytes::new())?;
        let (status, count) = self
            .exchange(request, async |mut body| {
                let mut count = 0;
                while let Some(frame) = body.frame().await {
                    count += frame?.data_ref().map_or(0, Bytes::len);
                }
                Ok(count)
            })
            .await?;
        ensure!(status.is_success(), "{path}: {status}");
        Ok(count)
    }

    /// An answer to be read while it comes. HTTP/2 only.
    pub async fn stream(&self, path: &str, accept: &str) -> Result<Response<Incoming>> {
        let Senders::Http2(senders, next) = &self.senders else { anyhow::bail!("streams share connections") };
        let mut request = self.request(Method::GET, path, "", Bytes::new())?;
        request.headers_mut().insert(header::ACCEPT, accept.parse()?);
        let mut sender = turn(senders, next).clone();
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        ensure!(response.status().is_success(), "{path}: {}", response.status());
        Ok(response)
    }

    fn request(&self, method: Method, path: &str, media_type: &str, body: Bytes) -> Result<Request<Full<Bytes>>> {
        let builder = match &self.senders {
            Senders::Http1(_) => Request::builder().uri(path).header(header::HOST, self.address.to_string()),
            Senders::Http2(..) => Request::builder().uri(format!("https://{}{path}", self.address)),
        };
        let mut builder = builder.method(method);
        if !body.is_empty() {
            builder = builder.header(header::CONTENT_TYPE, media_type);
        }
        Ok(builder.body(Full::new(body))?)
    }

    async fn exchange<T>(
        &self,
        request: Request<Full<Bytes>>,
        read: impl AsyncFnOnce(Incoming) -> Result<T>,
    ) -> Result<(StatusCode, T)> {
        match &self.senders {
            Senders::Http1(free) => {
                let taken = free.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let mut sender = taken.context("more requests at once than connections")?;
                sender.ready().await?;
                let (head, body) = sender.send_request(request).await?.into_parts();
                let body = read(body).await.context("the answer broke off")?;
                free.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
                Ok((head.status, body))
            }
            Senders::Http2(senders, next) => {
                let mut sender = turn(senders, next).clone();
                sender.ready().await?;
                let (head, body) = sender.send_request(request).await?.into_parts();
                Ok((head.status, read(body).await.context("the answer broke off")?))
            }
        }
    }
}

fn turn<'a, T>(all: &'a [T], next: &AtomicUsize) -> &'a T {
    &all[next.fetch_add(1, Ordering::Relaxed) % all.len()]
}

fn succeeded(path: &str, status: StatusCode, answer: &Bytes) -> Result<Bytes> {
    ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(answer));
    Ok(answer.clone())
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
