//! The pipeline every request goes through, as a `tower::Service`.

use std::{
    convert::Infallible,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use futures::{FutureExt, future::BoxFuture};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, request::Parts};
use hyper::upgrade::OnUpgrade;
use jiff::Timestamp;
use rand::Rng as _;
use skep_api::{
    request::{RequestInfo, Verb},
    resource::ResourceInfo,
    status::StatusError,
};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::{
    admission::WarningSink,
    aggregation::{Aggregator, Remote},
    authn::{Authenticator, Presented, impersonation::impersonated},
    authz::Authorizer,
    dispatch::{Call, Registries},
    flowcontrol::{Flow, FlowControl},
    health::Health,
    http::{
        body::{Body, BodyError},
        gzip,
        negotiate::accept_plain,
        request_body::{self, RequestBody},
        response, timeout,
    },
    metrics::{Counted, Metrics},
    openapi::openapi_index,
    proxy::Outgoing,
    published::Published,
    registry::generic::{Registry, patch::add_warnings},
    reviews,
    subresource::{
        proxy::{self, Reach},
        stream,
    },
    upgrade::{Running, Upgrade},
    user::UserInfo,
    version,
};

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// What all requests share.
pub(crate) struct Shared {
    pub(crate) registries: Registries,
    pub(crate) authorizer: Arc<Authorizer>,
    pub(crate) authenticator: Authenticator,
    pub(crate) published: Published,
    pub(crate) health: Health,
    pub(crate) flow: FlowControl,
    pub(crate) aggregator: Aggregator,
    pub(crate) metrics: Metrics,
    pub(crate) reach: Reach,
    /// Ends watches, logs and streams.
    pub(crate) shutdown: CancellationToken,
    /// Set before that, when the server is about to stop.
    pub(crate) draining: CancellationToken,
}

/// The API server as a service: the same for connections from the network and for clients in the process.
///
/// A request acts as the [`UserInfo`] in its extensions, else as the one given to [`ApiService::with_user`], else as
/// nobody. `kube::Client::new(service.with_user(..), "default")` makes a client of it.
#[derive(Clone)]
pub struct ApiService {
    shared: Arc<Shared>,
    user: Option<Arc<UserInfo>>,
    connection: Option<Connection>,
    /// The certificate of a connection that may speak for others.
    front_proxy: Option<Arc<Presented>>,
}

/// The connection a request came over.
#[derive(Clone)]
struct Connection {
    /// Its place among those the server has room for.
    place: Arc<OwnedSemaphorePermit>,
    peer: SocketAddr,
}

impl ApiService {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, user: None, connection: None, front_proxy: None }
    }

    /// The same service, acting as `user` where a request does not say otherwise.
    pub fn with_user(&self, user: UserInfo) -> Self {
        Self { user: Some(Arc::new(user)), ..self.clone() }
    }

    /// The same service for one connection, whose place is kept by streams that outlive its last request.
    pub(crate) fn on_connection(self, place: Arc<OwnedSemaphorePermit>, peer: SocketAddr) -> Self {
        Self { connection: Some(Connection { place, peer }), ..self }
    }

    /// The same service, acting as whom a connection's certificate says.
    pub(crate) fn identified(self, connection: &rustls::ServerConnection) -> Self {
        match self.shared.authenticator.presented(connection) {
            Ok(presented) if presented.is_front_proxy => Self { front_proxy: Some(Arc::new(presented)), ..self },
            Ok(presented) => Self { user: presented.user.map(Arc::new), ..self },
            Err(error) => {
                tracing::debug!(%error, "a client certificate names no user");
                self
            }
        }
    }
}

impl<B> Service<Request<B>> for ApiService
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BodyError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        let user = self.user.clone();
        let connection = self.connection.clone();
        let front_proxy = self.front_proxy.clone();
        let request = request.map(request_body::erase);
        async move { Ok(shared.handle(request, user, connection, front_proxy).await) }.boxed()
    }
}

