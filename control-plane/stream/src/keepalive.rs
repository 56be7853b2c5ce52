//! Finds out that a peer has vanished without a word.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Silence before the first probe, and between probes; upstream's (Go's) default.
const PERIOD: Duration = Duration::from_secs(15);
/// Probes without an answer before the connection counts as broken.
const PROBES: u32 = 9;

/// Lets the kernel probe the peer of a connection that is silent, so that one whose machine is gone is noticed within
/// minutes. A socket that does not take the options stays as it is.
pub fn keep_alive(stream: &TcpStream) {
    let options = TcpKeepalive::new().with_time(PERIOD).with_interval(PERIOD).with_retries(PROBES);
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&options) {
        tracing::debug!(%error, "a connection cannot be probed while it is silent");
    }
}
