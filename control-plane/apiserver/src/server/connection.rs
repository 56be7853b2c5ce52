//! One connection, from its TLS handshake to its end.

use std::{
    future::pending,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use hyper::server::conn::{http1, http2};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use super::idle::{Activity, Noted};
use crate::service::ApiService;

/// A client must have shaken hands by then.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A client must have sent the head of a request by then.
const HEADER_TIMEOUT: Duration = Duration::from_secs(32);
/// An HTTP/2 connection that asks for nothing this long is ended.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// How long an HTTP/2 client without requests may take to answer that its connection ends.
const GOODBYE: Duration = Duration::from_secs(3);
/// Requests of one HTTP/2 connection at once (upstream: 250, for clients that share connections 1000).
const MAX_STREAMS: u32 = 1000;
/// How often a silent HTTP/2 client is asked whether it is still there, and how long it may take to say so.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

/// Serves one connection to its end. Once `stop` is cancelled it ends with the requests that are under way.
pub(super) async fn serve(stream: TcpStream, acceptor: TlsAcceptor, service: ApiService, stop: CancellationToken) {
    // Answers are small and awaited: they must not wait for more to fill a packet.
    let _ = stream.set_nodelay(true);
    skep_stream::keepalive::keep_alive(&stream);
    let shaken = stop.run_until_cancelled(timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)));
    let tls = match shaken.await {
        Some(Ok(Ok(tls))) => tls,
        Some(Ok(Err(error))) => {
            tracing::debug!(%error, "TLS handshake failed");
            return;
        }
        Some(Err(_)) | None => return,
    };
    let service = service.identified(tls.get_ref().1);
    // ALPN has decided; to wait for the first bytes to tell would be to wait without a limit.
    let ended = match tls.get_ref().1.alpn_protocol() {
        Some(b"h2") => second(tls, service, stop).await,
        _ => first(tls, service, stop).await,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}

async fn first(tls: TlsStream<TcpStream>, service: ApiService, stop: CancellationToken) -> hyper::Result<()> {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let connection = builder.serve_connection(TokioIo::new(tls), TowerToHyperService::new(service));
    drive(connection.with_upgrades(), stop.cancelled(), |connection| connection.graceful_shutdown(), pending()).await
}

async fn second(tls: TlsStream<TcpStream>, service: ApiService, stop: CancellationToken) -> hyper::Result<()> {
    let activity = Arc::new(Activity::default());
    let service = Noted { service, activity: Arc::clone(&activity) };
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1);
    let connection = builder.serve_connection(TokioIo::new(tls), TowerToHyperService::new(service));
    let end = async {
        tokio::select! {
            () = stop.cancelled() => {}
            () = activity.ceased(HEADER_TIMEOUT, IDLE_TIMEOUT) => {}
        }
    };
    // A client that has died or never began does not answer the goodbye.
    let over = activity.ceased(GOODBYE, GOODBYE);
    drive(connection, end, |connection| connection.graceful_shutdown(), over).await
}

/// Runs a connection until it ends by itself. After `end` it takes no further requests (`last` tells it so) and ends with those
/// that are under way, or with `over`.
async fn drive<C>(
    connection: C,
    end: impl Future<Output = ()>,
    last: fn(Pin<&mut C>),
    over: impl Future<Output = ()>,
) -> hyper::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = end => {}
    }
    last(connection.as_mut());
    tokio::select! {
        ended = connection => ended,
        () = over => Ok(()),
    }
}
