//! What the API server is started with.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use skep_storage::Storage;

use crate::flowcontrol::{MAX_READS, MAX_WRITES};

/// Who signs service accounts' tokens, and as whom.
#[derive(Clone)]
pub struct ServiceAccountKeys {
    /// The key that signs (PEM).
    pub private: String,
    /// The keys that verify (PEM): the public half of `private`, and those of older tokens.
    pub public: String,
    /// Whose tokens they are, and the audience of those for this server.
    pub issuer: String,
}

impl ServiceAccountKeys {
    /// Keys of the issuer every cluster has.
    pub fn new(private: impl Into<String>, public: impl Into<String>) -> Self {
        let issuer = "https://kubernetes.default.svc.cluster.local".to_owned();
        Self { private: private.into(), public: public.into(), issuer }
    }
}

/// What the API server is started with.
#[derive(Clone)]
pub struct Config {
    /// etcd and the cache. Best connected with [`crate::resource_schemas`]; what is missing is added.
    pub storage: Storage,
    /// Where Services get their cluster IPs.
    pub service_cidr: IpNet,
    /// The range of the other family, in a dual-stack cluster.
    pub secondary_service_cidr: Option<IpNet>,
    /// The addresses of the Service `kube-dns`, on which every node answers its own pods: at most one of each family, the
    /// primary one first; none: there is no such Service.
    pub cluster_dns: Vec<IpAddr>,
    /// Where Services get their node ports (upstream: 30000-32767).
    pub node_port_range: RangeInclusive<u16>,
    /// Where clients in the cluster reach this server.
    pub advertise_address: IpAddr,
    /// The port clients reach it on.
    pub secure_port: u16,
    /// How kubelets are spoken to: whom to trust, and the client certificate to show.
    pub kubelet_client: Arc<rustls::ClientConfig>,
    /// What this server shows aggregated API servers and what they know it by; whoever shows the same to this server
    /// may say who its clients are.
    pub front_proxy: Option<FrontProxy>,
    /// The authority of client certificates (PEM), for aggregated API servers that trust the same.
    pub client_ca: Option<String>,
    /// Which addresses `proxy` subresources may lead to. Upstream's answer, and the default, is [`crate::is_proxyable`].
    pub proxyable: fn(IpAddr) -> bool,
    /// How long the server says that it is not ready before it stops to accept connections (upstream's
    /// `--shutdown-delay-duration`): time for load balancers to notice.
    pub shutdown_delay: Duration,
    /// The keys of service accounts' tokens; without them there are no such tokens.
    pub service_accounts: Option<ServiceAccountKeys>,
    /// Seats of priority and fairness, together with [`Self::max_writes_in_flight`]; watches take none once they run.
    pub max_reads_in_flight: usize,
    /// See [`Self::max_reads_in_flight`].
    pub max_writes_in_flight: usize,
    /// How often addresses and node ports are compared with the Services that hold them.
    pub repair_interval: Duration,
    /// Connections open at once; more wait to be accepted.
    pub max_connections: usize,
}

/// The identity of a front proxy, which may say for whom it asks.
#[derive(Clone, Debug)]
pub struct FrontProxy {
    /// The client certificate and its key.
    pub client: skep_pki::Identity,
    /// The authority that signed it (PEM).
    pub ca: String,
    /// The common name in it.
    pub name: String,
}

/// The address `place` steps after a range's own: the first is that of the `kubernetes` Service, the tenth that of
/// `kube-dns`. None if the range ends before.
pub fn nth_address(range: IpNet, place: u8) -> Option<IpAddr> {
    let address = match range.network() {
        IpAddr::V4(own) => Ipv4Addr::from_bits(own.to_bits().checked_add(place.into())?).into(),
        IpAddr::V6(own) => Ipv6Addr::from_bits(own.to_bits().checked_add(place.into())?).into(),
    };
    range.contains(&address).then_some(address)
}

impl Config {
    /// A configuration with upstream's defaults for everything that has one.
    pub fn new(
        storage: Storage,
        service_cidr: IpNet,
        advertise_address: IpAddr,
        secure_port: u16,
        kubelet_client: Arc<rustls::ClientConfig>,
    ) -> Self {
        Self {
            storage,
            service_cidr,
            secondary_service_cidr: None,
            cluster_dns: Vec::new(),
            node_port_range: 30000..=32767,
            advertise_address,
            secure_port,
            kubelet_client,
            client_ca: None,
            proxyable: crate::is_proxyable,
            shutdown_delay: Duration::ZERO,
            service_accounts: None,
            front_proxy: None,
            max_reads_in_flight: MAX_READS,
            max_writes_in_flight: MAX_WRITES,
            repair_interval: Duration::from_secs(60),
            max_connections: 16 * 1024,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_a_range_are_counted_from_its_own_address() {
        for (range, place, expected) in [
            ("10.96.0.0/12", 1, Some("10.96.0.1")),
            ("fd00::/112", 1, Some("fd00::1")),
            ("fd00::/112", 10, Some("fd00::a")),
            ("10.96.0.0/29", 10, None),
            ("255.255.255.255/32", 1, None),
        ] {
            let address = nth_address(range.parse().unwrap(), place);
            assert_eq!(address.map(|address| address.to_string()).as_deref(), expected, "{range}");
        }
    }
}
