//! Whether the other servers answer, and what they tell of their resources.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, join_all, select_all},
    stream::FuturesUnordered,
};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use jiff::Timestamp;
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Time,
    kube_aggregator::pkg::apis::apiregistration::v1::{APIService, APIServiceCondition},
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use skep_api::StatusError;
use skep_schema::openapi::Foreign;
use skep_storage::Watcher;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Aggregator, Remote, Remotes, Told, ToldV2, identity, local, resolve};
use crate::{
    dispatch::Registries,
    proxy::{self, Connection, Target, Transport},
    registry::{
        api_service::{AVAILABLE, GROUP, PLURAL, available, local_condition},
        erased::UpdateKind,
        generic::{Scope, update::Mutation},
        object::Object,
    },
    service::Shared,
    user::UserInfo,
};

/// How often servers are asked though nothing has changed.
const RESYNC: Duration = Duration::from_secs(30);
/// How soon a server that failed is asked again, at first.
const RETRY: Duration = Duration::from_millis(250);
/// How often it is looked whether custom resources have changed.
const TICK: Duration = Duration::from_secs(1);
/// How long a server may take to tell.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many are asked at once: one of several behind a Service may be on its way out.
const ATTEMPTS: usize = 5;
/// The most a document may have.
const MOST: usize = 8 << 20;

/// Keeps APIServices, their conditions and what is told of them up to date, until `stop` or the server is gone.
pub(crate) fn keep(shared: &Arc<Shared>, stop: CancellationToken) {
    shared.aggregator.load(&shared.registries);
    let shared = Arc::downgrade(shared);
    tokio::spawn(async move { stop.run_until_cancelled(follow(shared)).await });
}

