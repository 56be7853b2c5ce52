//! Priority and fairness: whose requests may run, and whose must wait.
//!
//! A FlowSchema says of which flow and which priority level a request is; a level has a share of the server's seats
//! ([`level`]), and lends and borrows them ([`levels`]). The objects are read from the watch cache and hold as soon as they change. What upstream makes mandatory
//! (`exempt`, `catch-all`) holds even where the objects are missing.

mod demand;
mod fair;
mod keeper;
mod level;
mod levels;
mod schema;
mod shuffle;
mod work;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use parking_lot::{Mutex, RwLock};
use prometheus_client::metrics::{counter::Counter, histogram::Histogram};
use skep_api::request::RequestInfo;

use crate::{
    http::{body::Body, response},
    metrics::flowcontrol::Meters,
    registry::flowcontrol::bootstrap,
    user::UserInfo,
};

pub(crate) use keeper::keep;
pub(crate) use level::Load;
use level::{Level, Rejection, Ticket};
use levels::Levels;
pub(crate) use levels::Share;
use schema::{Distinguisher, Matcher};
pub(crate) use work::Watchers;

/// Upstream's `--max-requests-inflight`.
pub const MAX_READS: usize = 400;
/// Upstream's `--max-mutating-requests-inflight`.
pub const MAX_WRITES: usize = 200;

/// How long a request may wait for a seat: a quarter of its time, as upstream has it.
const PATIENCE: Duration = Duration::from_secs(15);
/// The most of a level's seats that one request may take.
const WIDEST: f64 = 0.15;

const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// Shares the server's capacity.
pub(crate) struct FlowControl {
    /// For who configures and who adjusts; requests do not need it.
    levels: Mutex<Levels>,
    configuration: RwLock<Arc<Configuration>>,
    reads: AtomicUsize,
    writes: AtomicUsize,
    pub(crate) watchers: Watchers,
    meters: Meters,
}

/// What the objects say.
struct Configuration {
    /// By precedence, then name. The last one takes everything.
    flows: Vec<Arc<Flow>>,
}

/// A FlowSchema and the level it leads to.
pub(crate) struct Flow {
    schema: String,
    matcher: Matcher,
    level: Arc<Level>,
    /// The most seats one request may take.
    widest: usize,
    schema_uid: HeaderValue,
    level_uid: HeaderValue,
    meters: FlowMeters,
    rejected: Meters,
    level_name: String,
}

/// What is counted for every request of a flow.
struct FlowMeters {
    dispatched: Counter,
    waited: Histogram,
    executed: Histogram,
}

/// The room of one request that is under way; given back when dropped.
pub(crate) struct Permit<'a> {
    _ticket: Ticket,
    _counted: InFlight<'a>,
    since: Instant,
    flow: &'a Flow,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.flow.meters.executed.observe(self.since.elapsed().as_secs_f64());
    }
}

struct InFlight<'a>(&'a AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl FlowControl {
    pub(crate) fn new(total: usize, meters: Meters) -> Self {
        let mut levels = Levels::new(total.max(1));
        let configuration = Configuration::new(&mut levels, Vec::new(), Vec::new(), &meters);
        Self {
            levels: Mutex::new(levels),
            configuration: RwLock::new(Arc::new(configuration)),
            reads: AtomicUsize::new(0),
            writes: AtomicUsize::new(0),
            watchers: Watchers::default(),
            meters,
        }
    }

    /// Makes these objects hold from now on. Levels that stay keep who is in them.
    fn apply(&self, schemas: Vec<FlowSchema>, objects: Vec<PriorityLevelConfiguration>) {
        let mut levels = self.levels.lock();
        let new = Configuration::new(&mut levels, schemas, objects, &self.meters);
        *self.configuration.write() = Arc::new(new);
    }

    /// Divides the seats among the levels by what they could have used since the last time.
    fn adjust(&self) {
        self.levels.lock().adjust();
    }

    /// The flow of a request. There is always one.
    pub(crate) fn classify(&self, user: &UserInfo, request: &RequestInfo) -> Arc<Flow> {
        let configuration = self.configuration.read();
        let flows = &configuration.flows;
        let found = flows.iter().find(|flow| flow.matcher.matches(user, request));
        // The last takes everything, and there is one by construction.
        Arc::clone(found.unwrap_or(&flows[flows.len() - 1]))
    }