impl Shared {
    async fn handle(
        &self,
        request: Request<RequestBody>,
        user: Option<Arc<UserInfo>>,
        connection: Option<Connection>,
        front_proxy: Option<Arc<Presented>>,
    ) -> Response<Body> {
        let started = Instant::now();
        let (mut parts, body) = request.into_parts();
        let audit_id = parts.headers.get(AUDIT_ID).cloned().or_else(new_audit_id);
        let own = parts.extensions.remove::<UserInfo>().map(Arc::new);
        let (user, refused) = match self.identify(own.or(user), front_proxy.as_deref(), &mut parts.headers).await {
            Ok(user) => (user, None),
            Err(error) => (Arc::new(UserInfo::anonymous()), Some(error)),
        };
        let head = parts.method == Method::HEAD;
        let mut counted = None;
        let warnings = WarningSink::default();
        let mut flow = None;
        let mut response = match RequestInfo::parse(&parts.method, &parts.uri) {
            Ok(info) => {
                let remote = self.aggregator.find(&info.path);
                let registry = self.registries.find(&info).filter(|_| remote.is_none());
                counted = Some(Counted::new(&info, registry.as_deref().map(Registry::info)));
                let switches = remote.is_some() || stream::is_stream(&info) || proxy::is_proxy(&info);
                let client = switches.then(|| parts.extensions.remove::<OnUpgrade>()).flatten();
                let peer = connection.as_ref().map(|connection| connection.peer);
                let upgrade = client.map(|client| self.upgrade(client, connection));
                let registry = registry.as_deref();
                let asked =
                    Asked { info: &info, parts: &parts, user: &user, peer, registry, remote: remote.as_deref() };
                let answer = self.answer(&asked, body, upgrade, &warnings, &mut flow);
                let answer = match refused {
                    Some(error) => Ok(Err(error)),
                    None => AssertUnwindSafe(answer).catch_unwind().await,
                };
                match answer {
                    Ok(Ok(response)) => response,
                    Ok(Err(error)) => {
                        log(&info, &user, &error);
                        response::failure(&parts.headers, &error)
                    }
                    Err(_) => {
                        tracing::error!(verb = %info.verb, path = %info.path, "a request made the server panic");
                        response::status_error(&StatusError::internal_error("the server panicked; this is a bug"))
                    }
                }
            }
            Err(error) => response::failure(&parts.headers, &error),
        };
        add_warnings(&mut response, &warnings.take());
        if let Some(flow) = flow {
            flow.sign(&mut response);
        }
        if let Some(audit_id) = audit_id {
            response.headers_mut().insert(AUDIT_ID, audit_id);
        }
        if head {
            *response.body_mut() = Body::empty();
        } else if gzip::accepts(&parts.headers) {
            response = gzip::compress(response);
        }
        if let Some(counted) = counted {
            self.metrics.count(counted, response.status(), started.elapsed());
        }
        response
    }

    /// Who asks: whom the connection, a trusted proxy or a token says, or somebody else they may act as. What says so is
    /// taken from the headers.
    async fn identify(
        &self,
        known: Option<Arc<UserInfo>>,
        front_proxy: Option<&Presented>,
        headers: &mut http::HeaderMap,
    ) -> Result<Arc<UserInfo>, StatusError> {
        let proxied = || front_proxy.and_then(|presented| self.authenticator.proxied(presented, headers)).map(Arc::new);
        let user = match known.or_else(proxied) {
            Some(user) => {
                headers.remove(http::header::AUTHORIZATION);
                user
            }
            None => Arc::new(self.authenticator.bearer(headers).await?.unwrap_or_else(UserInfo::anonymous)),
        };
        Ok(match impersonated(&self.authorizer, &user, headers)? {
            Some(other) => Arc::new(other),
            None => user,
        })
    }

