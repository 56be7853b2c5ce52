//! Connections to other servers, and what to say when there is none.

use std::{error::Error as _, io, time::Duration};

use rustls_pki_types::ServerName;
use skep_stream::keepalive;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// How long it may take to connect and shake hands; upstream's dialer has the same limit.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How a server is spoken to.
#[derive(Clone)]
pub(crate) enum Transport {
    /// In the clear.
    Plain,
    /// TLS with a server that goes by this name.
    Tls(TlsConnector, ServerName<'static>),
}

/// A server and how it is spoken to.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) transport: Transport,
    /// An address or a name; no brackets.
    pub(crate) host: String,
    /// As asked for; none for the protocol's own.
    pub(crate) port: Option<u16>,
}

/// A byte stream, plain or not.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Target {
    /// `host` or `host:port`, with brackets where an address needs them.
    pub(crate) fn authority(&self) -> String {
        let host = bracketed(&self.host);
        match self.port {
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    }

    /// Connects. The error is for people, in the words of upstream's dialer.
    pub(super) async fn connect(&self) -> Result<Box<dyn Io>, String> {
        let own = if matches!(self.transport, Transport::Plain) { 80 } else { 443 };
        let port = self.port.unwrap_or(own);
        let place = format!("{}:{port}", bracketed(&self.host));
        timeout(CONNECT_TIMEOUT, self.dial(port))
            .await
            .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
            .map_err(|error| dial_error(&place, &error))
    }

    async fn dial(&self, port: u16) -> io::Result<Box<dyn Io>> {
        let stream = TcpStream::connect((self.host.as_str(), port)).await?;
        let _ = stream.set_nodelay(true);
        keepalive::keep_alive(&stream);
        Ok(match &self.transport {
            Transport::Plain => Box::new(stream),
            Transport::Tls(connector, name) => Box::new(connector.connect(name.clone(), stream).await?),
        })
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

fn dial_error(place: &str, error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused",
        io::ErrorKind::HostUnreachable => "connect: no route to host",
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable",
        io::ErrorKind::TimedOut => "i/o timeout",
        io::ErrorKind::UnexpectedEof => return "EOF".to_owned(),
        // A handshake that failed is no matter of the address.
        io::ErrorKind::InvalidData => return format!("tls: {error}"),
        _ => return format!("dial tcp {place}: {error}"),
    };
    format!("dial tcp {place}: {why}")
}

/// What to say of a server that broke off before it answered.
pub(super) fn broken(error: &hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return "EOF".to_owned();
    }
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    match io.map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionReset) => "read: connection reset by peer".to_owned(),
        Some(io::ErrorKind::UnexpectedEof) => "EOF".to_owned(),
        _ if error.is_parse() => format!("net/http: HTTP/1.x transport connection broken: {error}"),
        _ => error.to_string(),
    }
}
