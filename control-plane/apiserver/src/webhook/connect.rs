//! Connections to webhooks: TCP, then TLS under the webhook's name.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Address, Target, resolve::Services};

/// Where distributions keep the certificates a system trusts.
const SYSTEM_CA: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Connects to one target.
#[derive(Clone)]
pub(super) struct Connector {
    tls: TlsConnector,
    address: Address,
    services: Arc<Services>,
}

impl Connector {
    pub(super) fn new(target: &Target, services: Arc<Services>) -> Result<Self, String> {
        let ca = match std::str::from_utf8(&target.ca) {
            Ok("") => system_ca().to_owned(),
            Ok(ca) => ca.to_owned(),
            Err(_) => return Err("unable to load root certificates: unable to parse bytes as PEM block".to_owned()),
        };
        let mut config =
            skep_pki::client_config(&ca, None).map_err(|error| format!("unable to load root certificates: {error}"))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), address: target.address.clone(), services })
    }

    async fn connect(self, uri: Uri) -> Result<Stream, String> {
        let name = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let (host, port) = match &self.address {
            Address::Url(_) => (name.clone(), uri.port_u16().unwrap_or(443)),
            Address::Service { namespace, name, port, .. } => self.services.address(namespace, name, *port)?,
        };
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|error| dial(&host, port, &error))?;
        let _ = stream.set_nodelay(true);
        let server = ServerName::try_from(name.clone()).map_err(|error| error.to_string())?;
        let stream = self.tls.connect(server, stream).await.map_err(|error| certificate(&name, &error))?;
        Ok(Stream(TokioIo::new(stream)))
    }
}

fn system_ca() -> &'static str {
    static CA: OnceLock<String> = OnceLock::new();
    CA.get_or_init(|| SYSTEM_CA.iter().find_map(|path| std::fs::read_to_string(path).ok()).unwrap_or_default())
}

/// What Go says of a connection that did not come about.
fn dial(host: &str, port: u16, error: &std::io::Error) -> String {
    let why = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {host}:{port}: {why}")
}

/// What Go says of a certificate that does not convince.
fn certificate(name: &str, error: &std::io::Error) -> String {
    use rustls::{CertificateError, Error};
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let why = match inner {
        Some(Error::InvalidCertificate(certificate)) => match certificate {
            // The latter is an authority of the same name with another key.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "certificate signed by unknown authority".to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("certificate is not valid for any names, but wanted to match {name}")
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "certificate has expired or is not yet valid".to_owned()
            }
            other => format!("{other:?}"),
        },
        _ => return error.to_string(),
    };
    format!("tls: failed to verify certificate: x509: {why}")
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = Unreachable;
    type Future = BoxFuture<'static, Result<Stream, Unreachable>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Unreachable>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect(uri).await.map_err(Unreachable) })
    }
}

/// Why a webhook could not be reached.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unreachable(String);

/// A connection, which knows the version of HTTP it was made for.
pub(super) struct Stream(TokioIo<TlsStream<TcpStream>>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let connected = Connected::new();
        match self.0.inner().get_ref().1.alpn_protocol() {
            Some(b"h2") => connected.negotiated_h2(),
            _ => connected,
        }
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }
}