async fn follow(shared: Weak<Shared>) {
    let mut retry = RETRY;
    loop {
        let Some(now) = shared.upgrade() else { return };
        let registries = &now.registries;
        let mut watchers = watchers(registries, &now.aggregator.remotes());
        let custom = registries.custom();
        let stored = stored(registries);
        local::sync(registries, &stored).await;
        tell_local(registries, &stored).await;
        now.aggregator.load(registries);
        let remotes = now.aggregator.remotes();
        let failed = check_all(&now.aggregator, registries, &remotes).await;
        now.aggregator.load(registries);
        // Documents are large and may be slow to come: whether a server is there does not wait for them.
        document_all(&now.aggregator, registries).await;
        now.aggregator.load(registries);
        let pause = if failed { retry } else { RESYNC };
        retry = if failed { (retry * 2).min(RESYNC) } else { RETRY };
        drop(now);
        let unchanged = async || loop {
            sleep(TICK).await;
            match shared.upgrade() {
                Some(now) if Arc::ptr_eq(&now.registries.custom(), &custom) => {}
                _ => return,
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = changed(&mut watchers) => {}
            () = unchanged() => {}
        }
    }
}

/// The first change that any of them sees, or its end.
async fn changed(watchers: &mut [Watcher]) {
    let next: Vec<BoxFuture<'_, bool>> =
        watchers.iter_mut().map(|watcher| watcher.next().map(|event| event.is_err()).boxed()).collect();
    if next.is_empty() {
        return std::future::pending().await;
    }
    let (ended, ..) = select_all(next).await;
    if ended {
        // The cache is being loaded anew.
        sleep(TICK).await;
    }
}

/// Follows the APIServices, and the Services and endpoints behind them.
fn watchers(registries: &Registries, remotes: &Remotes) -> Vec<Watcher> {
    let watch = |group: &str, plural: &str, scope: &dyn Fn(&crate::registry::generic::Registry) -> Option<String>| {
        let registry = registries.get(group, "v1", plural)?;
        let scope = scope(&registry)?;
        Some(registry.cache.snapshot_and_watch(&scope).1)
    };
    let mut all = Vec::new();
    all.extend(watch(GROUP, PLURAL, &|registry| Some(registry.key_scope(None))));
    for remote in remotes.iter() {
        let namespace = Some(remote.namespace.as_str());
        all.extend(watch("", "services", &|registry| registry.key(namespace, &remote.service)));
        all.extend(watch("discovery.k8s.io", "endpointslices", &|registry| Some(registry.key_scope(namespace))));
    }
    all
}

/// The APIServices as they are now.
fn stored(registries: &Registries) -> Vec<APIService> {
    let Some(registry) = registries.get(GROUP, "v1", PLURAL) else { return Vec::new() };
    registry.cache.snapshot().iter().filter_map(|object| serde_json::from_slice(object.json()).ok()).collect()
}

impl Aggregator {
    /// Takes over what the objects say.
    fn load(&self, registries: &Registries) {
        let mut told = self.told.lock();
        let mut remotes: Vec<_> = stored(registries).into_iter().filter_map(Remote::new).collect();
        told.retain(|name, _| remotes.iter().any(|remote| remote.name == *name));
        for remote in &mut remotes {
            remote.told = told.get(&remote.name).cloned();
        }
        drop(told);
        // The same list stays the same list, so that nothing is made anew of it.
        let mut current = self.remotes.write();
        if !current.iter().map(|own| &**own).eq(remotes.iter()) {
            *current = Arc::new(Remotes(remotes.into_iter().map(Arc::new).collect()));
        }
    }
}

/// Says of what this server answers itself that it does.
async fn tell_local(registries: &Registries, stored: &[APIService]) {
    for object in stored.iter().filter(|object| object.spec.as_ref().is_none_or(|spec| spec.service.is_none())) {
        tell(registries, object, local_condition(Timestamp::now())).await;
    }
}

/// Asks all servers; whether one of them failed.
async fn check_all(aggregator: &Aggregator, registries: &Registries, remotes: &Remotes) -> bool {
    let checks = remotes.iter().map(|remote| async move {
        let (status, reason, message) = match check(aggregator, registries, remote).await {
            Ok(mut told) => {
                told.openapi_v2 = aggregator.known_v2(remote);
                aggregator.told.lock().insert(remote.name.clone(), Arc::new(told));
                ("True", "Passed", "all checks passed".to_owned())
            }
            Err(obstacle) => ("False", obstacle.reason, obstacle.message),
        };
        let condition = APIServiceCondition {
            type_: AVAILABLE.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(Time(Timestamp::now())),
        };
        let object = stored(registries).into_iter().find(|own| own.metadata.name.as_deref() == Some(&remote.name));
        if let Some(object) = object {
            tell(registries, &object, condition).await;
        }
        reason == "FailedDiscoveryCheck"
    });
    join_all(checks).await.into_iter().any(|failed| failed)
}

/// Asks the servers that are there what they add to `/openapi/v2`.
async fn document_all(aggregator: &Aggregator, registries: &Registries) {
    let remotes = aggregator.remotes();
    let asked = remotes.iter().filter(|remote| remote.is_available()).map(|remote| async move {
        let document = aggregator.openapi_v2(registries, remote).await;
        if let Some(told) = aggregator.told.lock().get_mut(&remote.name)
            && told.openapi_v2 != document
        {
            let (resources, openapi) = (told.resources.clone(), told.openapi.clone());
            *told = Arc::new(Told { resources, openapi, openapi_v2: document });
        }
    });
    join_all(asked).await;
}

/// What a server tells of itself, or why it cannot be used.
async fn check(aggregator: &Aggregator, registries: &Registries, remote: &Remote) -> Result<Told, resolve::Obstacle> {
    resolve::check(registries, &remote.namespace, &remote.service, remote.port)?;
    let ask = || async {
        let target = aggregator.unverified(registries, remote)?;
        let url = format!("https://{}{}", target.authority(), remote.path());
        match timeout(PATIENCE, tell_of(&target, remote)).await {
            Ok(Ok(told)) => Ok(told),
            Ok(Err(Failure::Status(code))) => {
                Err(format!("failing or missing response from {url}: bad status from {url}: {}", code.as_u16()))
            }
            Ok(Err(Failure::Other(why))) => Err(format!("failing or missing response from {url}: Get {url:?}: {why}")),
            Err(_) => Err(format!("timed out waiting for {url}")),
        }
    };
    let mut attempts: FuturesUnordered<_> = (0..ATTEMPTS).map(|_| ask()).collect();
    let mut last = String::new();
    while let Some(outcome) = attempts.next().await {
        match outcome {
            Ok(told) => return Ok(told),
            Err(why) => last = why,
        }
    }
    Err(resolve::Obstacle { reason: "FailedDiscoveryCheck", message: last })
}

enum Failure {
    Status(StatusCode),
    Other(String),
}

async fn tell_of(target: &Target, remote: &Remote) -> Result<Told, Failure> {
    let resources = get(target, &remote.path()).await?;
    // A server without OpenAPI is none the worse for it.
    let index = get(target, "/openapi/v3").await.ok();
    let openapi = index.and_then(|index| {
        let entry = &index["paths"][remote.path().trim_start_matches('/')]["serverRelativeURL"];
        Some(entry.as_str()?.to_owned())
    });
    Ok(Told { resources, openapi, openapi_v2: None })
}

impl Aggregator {
    /// A server, whoever it says it is. Whoever owns the network could say that one is there; that would be all there is to
    /// gain.
    fn unverified(&self, registries: &Registries, remote: &Remote) -> Result<Target, String> {
        let (host, port) = resolve::endpoint(registries, &remote.namespace, &remote.service, remote.port)?;
        let name = rustls_pki_types::ServerName::try_from(format!("{}.{}.svc", remote.service, remote.namespace));
        let transport = Transport::Tls(self.http.clone(), name.map_err(|error| error.to_string())?);
        Ok(Target { transport, host, port: Some(port) })
    }

    /// What a server added to `/openapi/v2` when it last said.
    fn known_v2(&self, remote: &Remote) -> Option<ToldV2> {
        self.told.lock().get(&remote.name).and_then(|told| told.openapi_v2.clone())
    }

    /// What a server adds to `/openapi/v2` now: what it added before, if it does not say.
    async fn openapi_v2(&self, registries: &Registries, remote: &Remote) -> Option<ToldV2> {
        let known = self.known_v2(remote);
        let etag = known.as_ref().map_or("", |known| &known.etag);
        // Clients rely on this document: it is taken from the server the APIService means, or not at all.
        let asked = async {
            let target = self.target(remote, registries).map_err(Failure::Other)?;
            tell_v2(&target, remote, etag).await
        };
        match timeout(PATIENCE, asked).await {
            Ok(Ok(told)) => Some(told),
            _ => known,
        }
    }
}

async fn tell_v2(target: &Target, remote: &Remote, etag: &str) -> Result<ToldV2, Failure> {
    let response = send(target, "/openapi/v2", etag).await?;
    let etag = response.0.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok()).unwrap_or_default().to_owned();
    let body = read(response).await?;
    let hash = Sha256::digest(&body).iter().map(|byte| format!("{byte:02X}")).collect();
    let prefix = format!("{}/", remote.path());
    // Reading and sifting a large document takes a while.
    let document = tokio::task::spawn_blocking(move || {
        serde_json::from_slice(&body).map(|document| Arc::new(Foreign::of(document, &prefix)))
    });
    let document = document.await.map_err(|error| Failure::Other(error.to_string()))?;
    Ok(ToldV2 { etag, hash, document: document.map_err(|error| Failure::Other(error.to_string()))? })
}