    /// Room for a request, at once or after a wait; else the answer that turns it away.
    pub(crate) async fn enter<'a>(
        &'a self,
        flow: &'a Flow,
        user: &UserInfo,
        request: &RequestInfo,
        stored: impl FnOnce() -> usize,
    ) -> Result<Permit<'a>, Response<Body>> {
        let arrived = Instant::now();
        let work = work::estimate(request, flow.widest, &self.watchers, stored);
        let distinguisher = || match flow.matcher.distinguisher {
            Distinguisher::None => "",
            Distinguisher::User => user.name.as_str(),
            Distinguisher::Namespace => request.namespace.as_deref().unwrap_or_default(),
        };
        let which = || shuffle::flow(&flow.schema, distinguisher());
        let ticket = flow.level.enter(work, which, PATIENCE).await.map_err(|why| flow.turn_away(why))?;
        let since = Instant::now();
        flow.meters.dispatched.inc();
        flow.meters.waited.observe((since - arrived).as_secs_f64());
        let count = if request.verb.is_read_only() { &self.reads } else { &self.writes };
        count.fetch_add(1, Ordering::Relaxed);
        Ok(Permit { _ticket: ticket, _counted: InFlight(count), since, flow })
    }

    /// Reads and writes under way.
    pub(crate) fn in_flight(&self) -> (usize, usize) {
        (self.reads.load(Ordering::Relaxed), self.writes.load(Ordering::Relaxed))
    }

    /// How the levels are doing, by name, and the fraction of its target that a level gets if it meets no bound.
    pub(crate) fn report(&self) -> (Vec<(String, Load, Share)>, f64) {
        self.levels.lock().report()
    }
}

impl Flow {
    /// Tells the client which objects its request was judged by.
    pub(crate) fn sign(&self, response: &mut Response<Body>) {
        let headers = response.headers_mut();
        headers.insert(SCHEMA_UID, self.schema_uid.clone());
        headers.insert(LEVEL_UID, self.level_uid.clone());
    }

    fn turn_away(&self, why: Rejection) -> Response<Body> {
        self.rejected.reject(&self.schema, &self.level_name, why.as_str());
        tracing::debug!(schema = %self.schema, level = %self.level_name, reason = why.as_str(), "request turned away");
        let text = "Too many requests, please try again later.\n";
        let mut response = response::text(StatusCode::TOO_MANY_REQUESTS, text);
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }
}

impl Configuration {
    fn new(
        levels: &mut Levels,
        mut schemas: Vec<FlowSchema>,
        mut objects: Vec<PriorityLevelConfiguration>,
        meters: &Meters,
    ) -> Self {
        for name in ["exempt", "catch-all"] {
            if !objects.iter().any(|level| level.metadata.name.as_deref() == Some(name)) {
                objects.extend(mandatory(bootstrap::priority_levels(), name));
            }
            if !schemas.iter().any(|schema| schema.metadata.name.as_deref() == Some(name)) {
                schemas.extend(mandatory(bootstrap::flow_schemas(), name));
            }
        }
        levels.configure(&objects);
        let uids: HashMap<_, _> =
            objects.iter().map(|level| (level.metadata.name.as_deref(), uid(&level.metadata))).collect();
        schemas.sort_by_cached_key(|schema| {
            let precedence = schema.spec.as_ref().and_then(|spec| spec.matching_precedence);
            // Whatever precedence it claims, it takes what nobody else has taken.
            let last = schema.metadata.name.as_deref() == Some("catch-all");
            (last, precedence, schema.metadata.name.clone())
        });
        let flow = |schema: &FlowSchema| {
            let level_name = schema.spec.as_ref()?.priority_level_configuration.name.clone();
            // One that leads nowhere is passed over; its status says so.
            let (level, nominal) = levels.get(&level_name)?;
            let name = schema.metadata.name.clone().unwrap_or_default();
            let (dispatched, waited, executed) = meters.of_flow(&name, &level_name);
            Some(Arc::new(Flow {
                matcher: Matcher::new(schema),
                level: Arc::clone(level),
                widest: ((nominal as f64 * WIDEST).ceil() as usize).max(1),
                schema_uid: uid(&schema.metadata),
                level_uid: uids.get(&Some(level_name.as_str()))?.clone(),
                meters: FlowMeters { dispatched, waited, executed },
                rejected: meters.clone(),
                schema: name,
                level_name,
            }))
        };
        Self { flows: schemas.iter().filter_map(flow).collect() }
    }
}

fn mandatory<T: serde::de::DeserializeOwned>(all: Vec<(&'static str, serde_json::Value)>, name: &str) -> Option<T> {
    let (_, value) = all.into_iter().find(|(own, _)| *own == name)?;
    serde_json::from_value(value).ok()
}

fn uid(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> HeaderValue {
    let uid = metadata.uid.as_deref().unwrap_or_default();
    HeaderValue::from_str(uid).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests;
