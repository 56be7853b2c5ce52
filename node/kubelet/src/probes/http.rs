//! HTTP requests to containers, for probes and lifecycle hooks.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// What probes call themselves.
pub(crate) const PROBE: &str = "kube-probe/1.35";
/// What lifecycle hooks call themselves.
pub(crate) const HOOK: &str = "kube-lifecycle/1.35";

/// What upstream reads of a body for its messages.
const MAX_BODY: usize = 10 << 10;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The request could not even be made.
    #[error("{0}")]
    Request(String),
    /// The container did not answer.
    #[error("Get {url:?}: {reason}")]
    NoAnswer { url: String, reason: String },
}

/// Asks; answers the status code.
pub(crate) async fn get(
    container: &Container,
    pod_ip: &str,
    get: &HTTPGetAction,
    agent: &'static str,
) -> Result<u16, Error> {
    let Some(url) = url(container, pod_ip, get) else { return Err(Error::Request(bad_port(&get.port))) };
    let malformed = || Error::Request(format!("cannot parse {url:?}"));
    let uri = url.parse::<Uri>().map_err(|_| malformed())?;
    let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else { return Err(malformed()) };
    let host = host.trim_matches(['[', ']']);
    let failed = |reason: String| Error::NoAnswer { url: url.clone(), reason };
    let stream = TcpStream::connect((host, port)).await;
    let stream = stream.map_err(|error| failed(format!("dial tcp {host}:{port}: {error}")))?;
    let answer = if uri.scheme_str() == Some("https") {
        match tls(host, stream).await {
            Ok(stream) => exchange(&uri, get, agent, stream).await,
            Err(error) => Err(error),
        }
    } else {
        exchange(&uri, get, agent, stream).await
    };
    answer.map_err(failed)
}

/// A port that is neither a number nor a name of the container's.
pub(super) fn bad_port(port: &IntOrString) -> String {
    let port = match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    };
    format!("invalid port number or name: {port}")
}

pub(super) fn port(container: &Container, port: &IntOrString) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            named.map(|port| port.container_port).or_else(|| name.parse().ok())?
        }
    };
    u16::try_from(number).ok().filter(|port| *port > 0)
}

/// The URL an action means; `None` if its port means nothing.
pub(super) fn url(container: &Container, pod_ip: &str, get: &HTTPGetAction) -> Option<String> {
    let port = port(container, &get.port)?;
    let scheme = get.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let host = get.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(pod_ip);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let path = get.path.as_deref().unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    Some(format!("{scheme}://{host}:{port}{slash}{path}"))
}

async fn exchange(
    uri: &Uri,
    get: &HTTPGetAction,
    agent: &'static str,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<u16, String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| text(&error))?;
    let connection = AbortOnDrop(tokio::spawn(connection));
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::get(path)
        .header(header::USER_AGENT, agent)
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| text(&error))?;
    let headers = request.headers_mut();
    for wanted in get.http_headers.iter().flatten() {
        let name = HeaderName::try_from(wanted.name.as_str()).map_err(|error| text(&error))?;
        let value = HeaderValue::try_from(wanted.value.as_str()).map_err(|error| text(&error))?;
        headers.insert(name, value);
    }
    if !headers.contains_key(header::HOST) {
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        headers.insert(header::HOST, HeaderValue::try_from(authority).map_err(|error| text(&error))?);
    }
    let response = sender.send_request(request).await.map_err(|error| text(&error))?;
    let status = response.status().as_u16();
    // Reading a little lets a well-behaved server finish its answer.
    let _ = Limited::new(response.into_body(), MAX_BODY).collect().await;
    drop(connection);
    Ok(status)
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn tls(host: &str, stream: TcpStream) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.map_err(|error| error.to_string())
}

/// Upstream's HTTPS probes verify no certificate: a pod serves whatever it has.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