    async fn answer(
        &self,
        asked: &Asked<'_>,
        body: RequestBody,
        upgrade: Option<Upgrade>,
        warnings: &WarningSink,
        flow: &mut Option<Arc<Flow>>,
    ) -> Result<Response<Body>, StatusError> {
        let Asked { info, parts, user, peer, registry, remote } = *asked;
        let watch = info.verb == Verb::Watch;
        let stream = info.subresource.as_deref() == Some("log") || stream::is_stream(info) || proxy::is_proxy(info);
        let headers = &parts.headers;
        let limit = timeout::of(&info.query)?;
        // Streams take no seats, as upstream has it; a watch takes one until it has begun.
        let _permit = if stream {
            None
        } else {
            let flow = flow.insert(self.flow.classify(user, info));
            let stored = || registry.map_or(0, |registry| registry.cache.snapshot().len());
            match self.flow.enter(flow, user, info, stored).await {
                Ok(permit) => Some(permit),
                Err(turned_away) => return Ok(turned_away),
            }
        };
        self.authorizer.check(user, info)?;
        if let Some(create) = stream::as_create(info) {
            self.authorizer.check(user, &create)?;
        }
        if let Some(remote) = remote {
            let answer = self.delegate(asked, remote, body, upgrade);
            if watch {
                return Ok(self.count_stream(answer.await?));
            }
            return tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| Err(timed_out()));
        }
        if !info.is_resource_request {
            return self.path(asked, body).await;
        }
        let review = reviews::find(info);
        if registry.is_none() && review.is_none() {
            return match self.registries.serves(info) {
                true => Err(StatusError::generic_not_found()),
                false => Ok(response::no_page()),
            };
        }
        if let Some(text) = registry.and_then(|registry| deprecation(registry.info())) {
            warnings.add(text);
        }
        let call = Call {
            request: info,
            method: &parts.method,
            uri: &parts.uri,
            headers,
            body,
            user,
            accounts: self.authenticator.accounts.as_deref(),
            registries: &self.registries,
            reach: &self.reach,
            peer,
            upgrade,
            now: Timestamp::now(),
            warnings,
        };
        if let Some(review) = review {
            let answer = reviews::answer(call, review, &self.authorizer, &self.authenticator).boxed();
            return tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| Err(timed_out()));
        }
        if let Some(registry) = registry.filter(|_| watch) {
            let counted = self.flow.watchers.enter(&registry.info().group, &registry.info().plural);
            // A definition that changes ends the watches of what it served.
            let ended = registry.conversion.as_ref().map_or(&self.shutdown, |conversion| conversion.ended()).clone();
            let running = (Running::new(&self.metrics.long_running), counted);
            return Ok(call.answer().await?.map(|body| body.guarded(running, ended)));
        }
        if stream {
            return Ok(self.count_stream(call.answer().await?));
        }
        // Includes the time a client takes to send its body.
        tokio::time::timeout(limit, call.answer()).await.unwrap_or_else(|_| Err(timed_out()))
    }

    /// What is not a resource.
    async fn path(&self, asked: &Asked<'_>, body: RequestBody) -> Result<Response<Body>, StatusError> {
        let (info, headers) = (asked.info, &asked.parts.headers);
        if let Some(response) = self.health.respond(&info.path, &info.query) {
            return Ok(response);
        }
        let reads = matches!(info.verb, Verb::Get | Verb::Head);
        let path = info.path.trim_end_matches('/');
        match path {
            "/version" if reads => Ok(response::object(StatusCode::OK, &accept_plain(headers)?, &version::info())),
            "/.well-known/openid-configuration" | "/openid/v1/jwks" if reads => {
                self.authenticator.discovery(path).ok_or_else(StatusError::generic_not_found)
            }
            "/metrics" if reads => Ok(self.metrics.respond(&self.flow)),
            _ if reads && path.starts_with("/openapi/") => {
                if let Some(remote) = path.strip_prefix("/openapi/v3").and_then(|path| self.aggregator.find(path)) {
                    return self.delegate(asked, &remote, body, None).await;
                }
                let documents = self.published.now(&self.registries, self.aggregator.remotes());
                if path == "/openapi/v3" {
                    return openapi_index(&documents.openapi, &self.aggregator.remotes(), info, headers).await;
                }
                documents.openapi.respond(path, &info.query, headers).await
            }
            "" | "/index.html" if reads => Ok(self.index()),
            _ if reads => {
                match self.published.now(&self.registries, self.aggregator.remotes()).discovery.respond(path, headers) {
                    Some(answer) => answer,
                    None => Ok(response::no_page()),
                }
            }
            _ => Ok(response::no_page()),
        }
    }

    /// Counts a watch or log until its body ends, and ends it with the server.
    fn count_stream(&self, response: Response<Body>) -> Response<Body> {
        let running = Running::new(&self.metrics.long_running);
        response.map(|body| body.guarded(running, self.shutdown.clone()))
    }

    /// Passes a request on to the server that answers it.
    async fn delegate(
        &self,
        asked: &Asked<'_>,
        remote: &Remote,
        body: RequestBody,
        upgrade: Option<Upgrade>,
    ) -> Result<Response<Body>, StatusError> {
        let outgoing = Outgoing {
            method: &asked.parts.method,
            headers: &asked.parts.headers,
            uri: &asked.parts.uri,
            path: asked.parts.uri.path().to_owned(),
            peer: asked.peer,
            rewrite: None,
            identity: http::HeaderMap::new(),
            host: None,
        };
        self.aggregator.forward(remote, &self.registries, asked.user, outgoing, body, upgrade).boxed().await
    }

    /// `/`: the paths there are.
    fn index(&self) -> Response<Body> {
        let documents = self.published.now(&self.registries, self.aggregator.remotes());
        let mut paths: Vec<String> = documents.discovery.paths().map(str::to_owned).collect();
        paths.extend(
            ["/apis/", "/metrics", "/openapi/v2", "/openapi/v3", "/openapi/v3/", "/version"].map(str::to_owned),
        );
        paths.extend(self.health.paths());
        paths.sort_unstable();
        let mut bytes = serde_json::to_vec_pretty(&serde_json::json!({"paths": paths})).unwrap_or_default();
        bytes.push(b'\n');
        response::json(StatusCode::OK, bytes)
    }

    fn upgrade(&self, client: OnUpgrade, connection: Option<Connection>) -> Upgrade {
        let running = Running::new(&self.metrics.long_running);
        let place = connection.map(|connection| connection.place);
        Upgrade { client, running, place, shutdown: self.shutdown.clone() }
    }
}

