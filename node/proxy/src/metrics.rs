//! Metrics, under kube-proxy's names where it has them.

mod kernel;

use std::{
    sync::atomic::{AtomicI64, AtomicU64},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets, linear_buckets},
    },
    registry::{Registry, Unit},
};

use crate::{programmer::Fill, service};

/// Label of the map gauges.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MapLabel {
    /// Name of the map.
    pub map: &'static str,
}

/// Label of what kube-proxy has for each address family.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FamilyLabel {
    /// `IPv4` or `IPv6`.
    pub ip_family: &'static str,
}

impl From<service::Family> for FamilyLabel {
    fn from(family: service::Family) -> Self {
        Self {
            ip_family: match family {
                service::Family::IPv4 => "IPv4",
                service::Family::IPv6 => "IPv6",
            },
        }
    }
}

/// A histogram for each address family.
type Histograms = Family<FamilyLabel, Histogram, fn() -> Histogram>;

/// Label of the counter of packets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// Name of the reason.
    pub reason: &'static str,
}

/// Label of the counter of forwarded packets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PathLabel {
    /// Name of the path.
    pub path: &'static str,
}

/// Metrics of the service data plane. Cheap to clone; clones share their values.
#[derive(Clone, Debug)]
pub struct Metrics {
    sync: Histograms,
    pub(crate) change: Histogram,
    latency: Histograms,
    pub(crate) endpoint_changes: Counter,
    pub(crate) service_changes: Counter,
    pub(crate) endpoint_changes_pending: Gauge,
    pub(crate) service_changes_pending: Gauge,
    last_sync: Family<FamilyLabel, Gauge<f64, AtomicU64>>,
    pub(crate) failures: Counter,
    pub(crate) mended: Counter,
    pub(crate) updates: Counter,
    pub(crate) deletes: Counter,
    pub(crate) sockets_cut: Counter,
    pub(crate) growths: Counter,
    ceilings: Family<MapLabel, Counter>,
    pub(crate) annotations_ignored: Counter,
    pub(crate) loads_mended: Counter,
    entries: Family<MapLabel, Gauge<i64, AtomicI64>>,
    capacity: Family<MapLabel, Gauge<i64, AtomicI64>>,
    drops: Family<ReasonLabel, Counter>,
    paths: Family<PathLabel, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            // kube-proxy's buckets, so that its dashboards fit.
            sync: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 15))),
            // A change takes microseconds here: finer ones beside them.
            change: Histogram::new(exponential_buckets(0.000_002, 2.0, 16)),
            latency: Family::new_with_constructor(|| {
                let seconds = linear_buckets(0.25, 0.25, 2).chain(linear_buckets(1.0, 1.0, 59));
                Histogram::new(seconds.chain(linear_buckets(60.0, 5.0, 12)).chain(linear_buckets(120.0, 30.0, 7)))
            }),
            endpoint_changes: Counter::default(),
            service_changes: Counter::default(),
            endpoint_changes_pending: Gauge::default(),
            service_changes_pending: Gauge::default(),
            last_sync: Family::default(),
            failures: Counter::default(),
            mended: Counter::default(),
            updates: Counter::default(),
            deletes: Counter::default(),
            sockets_cut: Counter::default(),
            growths: Counter::default(),
            ceilings: Family::default(),
            annotations_ignored: Counter::default(),
            loads_mended: Counter::default(),
            entries: Family::default(),
            capacity: Family::default(),
            drops: Family::default(),
            paths: Family::default(),
        }
    }
}

