//! `/metrics` of the node: the service data plane's under kube-proxy's names, DNS's under CoreDNS's, the pod network's.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};
use prometheus_client::registry::Registry;
use skep_network::{Applied, Reconciled};

use crate::web::{self, Answer, Answers};

/// How another node's pods are reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WayLabel {
    way: &'static str,
}

/// Metrics of the pod network. Cheap to clone; clones share their values.
#[derive(Clone, Debug, Default)]
pub(crate) struct NetworkMetrics {
    pods: Gauge,
    repairs: Counter,
    leftovers: Counter,
    peers: Family<WayLabel, Gauge>,
    peer_changes: Counter,
}

impl NetworkMetrics {
    fn register(&self, registry: &mut Registry) {
        let own = registry.sub_registry_with_prefix("skep_network");
        own.register("pods", "Pods that are connected", self.pods.clone());
        own.register("pod_repairs", "Pods whose device, route or neighbour was put right", self.repairs.clone());
        own.register("leftovers_removed", "Leases, devices and routes that belonged to no pod", self.leftovers.clone());
        own.register("peers", "Pod ranges of other nodes, by the way to them", self.peers.clone());
        own.register(
            "peer_changes",
            "Ways to other nodes that were made, changed or removed",
            self.peer_changes.clone(),
        );
    }

    pub(crate) fn reconciled(&self, done: &Reconciled) {
        self.pods.set(done.pods as i64);
        self.repairs.inc_by(done.repaired as u64);
        self.leftovers.inc_by((done.leases_removed + done.leftovers_removed) as u64);
    }

    pub(crate) fn applied(&self, done: &Applied) {
        for (way, count) in [("direct", done.direct), ("vxlan", done.vxlan), ("none", done.failed)] {
            self.peers.get_or_create(&WayLabel { way }).set(count as i64);
        }
        self.peer_changes.inc_by((done.changed + done.removed) as u64);
    }
}

/// All metrics of the node.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    proxy: skep_proxy::Metrics,
    policy: skep_policy::Metrics,
    bpf_root: PathBuf,
}

impl Metrics {
    pub(crate) fn new(
        proxy: skep_proxy::Metrics,
        policy: skep_policy::Metrics,
        dns: &skep_dns::Metrics,
        network: &NetworkMetrics,
        health: &crate::health::Metrics,
        bpf_root: PathBuf,
    ) -> Self {
        let mut registry = Registry::default();
        proxy.register(&mut registry);
        policy.register(&mut registry);
        dns.register(&mut registry);
        network.register(&mut registry);
        health.register(&mut registry);
        Self { registry: Mutex::new(registry), proxy, policy, bpf_root }
    }

    fn text(&self) -> Result<String, std::fmt::Error> {
        if let Err(error) = self.proxy.read_kernel(&self.bpf_root) {
            tracing::warn!(%error, "some metrics are old: the kernel's maps cannot be read");
        }
        if let Err(error) = self.policy.read_packets(&self.bpf_root) {
            tracing::warn!(%error, "metrics of NetworkPolicy are old: the kernel's maps cannot be read");
        }
        let mut text = String::new();
        // Nothing is left half done by a reader that panicked.
        encode(&mut text, &self.registry.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(text)
    }
}

/// Answers at kube-proxy's metrics address.
pub(crate) struct MetricsServer(pub(crate) Arc<Metrics>);

impl Answers for MetricsServer {
    async fn answer(&self, path: &str) -> Answer {
        match path {
            "/metrics" => {
                let metrics = self.0.clone();
                // Full maps take milliseconds to count.
                match tokio::task::spawn_blocking(move || metrics.text()).await {
                    Ok(Ok(text)) => {
                        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                        web::with_type(StatusCode::OK, kind, text)
                    }
                    _ => web::text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n"),
                }
            }
            "/healthz" => web::text(StatusCode::OK, "ok"),
            // Asked by tools that want to know whose rules to look for.
            "/proxyMode" => web::text(StatusCode::OK, "ebpf"),
            _ => web::not_found(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Metrics with labels show only once they have a value; these get theirs from the kernel or the cluster.
    const WITH_LABELS: [&str; 6] = [
        "kubeproxy_network_programming_duration_seconds",
        "skep_network_peers",
        "skep_policy_packets",
        "skep_proxy_map_capacity",
        "skep_proxy_map_entries",
        "skep_proxy_packet_drops",
    ];

    /// The metrics that a query of Prometheus names, without what a counter or histogram adds to its name.
    fn named(query: &str) -> impl Iterator<Item = &str> {
        let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let ours = words.filter(|word| word.starts_with("kubeproxy_") || word.starts_with("skep_"));
        ours.map(|word| ["_total", "_bucket"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word))
    }

    #[test]
    fn the_dashboard_asks_for_metrics_that_exist() {
        let metrics = Metrics::new(
            skep_proxy::Metrics::default(),
            skep_policy::Metrics::default(),
            &skep_dns::Metrics::default(),
            &NetworkMetrics::default(),
            &crate::health::Metrics::default(),
            PathBuf::new(),
        );
        let mut text = String::new();
        encode(&mut text, &metrics.registry.lock().unwrap()).unwrap();
        let shown = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        let known: BTreeSet<&str> = shown.chain(WITH_LABELS).collect();
        let dashboard: serde_json::Value =
            serde_json::from_str(include_str!("../../docs/grafana/data-plane.json")).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        let queries = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
        let queries: Vec<&str> = queries.map(|target| target["expr"].as_str().unwrap()).collect();
        assert!(queries.len() > panels.len());
        for query in queries {
            assert!(named(query).count() > 0, "{query} names none");
            for name in named(query) {
                assert!(known.contains(name), "{name} of {query} is none of {known:?}");
            }
        }
    }
}
