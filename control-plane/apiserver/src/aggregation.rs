//! Groups and versions that other servers answer for: APIServices with a Service.
//!
//! A request below `/apis/GROUP/VERSION` of such an APIService is authenticated, queued and authorised here, and then
//! passed on with the front proxy's certificate and the user's name in headers. Whether the server is there is found out
//! in the background ([`availability`]), which also fetches what it tells of its resources for discovery.

mod availability;
mod local;
pub(crate) mod priority;
mod resolve;
pub(crate) mod translate;

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use parking_lot::{Mutex, RwLock};
use rustls_pki_types::ServerName;
use serde_json::Value;
use skep_api::status::StatusError;
use skep_schema::openapi::Foreign;
use tokio_rustls::TlsConnector;

use crate::{
    dispatch::Registries,
    http::{body::Body, request_body::RequestBody, response},
    proxy::{self, Outgoing, Target, Transport},
    registry::api_service,
    upgrade::Upgrade,
    user::UserInfo,
};

pub(crate) use availability::keep;

const REMOTE_USER: HeaderName = HeaderName::from_static("x-remote-user");
const REMOTE_UID: HeaderName = HeaderName::from_static("x-remote-uid");
const REMOTE_GROUP: HeaderName = HeaderName::from_static("x-remote-group");

/// The servers that answer for groups of their own.
pub(crate) struct Aggregator {
    remotes: RwLock<Arc<Remotes>>,
    /// What the servers told of their resources when they were last asked, by the APIService's name.
    told: Mutex<BTreeMap<String, Arc<Told>>>,
    client: Option<skep_pki::Identity>,
    http: TlsConnector,
}

/// All of them at one time; a new value for every change.
pub(crate) struct Remotes(Vec<Arc<Remote>>);

/// One group and version another server answers for.
#[derive(Debug, PartialEq)]
pub(crate) struct Remote {
    pub(crate) name: String,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) group_priority: i32,
    pub(crate) version_priority: i32,
    namespace: String,
    service: String,
    port: i32,
    insecure: bool,
    ca_bundle: Option<Vec<u8>>,
    available: bool,
    /// What it told when it was last asked.
    pub(crate) told: Option<Arc<Told>>,
}

/// What a server tells of its group and version.
#[derive(Debug, PartialEq)]
pub(crate) struct Told {
    /// An APIResourceList.
    pub(crate) resources: Value,
    /// Where its OpenAPI document is, with the document's hash.
    pub(crate) openapi: Option<String>,
    /// What it adds to `/openapi/v2`.
    pub(crate) openapi_v2: Option<ToldV2>,
}

/// Part of a server's `/openapi/v2`.
#[derive(Clone, Debug)]
pub(crate) struct ToldV2 {
    /// The tag it gave the whole document; empty for none.
    etag: String,
    /// Of the whole document.
    pub(crate) hash: String,
    /// What of it is of the APIService's group and version.
    pub(crate) document: Arc<Foreign>,
}

impl PartialEq for ToldV2 {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Remote {
    /// None for what this server answers itself.
    fn new(object: APIService) -> Option<Self> {
        let available = api_service::available(&object).is_some_and(|condition| condition.status == "True");
        let spec = object.spec?;
        let service = spec.service?;
        Some(Self {
            name: object.metadata.name?,
            group: spec.group.unwrap_or_default(),
            version: spec.version.unwrap_or_default(),
            group_priority: spec.group_priority_minimum,
            version_priority: spec.version_priority,
            namespace: service.namespace.unwrap_or_default(),
            service: service.name.unwrap_or_default(),
            port: service.port.unwrap_or(443),
            insecure: spec.insecure_skip_tls_verify == Some(true),
            ca_bundle: spec.ca_bundle.map(|bundle| bundle.0).filter(|bundle| !bundle.is_empty()),
            available,
            told: None,
        })
    }

    pub(crate) fn is_available(&self) -> bool {
        self.available
    }

    /// The path its documents and resources are below.
    pub(crate) fn path(&self) -> String {
        match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        }
    }