impl Metrics {
    /// Adds the metrics to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let proxy = registry.sub_registry_with_prefix("kubeproxy");
        proxy.register_with_unit(
            "sync_proxy_rules_duration",
            "Time from a change seen to the change served",
            Unit::Seconds,
            self.sync.clone(),
        );
        proxy.register_with_unit(
            "network_programming_duration",
            "Time from the change of a pod or Service to the change served on this node",
            Unit::Seconds,
            self.latency.clone(),
        );
        proxy.register(
            "sync_proxy_rules_endpoint_changes",
            "Changes of EndpointSlices seen",
            self.endpoint_changes.clone(),
        );
        proxy.register("sync_proxy_rules_service_changes", "Changes of Services seen", self.service_changes.clone());
        proxy.register(
            "sync_proxy_rules_endpoint_changes_pending",
            "Changes of EndpointSlices seen and not yet served",
            self.endpoint_changes_pending.clone(),
        );
        proxy.register(
            "sync_proxy_rules_service_changes_pending",
            "Changes of Services seen and not yet served",
            self.service_changes_pending.clone(),
        );
        proxy.register_with_unit(
            "sync_proxy_rules_last_timestamp",
            "When the last change was served",
            Unit::Seconds,
            self.last_sync.clone(),
        );
        let own = registry.sub_registry_with_prefix("skep_proxy");
        own.register_with_unit(
            "change_duration",
            "Time to write one change of one service into the maps",
            Unit::Seconds,
            self.change.clone(),
        );
        own.register("failures", "Changes that could not be written and are tried again", self.failures.clone());
        own.register("map_entries_mended", "Map entries somebody else changed, put right", self.mended.clone());
        own.register("map_updates", "Map entries written", self.updates.clone());
        own.register("map_deletes", "Map entries removed", self.deletes.clone());
        own.register(
            "udp_sockets_destroyed",
            "Connected UDP sockets of backends that are gone",
            self.sockets_cut.clone(),
        );
        own.register(
            "connection_counts_mended",
            "Counts of open connections, and sockets in them, that were put right",
            self.loads_mended.clone(),
        );
        own.register(
            "annotations_ignored",
            "Annotations of Services that could not be read",
            self.annotations_ignored.clone(),
        );
        own.register("map_growths", "Times that service maps were made larger", self.growths.clone());
        own.register("map_ceilings", "Times that a map as large as it gets had no room", self.ceilings.clone());
        own.register("map_entries", "Entries in a map", self.entries.clone());
        own.register("map_capacity", "Entries a map can hold", self.capacity.clone());
        own.register("packet_drops", "Packets that were dropped or refused, by reason", self.drops.clone());
        own.register(
            "packets_forwarded",
            "Packets that were translated and sent on, by the program that did it",
            self.paths.clone(),
        );
    }

    /// What was seen of that family is served.
    pub(crate) fn synced(&self, family: service::Family, took: Duration) {
        let label = FamilyLabel::from(family);
        self.sync.get_or_create(&label).observe(took.as_secs_f64());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_sync.get_or_create(&label).set(now.as_secs_f64());
    }

    /// A change of endpoints is served, so long after its cause.
    pub(crate) fn programmed(&self, family: service::Family, seconds: f64) {
        self.latency.get_or_create(&family.into()).observe(seconds.max(0.0));
    }

    /// Everything seen so far is served, or needs nothing.
    pub(crate) fn nothing_pending(&self) {
        self.endpoint_changes_pending.set(0);
        self.service_changes_pending.set(0);
    }

    /// A map that cannot become larger had no room.
    pub(crate) fn ceiling(&self, map: &'static str) {
        self.ceilings.get_or_create(&MapLabel { map }).inc();
    }

    pub(crate) fn filled(&self, fill: &Fill) {
        let label = MapLabel { map: fill.map };
        self.entries.get_or_create(&label).set(fill.used as i64);
        self.capacity.get_or_create(&label).set(fill.capacity as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_names_appear_as_upstream_writes_them() {
        let mut registry = Registry::default();
        let metrics = Metrics::default();
        metrics.register(&mut registry);
        metrics.synced(service::Family::IPv4, Duration::from_millis(1));
        metrics.programmed(service::Family::IPv6, 0.5);
        metrics.filled(&Fill { map: "SERVICES", used: 1, capacity: 2 });
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for name in [
            "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1",
            "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv6\"} 1",
            "kubeproxy_network_programming_duration_seconds_bucket",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total",
            "kubeproxy_sync_proxy_rules_service_changes_total",
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
            "kubeproxy_sync_proxy_rules_service_changes_pending",
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"}",
            "skep_proxy_map_entries{map=\"SERVICES\"} 1",
            "skep_proxy_map_capacity{map=\"SERVICES\"} 2",
        ] {
            assert!(text.contains(name), "{name} is missing in\n{text}");
        }
    }
}