async fn get(target: &Target, path: &str) -> Result<Value, Failure> {
    let body = read(send(target, path, "").await?).await?;
    // What is no document says at least that the server is there.
    Ok(serde_json::from_slice(&body).unwrap_or_default())
}

/// A successful response. `etag` is that of what is known already; empty for nothing.
async fn send(target: &Target, path: &str, etag: &str) -> Result<(Response<Incoming>, Connection), Failure> {
    let other = |error: &dyn std::fmt::Display| Failure::Other(error.to_string());
    let mut request = Request::get(path).body(Empty::<Bytes>::new()).map_err(|error| other(&error))?;
    let user = UserInfo { groups: vec![crate::user::MASTERS.to_owned()], ..UserInfo::master("system:kube-aggregator") };
    let headers = request.headers_mut();
    headers.extend(identity(&user));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static("skep-apiserver"));
    headers.insert(header::HOST, HeaderValue::try_from(target.authority()).map_err(|error| other(&error))?);
    if !etag.is_empty() {
        headers.insert(header::IF_NONE_MATCH, HeaderValue::try_from(etag).map_err(|error| other(&error))?);
    }
    let sent = proxy::send(target, request).await.map_err(Failure::Other)?;
    if sent.0.status().is_success() { Ok(sent) } else { Err(Failure::Status(sent.0.status())) }
}

async fn read((response, _connection): (Response<Incoming>, Connection)) -> Result<Bytes, Failure> {
    let body = Limited::new(response.into_body(), MOST).collect().await;
    body.map(|body| body.to_bytes()).map_err(|error| Failure::Other(error.to_string()))
}

/// Writes the condition, if it is another.
async fn tell(registries: &Registries, object: &APIService, condition: APIServiceCondition) {
    let same = available(object).is_some_and(|own| {
        (&own.status, &own.reason, &own.message) == (&condition.status, &condition.reason, &condition.message)
    });
    let name = object.metadata.name.as_deref().unwrap_or_default();
    if same {
        return;
    }
    tracing::info!(
        api_service = name,
        available = %condition.status,
        reason = condition.reason.as_deref().unwrap_or_default(),
        "an APIService changed"
    );
    if let Err(error) = write(registries, name, condition).await {
        tracing::debug!(api_service = name, %error, "the status of an APIService was not written");
    }
}

async fn write(registries: &Registries, name: &str, condition: APIServiceCondition) -> Result<(), StatusError> {
    let registry = registries.get(GROUP, "v1", PLURAL).ok_or_else(StatusError::generic_not_found)?;
    let user = UserInfo::master("system:apiserver");
    let scope = Scope::internal(&user, None, Timestamp::now());
    let mut source = Mutation(|object: &mut dyn Object| {
        let Some(service) = object.as_any_mut().downcast_mut::<APIService>() else {
            return Err(StatusError::internal_error("an APIService that is none"));
        };
        let conditions = service.status.get_or_insert_default().conditions.get_or_insert_default();
        let mut condition = condition.clone();
        match conditions.iter_mut().find(|own| own.type_ == condition.type_) {
            Some(own) => {
                if own.status == condition.status {
                    condition.last_transition_time.clone_from(&own.last_transition_time);
                }
                *own = condition;
            }
            None => conditions.push(condition),
        }
        Ok(())
    });
    registry.update(&scope, name, UpdateKind::Status, &mut source).await.map(drop)
}
