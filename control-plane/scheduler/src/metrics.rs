//! Metrics under upstream's names (`k8s.io/kubernetes/pkg/scheduler/metrics`).

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::queue::Pending;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attempt {
    result: &'static str,
    profile: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabel {
    queue: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CacheLabel {
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabel {
    event: &'static str,
}

/// How an attempt ended, the `result` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Bound.
    Scheduled,
    /// No node fits.
    Unschedulable,
    /// Something is broken.
    Error,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Unschedulable => "unschedulable",
            Self::Error => "error",
        }
    }
}

/// The scheduler's metrics; clones share their values.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    attempts: Family<Attempt, Counter>,
    attempt_duration: Family<Attempt, Histogram, fn() -> Histogram>,
    algorithm_duration: Histogram,
    sli_duration: Histogram,
    pod_attempts: Histogram,
    pending: Family<QueueLabel, Gauge>,
    cache: Family<CacheLabel, Gauge>,
    events: Family<EventLabel, Counter>,
}

/// Upstream's `ExponentialBuckets(0.001, 2, 15)`.
fn latency() -> Histogram {
    Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(0.001, 2.0, 15))
}

impl Default for Metrics {
    fn default() -> Self {
        use prometheus_client::metrics::histogram::exponential_buckets;
        Self(Arc::new(Inner {
            attempts: Family::default(),
            attempt_duration: Family::new_with_constructor(latency),
            algorithm_duration: latency(),
            sli_duration: Histogram::new(exponential_buckets(0.01, 2.0, 20)),
            pod_attempts: Histogram::new(exponential_buckets(1.0, 2.0, 5)),
            pending: Family::default(),
            cache: Family::default(),
            events: Family::default(),
        }))
    }
}

impl Metrics {
    /// Registers everything; the registry must not add a prefix of its own.
    pub fn register(&self, registry: &mut Registry) {
        let inner = &self.0;
        let scheduler = registry.sub_registry_with_prefix("scheduler");
        scheduler.register(
            "schedule_attempts",
            "Number of attempts to schedule pods, by the result",
            inner.attempts.clone(),
        );
        scheduler.register_with_unit(
            "scheduling_attempt_duration",
            "Scheduling attempt latency in seconds (scheduling algorithm + binding)",
            Unit::Seconds,
            inner.attempt_duration.clone(),
        );
        scheduler.register_with_unit(
            "scheduling_algorithm_duration",
            "Scheduling algorithm latency in seconds",
            Unit::Seconds,
            inner.algorithm_duration.clone(),
        );
        scheduler.register_with_unit(
            "pod_scheduling_sli_duration",
            "E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue",
            Unit::Seconds,
            inner.sli_duration.clone(),
        );
        scheduler.register(
            "pod_scheduling_attempts",
            "Number of attempts to successfully schedule a pod",
            inner.pod_attempts.clone(),
        );
        scheduler.register("pending_pods", "Number of pending pods, by the queue type", inner.pending.clone());
        scheduler.register(
            "cache_size",
            "Number of nodes, pods, and assumed (bound) pods in the scheduler cache",
            inner.cache.clone(),
        );
        scheduler.register("cluster_events", "Number of cluster events that may requeue pods", inner.events.clone());
    }

    pub(crate) fn attempt(&self, profile: &str, outcome: Outcome, took: Duration) {
        let labels = Attempt { result: outcome.as_str(), profile: profile.to_owned() };
        self.0.attempts.get_or_create(&labels).inc();
        self.0.attempt_duration.get_or_create(&labels).observe(took.as_secs_f64());
    }

    pub(crate) fn algorithm(&self, took: Duration) {
        self.0.algorithm_duration.observe(took.as_secs_f64());
    }

    pub(crate) fn scheduled(&self, attempts: u32, since_first_attempt: Duration) {
        self.0.pod_attempts.observe(f64::from(attempts));
        self.0.sli_duration.observe(since_first_attempt.as_secs_f64());
    }

    pub(crate) fn event(&self, event: &'static str) {
        self.0.events.get_or_create(&EventLabel { event }).inc();
    }

    pub(crate) fn sizes(&self, pending: Pending, (nodes, pods, assumed): (usize, usize, usize)) {
        let Pending { active, backoff, unschedulable, gated } = pending;
        let queues = [("active", active), ("backoff", backoff), ("unschedulable", unschedulable), ("gated", gated)];
        for (queue, count) in queues {
            self.0.pending.get_or_create(&QueueLabel { queue }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        for (r#type, count) in [("nodes", nodes), ("pods", pods), ("assumed_pods", assumed)] {
            self.0.cache.get_or_create(&CacheLabel { r#type }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_carry_upstreams_names() {
        let metrics = Metrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        metrics.attempt("default-scheduler", Outcome::Scheduled, Duration::from_millis(3));
        metrics.sizes(Pending::default(), (1, 2, 0));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "scheduler_schedule_attempts_total{result=\"scheduled\",profile=\"default-scheduler\"} 1",
            "scheduler_scheduling_attempt_duration_seconds_count{result=\"scheduled\",profile=\"default-scheduler\"} 1",
            "scheduler_pending_pods{queue=\"gated\"} 0",
            "scheduler_cache_size{type=\"pods\"} 2",
        ] {
            assert!(text.contains(line), "{line} not in:\n{text}");
        }
    }
}
