//! Settings of the controller manager; defaults are upstream's.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use skep_pki::Authority;
use skep_pki::jwt::Signer;

use crate::error::Error;
use crate::metrics::Metrics;

/// Settings of [`crate::run`].
#[derive(Clone, Debug)]
pub struct Config {
    /// The range pod CIDRs of nodes are cut from. Needed when `allocate_node_cidrs` is set.
    pub cluster_cidr: Option<IpNet>,
    /// The second range of a dual-stack cluster, of the other address family.
    pub secondary_cluster_cidr: Option<IpNet>,
    /// Size of a node's IPv4 pod CIDR (24 upstream).
    pub node_cidr_mask: u8,
    /// Size of a node's IPv6 pod CIDR (64 upstream).
    pub node_cidr_mask_ipv6: u8,
    /// Services' range; nodes get no CIDR that overlaps it.
    pub service_cidr: Option<IpNet>,
    /// Services' second range, of the other address family.
    pub secondary_service_cidr: Option<IpNet>,
    /// Whether nodes get pod CIDRs.
    pub allocate_node_cidrs: bool,
    /// The CA of the API server's certificate (PEM), published to every namespace for the pods there; None publishes nothing.
    pub root_ca: Option<String>,
    /// The authority that signs certificate signing requests of the built-in signers; None signs nothing.
    pub signing_ca: Option<Arc<Authority>>,
    /// Signs the tokens that are kept in Secrets; None fills no such Secret.
    pub service_account_signer: Option<Arc<Signer>>,
    /// Run only while holding the Lease kube-system/kube-controller-manager.
    pub leader_elect: bool,
    /// This candidate's name; made from the host name if None.
    pub identity: Option<String>,
    /// Lease duration, renew deadline and retry period of the election (15 s, 10 s, 2 s).
    pub lease_times: (Duration, Duration, Duration),
    /// Workers per controller (5 upstream).
    pub concurrency: usize,
    /// Workers of the garbage collector (20 upstream).
    pub concurrent_gc_syncs: usize,
    /// How often node health is looked at (5 s).
    pub node_monitor_period: Duration,
    /// Silence after which a node counts as dead (40 s).
    pub node_monitor_grace_period: Duration,
    /// The same for a node that never reported (60 s).
    pub node_startup_grace_period: Duration,
    /// Nodes a second that get NoExecute taints in a zone (0.1), and in a large, partly broken zone (0.01).
    pub node_eviction_rate: f64,
    /// See `node_eviction_rate`.
    pub secondary_node_eviction_rate: f64,
    /// Share of unhealthy nodes from which a zone counts as broken (0.55).
    pub unhealthy_zone_threshold: f64,
    /// Nodes above which a zone is large (50).
    pub large_cluster_size_threshold: usize,
    /// Finished pods that may stay before the oldest are deleted (12500); 0 turns this off.
    pub terminated_pod_gc_threshold: usize,
    /// How often the pod garbage collector looks (20 s).
    pub pod_gc_period: Duration,
    /// How often the garbage collector looks for new resource types (30 s).
    pub discovery_period: Duration,
    /// Endpoints per EndpointSlice (100).
    pub max_endpoints_per_slice: usize,
    /// Endpoints mirrored of one subset of an Endpoints object (1000).
    pub mirroring_max_endpoints_per_subset: usize,
    /// The metrics to report into; register them with [`Metrics::register`].
    pub metrics: Metrics,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster_cidr: None,
            secondary_cluster_cidr: None,
            node_cidr_mask: 24,
            node_cidr_mask_ipv6: 64,
            service_cidr: None,
            secondary_service_cidr: None,
            allocate_node_cidrs: false,
            root_ca: None,
            signing_ca: None,
            service_account_signer: None,
            leader_elect: true,
            identity: None,
            lease_times: (Duration::from_secs(15), Duration::from_secs(10), Duration::from_secs(2)),
            concurrency: 5,
            concurrent_gc_syncs: 20,
            node_monitor_period: Duration::from_secs(5),
            node_monitor_grace_period: Duration::from_secs(40),
            node_startup_grace_period: Duration::from_secs(60),
            node_eviction_rate: 0.1,
            secondary_node_eviction_rate: 0.01,
            unhealthy_zone_threshold: 0.55,
            large_cluster_size_threshold: 50,
            terminated_pod_gc_threshold: 12_500,
            pod_gc_period: Duration::from_secs(20),
            discovery_period: Duration::from_secs(30),
            max_endpoints_per_slice: 100,
            mirroring_max_endpoints_per_subset: 1000,
            metrics: Metrics::default(),
        }
    }
}

impl Config {
    /// The cluster CIDRs with the size of the nodes' share.
    pub(crate) fn cluster_cidrs(&self) -> Vec<(IpNet, u8)> {
        let mask = |net: &IpNet| if net.addr().is_ipv4() { self.node_cidr_mask } else { self.node_cidr_mask_ipv6 };
        self.cluster_cidr.iter().chain(&self.secondary_cluster_cidr).map(|net| (*net, mask(net))).collect()
    }

    pub(crate) fn validate(&self) -> Result<(), Error> {
        let fail = |reason: String| Err(Error::Config(reason));
        let cidrs = self.cluster_cidrs();
        if self.allocate_node_cidrs && self.cluster_cidr.is_none() {
            return fail("allocate_node_cidrs needs cluster_cidr".to_owned());
        }
        for (net, mask) in &cidrs {
            let max = net.max_prefix_len();
            if *mask < net.prefix_len() || *mask > max {
                return fail(format!(
                    "node CIDR mask /{mask} does not fit cluster CIDR {net} (valid: /{} to /{max})",
                    net.prefix_len()
                ));
            }
            // Upstream keeps one bit per node CIDR and refuses more than 2^16 of them.
            if mask - net.prefix_len() > 16 {
                return fail(format!("cluster CIDR {net} holds more than 65536 node CIDRs of size /{mask}"));
            }
        }
        if let [(first, _), (second, _)] = &cidrs[..]
            && first.addr().is_ipv4() == second.addr().is_ipv4()
        {
            return fail(format!("cluster CIDRs {first} and {second} must be of different address families"));
        }
        if self.max_endpoints_per_slice == 0 || self.max_endpoints_per_slice > 1000 {
            return fail("max_endpoints_per_slice must be between 1 and 1000".to_owned());
        }
        if self.mirroring_max_endpoints_per_subset == 0 || self.mirroring_max_endpoints_per_subset > 1000 {
            return fail("mirroring_max_endpoints_per_subset must be between 1 and 1000".to_owned());
        }
        Ok(())
    }
}
