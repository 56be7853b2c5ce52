//! Metrics.

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::{MapData, PerCpuArray};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use skep_ebpf_common::policy::Verdict;

use crate::{Mirror, Result, kernel::maps};

/// Labels of packets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PacketLabels {
    verdict: &'static str,
    direction: &'static str,
}

/// Metrics of the enforcement. Cheap to clone; clones share their values.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(crate) change: Histogram,
    pub(crate) latency: Histogram,
    pub(crate) failures: Counter,
    pub(crate) mended: Counter,
    pub(crate) policies: Gauge,
    pub(crate) isolated: Gauge,
    identities: Gauge,
    rules: Gauge,
    unwritten: Gauge,
    packets: Family<PacketLabels, Counter>,
    pub(crate) last: Gauge<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            change: Histogram::new(exponential_buckets(0.000_01, 2.0, 18)),
            latency: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            failures: Counter::default(),
            mended: Counter::default(),
            policies: Gauge::default(),
            isolated: Gauge::default(),
            identities: Gauge::default(),
            rules: Gauge::default(),
            unwritten: Gauge::default(),
            packets: Family::default(),
            last: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Adds the metrics to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let own = registry.sub_registry_with_prefix("skep_policy");
        own.register_with_unit(
            "change_duration",
            "Time to write one change into the maps",
            Unit::Seconds,
            self.change.clone(),
        );
        own.register_with_unit(
            "programming_duration",
            "Time from the change of an object seen to the change enforced on this node",
            Unit::Seconds,
            self.latency.clone(),
        );
        own.register_with_unit(
            "last_change_timestamp",
            "When the last change was enforced",
            Unit::Seconds,
            self.last.clone(),
        );
        own.register("failures", "Entries that could not be written and are tried again", self.failures.clone());
        own.register("map_entries_mended", "Map entries somebody else changed, put right", self.mended.clone());
        own.register("entries_unwritten", "Entries that are missing in the maps now", self.unwritten.clone());
        own.register("policies", "NetworkPolicies of the cluster", self.policies.clone());
        own.register("isolated_pods", "Pods of this node that a policy selects", self.isolated.clone());
        own.register("identities", "Addresses and prefixes with an identity", self.identities.clone());
        own.register("rules", "What the tables of this node allow", self.rules.clone());
        own.register(
            "packets",
            "Packets of isolated pods, by verdict (of those allowed, connections)",
            self.packets.clone(),
        );
    }

    pub(crate) fn measured(&self, wanted: &Mirror, unwritten: usize) {
        self.identities.set(wanted.identities.len() as i64);
        self.rules.set(wanted.tables.values().map(|table| table.len() as i64).sum());
        self.isolated.set(wanted.endpoints.values().filter(|pod| pod.ingress || pod.egress).count() as i64);
        self.unwritten.set(unwritten as i64);
    }

    /// Reads the kernel's counters. To be called before the metrics are given out.
    ///
    /// # Errors
    /// When they are there and cannot be read.
    pub fn read_packets(&self, bpf_root: &Path) -> Result<()> {
        for (verdict, direction, count) in packets(bpf_root)? {
            self.packets
                .get_or_create(&PacketLabels { verdict: verdict.name(), direction })
                .inner()
                .store(count, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// The kernel's counters: verdict, direction and packets. None before something was enforced.
pub(crate) fn packets(bpf_root: &Path) -> Result<Vec<(Verdict, &'static str, u64)>> {
    let paths = crate::kernel::Paths::new(bpf_root);
    if !paths.exist() {
        return Ok(Vec::new());
    }
    let name = "POLICY_COUNTERS";
    let counters: PerCpuArray<MapData, u64> = maps::open(&paths.maps, name)?;
    let mut all = Vec::new();
    for verdict in Verdict::ALL {
        for (side, direction) in [(0, "ingress"), (1, "egress")] {
            let values = counters.get(&(2 * verdict as u32 + side), 0).map_err(crate::Error::map(name))?;
            all.push((verdict, direction, values.iter().sum()));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_the_names_that_dashboards_ask_for() {
        let mut registry = Registry::default();
        let metrics = Metrics::default();
        metrics.register(&mut registry);
        metrics.change.observe(0.1);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for name in [
            "skep_policy_change_duration_seconds_bucket",
            "skep_policy_programming_duration_seconds_bucket",
            "skep_policy_failures_total 0",
            "skep_policy_entries_unwritten 0",
            "skep_policy_isolated_pods 0",
        ] {
            assert!(text.contains(name), "{name} is missing in\n{text}");
        }
    }
}