/// A request and who makes it.
struct Asked<'a> {
    info: &'a RequestInfo,
    parts: &'a Parts,
    user: &'a UserInfo,
    peer: Option<SocketAddr>,
    /// The registry of its resource, if that is served.
    registry: Option<&'a Registry>,
    /// Who answers it, if it is another server.
    remote: Option<&'a Remote>,
}

fn timed_out() -> StatusError {
    StatusError::timeout("request did not complete within the allotted timeout", 0)
}

/// What to warn of who uses a built-in resource that is on its way out.
fn deprecation(resource: &ResourceInfo) -> Option<&'static str> {
    match (&*resource.group, &*resource.version, &*resource.kind) {
        ("", "v1", "Endpoints") => Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
        ("", "v1", "ComponentStatus") => Some("v1 ComponentStatus is deprecated in v1.19+"),
        _ => None,
    }
}

/// What a client without an audit ID of its own is given.
fn new_audit_id() -> Option<HeaderValue> {
    let mut text = uuid::Uuid::encode_buffer();
    // Not Uuid::new_v4, which asks the kernel each time.
    let id = uuid::Builder::from_random_bytes(rand::rng().random()).into_uuid();
    let mut value = HeaderValue::from_str(id.as_hyphenated().encode_lower(&mut text)).ok()?;
    // No two are the same: to remember them for the compression of later headers would be in vain.
    value.set_sensitive(true);
    Some(value)
}

/// Server faults are worth a line; what clients do wrong is not.
fn log(info: &RequestInfo, user: &UserInfo, error: &StatusError) {
    if error.code().is_server_error() {
        tracing::warn!(
            verb = %info.verb, path = %info.path, user = %user.name, code = error.code().as_u16(), %error,
            "request failed"
        );
    } else {
        tracing::debug!(verb = %info.verb, path = %info.path, user = %user.name, code = error.code().as_u16(), %error);
    }
}
