//! What can be seen from outside. Upstream's names where upstream has the metric, `skep_storage_` otherwise.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upstream's buckets of `etcd_request_duration_seconds`.
const REQUEST_BUCKETS: [f64; 20] =
    [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0];
/// Upstream's buckets of `apiserver_watch_cache_read_wait_seconds`, and finer ones below.
const WAIT_BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 1.0, 3.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Operation {
    pub(crate) operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OfResource {
    pub(crate) resource: String,
}

/// All metrics of this crate. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) request_duration: Family<Operation, Histogram, fn() -> Histogram>,
    pub(crate) requests: Family<Operation, Counter>,
    pub(crate) request_errors: Family<Operation, Counter>,
    pub(crate) read_wait: Histogram,
    pub(crate) events_received: Family<OfResource, Counter>,
    pub(crate) events_dispatched: Family<OfResource, Counter>,
    pub(crate) frames_encoded: Family<OfResource, Counter>,
    pub(crate) initializations: Family<OfResource, Counter>,
    pub(crate) cache_revision: Gauge,
    pub(crate) capacity: Family<OfResource, Gauge>,
    pub(crate) objects: Family<OfResource, Gauge>,
    pub(crate) expired_watchers: Family<OfResource, Counter>,
    pub(crate) undecodable: Counter,
    pub(crate) watch_restarts: Counter,
    pub(crate) relists: Counter,
    pub(crate) progress_markers: Counter,
    pub(crate) read_rounds: Counter,
    pub(crate) compactions: Counter,
    pub(crate) fenced_writes: Counter,
    pub(crate) alone: Gauge,
    pub(crate) ready: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            request_duration: Family::new_with_constructor(|| Histogram::new(REQUEST_BUCKETS)),
            requests: Family::default(),
            request_errors: Family::default(),
            read_wait: Histogram::new(WAIT_BUCKETS),
            events_received: Family::default(),
            events_dispatched: Family::default(),
            frames_encoded: Family::default(),
            initializations: Family::default(),
            cache_revision: Gauge::default(),
            capacity: Family::default(),
            objects: Family::default(),
            expired_watchers: Family::default(),
            undecodable: Counter::default(),
            watch_restarts: Counter::default(),
            relists: Counter::default(),
            progress_markers: Counter::default(),
            read_rounds: Counter::default(),
            compactions: Counter::default(),
            fenced_writes: Counter::default(),
            alone: Gauge::default(),
            ready: Gauge::default(),
        }
    }
}

impl Metrics {
    /// The encoder adds `_total` to the names of counters.
    pub(crate) fn register(&self, to: &mut Registry) {
        to.register("etcd_request_duration_seconds", "Duration of requests to etcd", self.request_duration.clone());
        to.register("etcd_requests", "Requests to etcd", self.requests.clone());
        to.register("etcd_request_errors", "Requests to etcd that failed", self.request_errors.clone());
        to.register(
            "apiserver_watch_cache_read_wait_seconds",
            "Time a read waited for the watch cache to become fresh",
            self.read_wait.clone(),
        );
        to.register(
            "apiserver_watch_cache_events_received",
            "Events the watch cache got from etcd",
            self.events_received.clone(),
        );
        to.register(
            "apiserver_watch_cache_events_dispatched",
            "Events handed out to watchers",
            self.events_dispatched.clone(),
        );
        to.register(
            "skep_storage_watch_frames_encoded",
            "Frames of watches that were made; each is shared by all watchers that want it",
            self.frames_encoded.clone(),
        );
        to.register(
            "apiserver_watch_cache_initializations",
            "How often the watch cache loaded a resource",
            self.initializations.clone(),
        );
        to.register(
            "apiserver_watch_cache_resource_version",
            "Revision the watch cache has reached",
            self.cache_revision.clone(),
        );
        to.register("watch_cache_capacity", "Events of history the watch cache may keep", self.capacity.clone());
        to.register("apiserver_resource_objects", "Objects stored", self.objects.clone());
        to.register(
            "apiserver_terminated_watchers",
            "Watchers that fell behind the history",
            self.expired_watchers.clone(),
        );
        to.register("skep_storage_undecodable_values", "Values that are not JSON objects", self.undecodable.clone());
        to.register("skep_storage_watch_restarts", "How often the etcd watch was lost", self.watch_restarts.clone());
        to.register("skep_storage_relists", "How often the cache was loaded from etcd", self.relists.clone());
        to.register(
            "skep_storage_progress_markers",
            "Markers written to learn progress",
            self.progress_markers.clone(),
        );
        to.register("skep_storage_read_rounds", "Read-index questions to etcd", self.read_rounds.clone());
        to.register("skep_storage_compactions", "Compactions this process asked for", self.compactions.clone());
        to.register(
            "skep_storage_fenced_writes",
            "Transactions refused because this server had lost its place among the others; each was sent again",
            self.fenced_writes.clone(),
        );
        to.register(
            "skep_storage_alone",
            "1 while no other API server writes to this etcd, so that consistent reads need not ask it",
            self.alone.clone(),
        );
        to.register("skep_storage_ready", "1 while the cache follows etcd", self.ready.clone());
    }
}
