//! Requests to the kubelet of a node: what only the node knows (logs) and reaches (streams into containers).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderMap, Method, Request, Response, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use skep_api::status::StatusError;
use skep_stream::{
    keepalive,
    upgrade::{self, Answer},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::http::body::{Body, BodyError};

/// The longest time to reach a kubelet and shake hands with it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a kubelet may take to accept an upgrade; upstream's stream creation timeout.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(30);
/// How much of an error text is passed on.
pub(crate) const ERROR_TEXT: usize = 16 * 1024;

/// Speaks to kubelets with the API server's client certificate.
#[derive(Clone)]
pub(crate) struct KubeletProxy {
    connector: TlsConnector,
}

/// Where a kubelet serves.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl KubeletProxy {
    pub(crate) fn new(config: Arc<rustls::ClientConfig>) -> Self {
        // Streams are HTTP/1.1 here; a kubelet that prefers HTTP/2 must not be asked for it.
        let mut config = (*config).clone();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { connector: TlsConnector::from(Arc::new(config)) }
    }

    /// How TLS with a kubelet begins.
    pub(crate) fn connector(&self) -> TlsConnector {
        self.connector.clone()
    }

    /// GET of `path` (with its query); the answer's body as it comes.
    pub(crate) async fn stream(&self, endpoint: &Endpoint, path: &str) -> Result<Body, StatusError> {
        let response = timeout(CONNECT_TIMEOUT, self.get(endpoint, path))
            .await
            .unwrap_or_else(|_| Err("i/o timeout".into()))
            .map_err(|error| {
                let Endpoint { host, port } = endpoint;
                StatusError::internal_error(format!("Get \"https://{host}:{port}{path}\": {error}"))
            })?;
        let code = response.status();
        if code.is_success() {
            let frames = response.into_body().into_data_stream().map(|chunk| chunk.map_err(BodyError::from));
            return Ok(Body::stream(frames));
        }
        let body = Limited::new(response.into_body(), ERROR_TEXT).collect().await;
        let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()).unwrap_or_default();
        Err(match code.as_u16() {
            400 => StatusError::bad_request(text),
            404 => StatusError::new(404, "NotFound", text),
            500 => StatusError::internal_error(text),
            code => StatusError::new(code, "", text),
        })
    }

    /// Asks for an upgrade of a connection, with the headers that are its own. The error is for people.
    pub(crate) async fn upgrade(
        &self,
        endpoint: &Endpoint,
        method: Method,
        target: &str,
        headers: HeaderMap,
    ) -> Result<Answer, String> {
        let Endpoint { host, port } = endpoint;
        let request = upgrade::request(method, target, &format!("{host}:{port}"), headers)
            .map_err(|error| format!("error dialing backend: {error}"))?;
        let tls = timeout(CONNECT_TIMEOUT, self.connect(endpoint))
            .await
            .unwrap_or_else(|_| Err("i/o timeout".into()))
            .map_err(|error| format!("error dialing backend: dial tcp {host}:{port}: {error}"))?;
        timeout(UPGRADE_TIMEOUT, upgrade::send(tls, request))
            .await
            .map_err(|_| format!("error dialing backend: {host}:{port} did not answer in time"))?
            .map_err(|error| format!("error dialing backend: {error}"))
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<TlsStream<TcpStream>, BodyError> {
        let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
        let _ = stream.set_nodelay(true);
        keepalive::keep_alive(&stream);
        let name = ServerName::try_from(endpoint.host.clone())?;
        Ok(self.connector.connect(name, stream).await?)
    }

    async fn get(&self, endpoint: &Endpoint, path: &str) -> Result<Response<Incoming>, BodyError> {
        let tls = self.connect(endpoint).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
        // Ends by itself when the response's body is dropped.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a kubelet broke");
            }
        });
        let request = Request::builder()
            .method(Method::GET)
            .uri(path)
            .header(header::HOST, format!("{}:{}", endpoint.host, endpoint.port))
            .header(header::USER_AGENT, "skep-apiserver")
            .body(Empty::<Bytes>::new())?;
        Ok(sender.send_request(request).await?)
    }
}

/// A body that ends at once, for pods no node knows yet.
pub(crate) fn nothing() -> Body {
    Body::stream(stream::empty())
}
