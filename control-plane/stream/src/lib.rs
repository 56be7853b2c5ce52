//! Connections that leave HTTP: what `kubectl exec`, `attach`, `cp` and `port-forward` run over.
//!
//! A client upgrades its connection to SPDY/3.1 or to WebSocket, and the API server and the node pass it on until it
//! reaches the container runtime ([`upgrade`], [`tunnel`]). Runtimes speak SPDY/3.1 and WebSocket up to
//! `v4.channel.k8s.io`; what newer clients speak is translated on the way (KEP-4006): [`remote_command`] for
//! `v5.channel.k8s.io`, [`spdy_tunnel`] for port-forward.
#![forbid(unsafe_code)]

mod activity;
pub mod keepalive;
pub mod remote_command;
pub mod spdy;
pub mod spdy_tunnel;
pub mod tunnel;
pub mod upgrade;
pub mod websocket;

use std::time::Duration;

/// How long a connection may carry nothing before it is ended; upstream's `--streaming-connection-idle-timeout`.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(4 * 3600);

/// How long what is still under way in one direction may take once the other direction has ended.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How much is read at once, in each direction.
const BUFFER: usize = 32 * 1024;

/// What ends a connection before its time.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Nothing was carried for [`IDLE_TIMEOUT`], or what the caller set.
    #[error("the connection was idle for {} seconds", .0.as_secs())]
    Idle(Duration),
    /// The peer spoke HTTP wrongly.
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    /// The peer spoke WebSocket wrongly.
    #[error("WebSocket: {0}")]
    WebSocket(Box<tokio_tungstenite::tungstenite::Error>),
    /// The peer spoke SPDY wrongly.
    #[error("SPDY: {0}")]
    Spdy(&'static str),
}

impl From<tokio_tungstenite::tungstenite::Error> for Error {
    fn from(error: tokio_tungstenite::tungstenite::Error) -> Self {
        Error::WebSocket(Box::new(error))
    }
}
