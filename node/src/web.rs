//! A small HTTP server for questions that have short answers: metrics, health.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Connections a server has at once; the next ones wait in the kernel.
const CONNECTIONS: usize = 64;

/// How long a client may take to send a request, and may keep a connection without one.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long before a taken port is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// An answer.
pub(crate) type Answer = Response<Full<Bytes>>;

/// Who answers: is given the path of a GET (or HEAD).
pub(crate) trait Answers: Send + Sync + 'static {
    /// The answer for a path.
    fn answer(&self, path: &str) -> impl Future<Output = Answer> + Send;
}

/// Serves until dropped. A port that somebody else has is tried again and again: what is asked here is not what the node is
/// for. `what` says in the log whose port it is.
pub(crate) async fn serve(address: SocketAddr, what: &str, answers: Arc<impl Answers>) -> Infallible {
    let mut warned = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) if !warned => {
                tracing::error!(%address, %error, "cannot serve {what}, trying again");
                warned = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    };
    tracing::debug!(%address, "serving {what}");
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        // Never closed.
        let seat = seats.clone().acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let answers = answers.clone();
                connections.spawn(async move {
                    connection(stream, answers).await;
                    drop(seat);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: waiting helps, spinning does not.
                tracing::warn!(%address, %error, "could not accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, answers: Arc<impl Answers>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answers = answers.clone();
        async move {
            Ok::<_, Infallible>(match *request.method() {
                Method::GET | Method::HEAD => answers.answer(request.uri().path()).await,
                _ => text(StatusCode::METHOD_NOT_ALLOWED, "only GET is understood\n"),
            })
        }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection ended");
    }
}

/// An answer of that type.
pub(crate) fn with_type(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    answer
}

/// An answer for people.
pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    with_type(status, "text/plain; charset=utf-8", body)
}

/// There is nothing at that path.
pub(crate) fn not_found() -> Answer {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}
