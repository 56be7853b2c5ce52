//! Calling webhooks: admission's, and those that convert custom resources.
//!
//! A webhook is addressed by URL or by a Service. A Service is called at one of its ready endpoints under the name
//! `<service>.<namespace>.svc`, which its certificate must carry. Connections are kept and shared.

use std::{error::Error as _, num::NonZeroUsize, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use k8s_openapi::api::admissionregistration::v1::WebhookClientConfig;
use lru::LruCache;
use parking_lot::Mutex;
use skep_storage::Storage;
use tokio::time::timeout;

use connect::Connector;
use resolve::Services;

mod connect;
mod resolve;

/// The largest answer that is read.
const MAX_ANSWER: usize = 16 << 20;
/// How many webhooks keep their connections.
const KEPT: NonZeroUsize = NonZeroUsize::new(256).expect("256 is not zero");
/// How long a connection waits for its next use.
const IDLE: Duration = Duration::from_secs(90);

/// Where a webhook is, and whose certificate it must show.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    address: Address,
    /// PEM; empty for the certificates the system trusts.
    ca: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Address {
    Url(String),
    Service { namespace: String, name: String, port: u16, path: String },
}

impl Target {
    /// A webhook at a URL.
    pub(crate) fn url(url: impl Into<String>, ca: &[u8]) -> Self {
        Self { address: Address::Url(url.into()), ca: ca.to_vec() }
    }

    /// A webhook behind a Service.
    pub(crate) fn service(namespace: &str, name: &str, port: Option<i32>, path: Option<&str>, ca: &[u8]) -> Self {
        let port = port.and_then(|port| u16::try_from(port).ok()).unwrap_or(443);
        let path = match path.unwrap_or_default() {
            path if path.starts_with('/') => path.to_owned(),
            path => format!("/{path}"),
        };
        let address = Address::Service { namespace: namespace.to_owned(), name: name.to_owned(), port, path };
        Self { address, ca: ca.to_vec() }
    }

    /// What a configuration of admission says.
    pub(crate) fn of(config: &WebhookClientConfig) -> Self {
        let ca = config.ca_bundle.as_ref().map_or(&[][..], |ca| &ca.0);
        match &config.service {
            Some(service) => {
                Self::service(&service.namespace, &service.name, service.port, service.path.as_deref(), ca)
            }
            None => Self::url(config.url.clone().unwrap_or_default(), ca),
        }
    }

    /// The URL that is asked, with the time the caller will wait (whole seconds) as upstream says it.
    fn request_url(&self, wait: Duration) -> String {
        let url = match &self.address {
            Address::Url(url) => url.clone(),
            Address::Service { namespace, name, port, path } => format!("https://{name}.{namespace}.svc:{port}{path}"),
        };
        let mark = if url.contains('?') { '&' } else { '?' };
        format!("{url}{mark}timeout={}s", wait.as_secs())
    }
}

type HttpClient = Client<Connector, Full<Bytes>>;

/// Calls webhooks.
pub(crate) struct WebhookClient {
    services: Arc<Services>,
    clients: Mutex<LruCache<Target, HttpClient>>,
}

impl WebhookClient {
    /// Finds Services and their endpoints in the caches of `storage`.
    pub(crate) fn new(storage: &Storage) -> Self {
        Self { services: Arc::new(Services::new(storage)), clients: Mutex::new(LruCache::new(KEPT)) }
    }

    /// POSTs a JSON document; the answer's body. The error is upstream's text of why there is none:
    /// `failed to call webhook: Post "https://...": ...`.
    pub(crate) async fn post(&self, target: &Target, body: Bytes, wait: Duration) -> Result<Bytes, String> {
        let url = target.request_url(wait);
        let answered = timeout(wait, self.send(target, &url, body)).await;
        let why = match answered {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(Failure::Refused(why))) => return Err(format!("failed to call webhook: {why}")),
            Ok(Err(Failure::Broken(why))) => why,
            Err(_) => "context deadline exceeded".to_owned(),
        };
        Err(format!("failed to call webhook: Post {url:?}: {why}"))
    }

    async fn send(&self, target: &Target, url: &str, body: Bytes) -> Result<Bytes, Failure> {
        let client = self.client(target).map_err(Failure::Broken)?;
        let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| Failure::Broken(error.to_string()))?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, "kube-apiserver-admission")
            .body(Full::new(body))
            .map_err(|error| Failure::Broken(error.to_string()))?;
        let response = client.request(request).await.map_err(|error| Failure::Broken(cause(&error)))?;
        let code = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| Failure::Broken(error.to_string()))?.to_bytes();
        if code.is_success() {
            return Ok(body);
        }
        let reason = code.canonical_reason().unwrap_or_default().to_lowercase();
        Err(Failure::Refused(match code.as_u16() {
            404 => "the server could not find the requested resource".to_owned(),
            500..=599 => {
                let text = String::from_utf8_lossy(&body).chars().take(1024).collect::<String>();
                format!("an error on the server ({text:?}) has prevented the request from succeeding")
            }
            other => format!("the server rejected our request: {other} {reason}"),
        }))
    }

    fn client(&self, target: &Target) -> Result<HttpClient, String> {
        if let Some(client) = self.clients.lock().get(target) {
            return Ok(client.clone());
        }
        let connector = Connector::new(target, Arc::clone(&self.services))?;
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(32)
            .build(connector);
        self.clients.lock().put(target.clone(), client.clone());
        Ok(client)
    }
}

/// Why a call gave nothing.
enum Failure {
    /// No answer came.
    Broken(String),
    /// An answer came, but not one.
    Refused(String),
}

/// The innermost reason of a failed request: what says `connection refused`.
fn cause(error: &hyper_util::client::legacy::Error) -> String {
    let mut text = error.to_string();
    let mut inner = error.source();
    while let Some(error) = inner {
        text = error.to_string();
        inner = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_asked_under_its_name() {
        let target = Target::service("ns", "svc", None, Some("/mutate"), b"");
        assert_eq!(target.request_url(Duration::from_secs(10)), "https://svc.ns.svc:443/mutate?timeout=10s");
        let target = Target::service("ns", "svc", Some(8443), None, b"");
        assert_eq!(target.request_url(Duration::from_secs(1)), "https://svc.ns.svc:8443/?timeout=1s");
    }
}
