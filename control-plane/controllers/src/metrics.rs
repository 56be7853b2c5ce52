//! Metrics under upstream's names.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct QueueLabel {
    name: String,
}

fn seconds() -> Histogram {
    // Upstream: prometheus.ExponentialBuckets(10e-9, 10, 12)
    Histogram::new((0..12).map(|exponent| 10e-9 * 10f64.powi(exponent)))
}

/// The component's metrics. Clones share the values.
#[derive(Clone, Debug)]
pub struct Metrics {
    depth: Family<QueueLabel, Gauge>,
    adds: Family<QueueLabel, Counter>,
    retries: Family<QueueLabel, Counter>,
    queue_seconds: Family<QueueLabel, Histogram, fn() -> Histogram>,
    work_seconds: Family<QueueLabel, Histogram, fn() -> Histogram>,
    /// Nodes that got no pod CIDR because the range is exhausted.
    pub(crate) cidr_exhausted: Counter,
    /// Pods deleted because of NoExecute taints.
    pub(crate) taint_evictions: Counter,
    /// Pods deleted by the pod garbage collector.
    pub(crate) pod_gc_deletions: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            depth: Family::default(),
            adds: Family::default(),
            retries: Family::default(),
            queue_seconds: Family::new_with_constructor(seconds),
            work_seconds: Family::new_with_constructor(seconds),
            cidr_exhausted: Counter::default(),
            taint_evictions: Counter::default(),
            pod_gc_deletions: Counter::default(),
        }
    }
}

impl Metrics {
    /// Puts the metrics into a registry. Counters get their `_total` when encoded.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("workqueue_depth", "Current depth of workqueue", self.depth.clone());
        registry.register("workqueue_adds", "Total number of adds handled by workqueue", self.adds.clone());
        registry.register("workqueue_retries", "Total number of retries handled by workqueue", self.retries.clone());
        registry.register(
            "workqueue_queue_duration_seconds",
            "How long in seconds an item stays in workqueue before being requested",
            self.queue_seconds.clone(),
        );
        registry.register(
            "workqueue_work_duration_seconds",
            "How long in seconds processing an item from workqueue takes",
            self.work_seconds.clone(),
        );
        registry.register(
            "node_ipam_controller_cidrset_allocation_failures",
            "Nodes that found no free pod CIDR",
            self.cidr_exhausted.clone(),
        );
        registry.register(
            "taint_eviction_controller_pod_deletions",
            "Total number of Pods deleted by TaintEvictionController since its start",
            self.taint_evictions.clone(),
        );
        registry.register(
            "pod_gc_collector_force_delete_pods",
            "Number of pods that are being forcefully deleted since the Pod GC Controller started",
            self.pod_gc_deletions.clone(),
        );
    }

    /// The metrics of one queue.
    pub fn queue(&self, name: &str) -> QueueMetrics {
        let label = QueueLabel { name: name.to_owned() };
        QueueMetrics {
            depth: self.depth.get_or_create(&label).clone(),
            adds: self.adds.get_or_create(&label).clone(),
            retries: self.retries.get_or_create(&label).clone(),
            queue_seconds: self.queue_seconds.get_or_create(&label).clone(),
            work_seconds: self.work_seconds.get_or_create(&label).clone(),
        }
    }
}

/// The metrics of one work queue.
#[derive(Clone, Debug)]
pub struct QueueMetrics {
    pub(crate) depth: Gauge,
    pub(crate) adds: Counter,
    pub(crate) retries: Counter,
    pub(crate) queue_seconds: Histogram,
    pub(crate) work_seconds: Histogram,
}

impl Default for QueueMetrics {
    fn default() -> Self {
        Metrics::default().queue("unnamed")
    }
}