    /// Whether a path is its.
    fn owns(&self, path: &str) -> bool {
        path.strip_prefix(&self.path()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl Remotes {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Remote>> {
        self.0.iter()
    }
}

impl Aggregator {
    /// `client` is what this server shows the others.
    pub(crate) fn new(client: Option<skep_pki::Identity>) -> crate::Result<Self> {
        let unverified = skep_pki::unverified_client_config(client.as_ref())?;
        Ok(Self {
            remotes: RwLock::new(Arc::new(Remotes(Vec::new()))),
            told: Mutex::default(),
            client,
            http: TlsConnector::from(Arc::new(unverified)),
        })
    }

    /// All of them, as they are now.
    pub(crate) fn remotes(&self) -> Arc<Remotes> {
        Arc::clone(&self.remotes.read())
    }

    /// The server that answers for a path, if it is another.
    pub(crate) fn find(&self, path: &str) -> Option<Arc<Remote>> {
        let remotes = self.remotes.read();
        remotes.0.iter().find(|remote| remote.owns(path)).cloned()
    }

    /// Passes a request on.
    pub(crate) async fn forward(
        &self,
        remote: &Remote,
        registries: &Registries,
        user: &UserInfo,
        mut outgoing: Outgoing<'_>,
        body: RequestBody,
        upgrade: Option<Upgrade>,
    ) -> Result<Response<Body>, StatusError> {
        let target = match self.target(remote, registries) {
            Ok(target) if remote.available => target,
            Ok(_) => return Ok(unavailable("service unavailable")),
            Err(error) => {
                tracing::debug!(api_service = %remote.name, %error, "an aggregated API server was not found");
                return Ok(unavailable("service unavailable"));
            }
        };
        outgoing.identity = identity(user);
        outgoing.host = HeaderValue::try_from(target.authority()).ok();
        match proxy::forward(&target, outgoing, body, upgrade).await {
            // What goes wrong on the way is said in plain text here.
            Err(error) if error.code().is_server_error() => Ok(unavailable(&error.to_string())),
            other => other,
        }
    }

    /// Where the server is now, and how it is spoken to.
    fn target(&self, remote: &Remote, registries: &Registries) -> Result<Target, String> {
        let (host, port) = resolve::endpoint(registries, &remote.namespace, &remote.service, remote.port)?;
        let name = format!("{}.{}.svc", remote.service, remote.namespace);
        let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
        let connector = match (&remote.ca_bundle, remote.insecure) {
            (_, true) => self.http.clone(),
            (Some(bundle), false) => {
                let bundle = std::str::from_utf8(bundle).map_err(|error| error.to_string())?;
                let config =
                    skep_pki::client_config(bundle, self.client.as_ref()).map_err(|error| error.to_string())?;
                TlsConnector::from(Arc::new(config))
            }
            (None, false) => return Err("the APIService has no caBundle to know the server by".to_owned()),
        };
        Ok(Target { transport: Transport::Tls(connector, name), host, port: Some(port) })
    }
}

/// The headers that say who asks.
fn identity(user: &UserInfo) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut add = |name: HeaderName, value: &str| {
        // A name that no header can carry would not be that user any more.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.append(name, value);
        }
    };
    add(REMOTE_USER, &user.name);
    if !user.uid.is_empty() {
        add(REMOTE_UID, &user.uid);
    }
    for group in &user.groups {
        add(REMOTE_GROUP, group);
    }
    for (key, values) in &user.extra {
        let Ok(name) = HeaderName::try_from(format!("x-remote-extra-{}", escape_key(key))) else { continue };
        for value in values {
            add(name.clone(), value);
        }
    }
    headers
}

/// Encodes what a header's name cannot have.
fn escape_key(key: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => out.push(char::from(byte)),
            b'!' | b'#' | b'$' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~' => {
                out.push(char::from(byte));
            }
            byte => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

fn unavailable(why: &str) -> Response<Body> {
    let mut answer = response::text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"));
    answer.headers_mut().insert(http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_told_in_headers() {
        let mut user = UserInfo::authenticated("jane", ["dev".to_owned()]);
        user.uid = "7".to_owned();
        user.extra.insert("example.com/scope".to_owned(), vec!["a".to_owned(), "b".to_owned()]);
        let headers = identity(&user);
        assert_eq!(headers["x-remote-user"], "jane");
        assert_eq!(headers["x-remote-uid"], "7");
        let groups: Vec<_> = headers.get_all("x-remote-group").iter().collect();
        assert_eq!(groups, ["dev", "system:authenticated"]);
        assert_eq!(headers.get_all("x-remote-extra-example.com%2fscope").iter().count(), 2);
    }

    #[test]
    fn a_remote_owns_what_is_below_its_version_and_no_more() {
        let object = serde_json::json!({"metadata": {"name": "v1.a.example"}, "spec": {
            "group": "a.example", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1, "service": {},
        }});
        let remote = Remote::new(serde_json::from_value(object).unwrap()).unwrap();
        assert!(remote.owns("/apis/a.example/v1") && remote.owns("/apis/a.example/v1/things"));
        assert!(!remote.owns("/apis/a.example/v10") && !remote.owns("/apis/a.example"));
    }
}
