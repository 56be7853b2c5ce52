//! A real HTTP server on loopback for the API server to pass requests on to. Gone when dropped.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::TlsAcceptor;

pub(crate) type Answer = Response<BoxBody<Bytes, Infallible>>;

pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    /// Connections that are open now.
    pub(crate) open: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Backend {
    pub(crate) async fn start<H>(tls: Option<ServerConfig>, handler: H) -> Self
    where
        H: Fn(Request<Incoming>) -> BoxFuture<'static, Answer> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let open = Arc::new(AtomicUsize::new(0));
        let acceptor = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
        let handler = Arc::new(handler);
        let counter = Arc::clone(&open);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counter.fetch_add(1, Ordering::SeqCst);
                let (guard, acceptor, handler) = (Open(Arc::clone(&counter)), acceptor.clone(), Arc::clone(&handler));
                connections.spawn(async move {
                    let _guard = guard;
                    let service = service_fn(move |request| {
                        let handler = Arc::clone(&handler);
                        async move { Ok::<_, Infallible>(handler(request).await) }
                    });
                    let builder = http1::Builder::new();
                    let _ = match acceptor {
                        None => builder.serve_connection(TokioIo::new(stream), service).with_upgrades().await,
                        Some(acceptor) => {
                            let Ok(tls) = acceptor.accept(stream).await else { return };
                            builder.serve_connection(TokioIo::new(tls), service).with_upgrades().await
                        }
                    };
                });
            }
        });
        Self { address, open, task }
    }
}

pub(crate) fn answer(code: u16, content_type: &str, body: impl Into<Bytes>) -> Answer {
    Response::builder().status(code).header("content-type", content_type).body(Full::new(body.into()).boxed()).unwrap()
}

/// What was asked, as JSON.
pub(crate) async fn echo(request: Request<Incoming>) -> Value {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let headers: serde_json::Map<String, Value> =
        parts.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().into())).collect();
    json!({
        "method": parts.method.as_str(),
        "uri": parts.uri.to_string(),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    })
}
