//! What is to be programmed, without any word of maps.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use serde::Serialize;
use skep_ebpf_common::{
    Address, FrontendKey, SCTP, TCP, UDP, address as address_of, host_port, kind, mapped, octets, port,
};

/// Transport protocol of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP. It has no hooks at sockets: packets of pods and from outside are translated.
    Sctp,
}

impl Protocol {
    /// From the API's word for it; absent means TCP.
    pub fn from_api(protocol: Option<&str>) -> Option<Self> {
        match protocol {
            None | Some("" | "TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
            Self::Sctp => SCTP,
        }
    }

    /// From its number in an IP header; `None` for one this version does not know.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        match number {
            TCP => Some(Self::Tcp),
            UDP => Some(Self::Udp),
            SCTP => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Family {
    /// IPv4.
    #[default]
    IPv4,
    /// IPv6.
    IPv6,
}

impl Family {
    /// That of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::IPv4 } else { Self::IPv6 }
    }

    /// From the address type of an EndpointSlice; `None` for names.
    pub(crate) fn from_api(address_type: &str) -> Option<Self> {
        match address_type {
            "IPv4" => Some(Self::IPv4),
            "IPv6" => Some(Self::IPv6),
            _ => None,
        }
    }

    /// 4 or 6, as the maps keep it.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::IPv4 => 4,
            Self::IPv6 => 6,
        }
    }

    /// The address under which node ports are kept.
    pub fn unspecified(self) -> IpAddr {
        match self {
            Self::IPv4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::IPv6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

/// An address as the maps keep it: IPv4 in its mapped form.
pub(crate) fn to_map(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(address) => mapped(u32::from_ne_bytes(address.octets())),
        IpAddr::V6(other) => address_of(other.octets()),
    }
}

/// An address kept in a map.
pub(crate) fn from_map(address: Address) -> IpAddr {
    Ipv6Addr::from(octets(address)).to_canonical()
}

/// How a frontend came to be; decides which backends its clients may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Kind {
    /// The Service's address inside the cluster.
    ClusterIP,
    /// A port of every node.
    NodePort,
    /// An address of a load balancer.
    LoadBalancer,
    /// An external address the Service names.
    ExternalIP,
    /// A port of this node that belongs to one pod.
    HostPort,
}

impl Kind {
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::ClusterIP => kind::CLUSTER_IP,
            Self::NodePort => kind::NODE_PORT,
            Self::LoadBalancer => kind::LOAD_BALANCER,
            Self::ExternalIP => kind::EXTERNAL_IP,
            Self::HostPort => kind::HOST_PORT,
        }
    }

    pub(crate) fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            kind::CLUSTER_IP => Self::ClusterIP,
            kind::NODE_PORT => Self::NodePort,
            kind::LOAD_BALANCER => Self::LoadBalancer,
            kind::EXTERNAL_IP => Self::ExternalIP,
            kind::HOST_PORT => Self::HostPort,
            _ => return None,
        })
    }
}

/// One port of one address at which a service port is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// Address; the unspecified one of its family for a node port.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

impl Frontend {
    /// As the maps keep it.
    pub fn key(&self) -> FrontendKey {
        FrontendKey::new(to_map(self.address), port(self.port), self.protocol.number())
    }

    /// From a map's key; `None` for a protocol this version does not know.
    pub fn from_key(key: &FrontendKey) -> Option<Self> {
        let protocol = Protocol::from_number(key.protocol)?;
        Some(Self { address: from_map(key.address), port: host_port(key.port), protocol })
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.address, self.port), self.protocol)
    }
}

/// Whose port it is: a Service's, or a pod's with a host port. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ServicePortName {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name of the Service or the pod.
    pub name: Arc<str>,
    /// Name of the port; empty if it has none. Of a host port: where it is.
    pub port: Arc<str>,
}

impl ServicePortName {
    /// Of a pod's host port. No port of a Service is called like that: `address:port/PROTOCOL`.
    pub(crate) fn host_port(namespace: Arc<str>, pod: Arc<str>, frontend: &Frontend) -> Self {
        Self { namespace, name: pod, port: frontend.to_string().into() }
    }

    /// Is it a pod's host port, and not a Service's port?
    pub fn is_host_port(&self) -> bool {
        self.port.contains('/')
    }
}

impl fmt::Display for ServicePortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        if !self.port.is_empty() {
            write!(f, ":{}", self.port)?;
        }
        Ok(())
    }
}

impl FromStr for ServicePortName {
    type Err = &'static str;

    /// `namespace/name` or `namespace/name:port`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, rest) = text.split_once('/').ok_or("expected namespace/name")?;
        let (name, port) = rest.split_once(':').unwrap_or((rest, ""));
        Ok(Self { namespace: namespace.into(), name: name.into(), port: port.into() })
    }
}

/// Name of what has one number in the maps: a port of a Service in one address family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ServicePort {
    /// Whose port it is.
    pub name: ServicePortName,
    /// Family of its frontends and backends.
    pub family: Family,
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.name, self.family)
    }
}

/// One place that answers for a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Where it is.
    pub address: SocketAddr,
    /// Is it on this node?
    pub local: bool,
}

/// What is to be served for a service port. Lists of backends are kept sorted, each address once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Where it is reached.
    pub frontends: BTreeMap<Frontend, Kind>,
    /// Backends for whoever may use any of the cluster.
    pub cluster: Vec<Backend>,
    /// In how many places each of `cluster` stands, which is its share. Empty: one each; else not all alike, and none zero.
    pub places: Vec<u32>,
    /// Backends for whoever may use this node's only; empty unless a policy asks for it.
    pub local: Vec<Backend>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// How long a client keeps its backend after it last used it, seconds.
    pub affinity: Option<u32>,
    /// Sources (address and length of the prefix) load balancer addresses are open to; empty: all.
    pub source_ranges: Vec<(IpAddr, u8)>,
    /// The sources in `source_ranges` are those that are kept out.
    pub deny_ranges: bool,
    /// Size of the Maglev table external traffic chooses from; zero: at random.
    pub maglev: u32,
}

impl Service {
    /// A service port at one ClusterIP, with backends on other nodes; their order does not matter.
    pub fn new(frontend: Frontend, backends: impl IntoIterator<Item = SocketAddr>) -> Self {
        let backends = backends.into_iter().map(|address| Backend { address, local: false });
        Self { frontends: [(frontend, Kind::ClusterIP)].into(), cluster: sorted(backends), ..Self::default() }
    }

    /// Each of `cluster` with its number of places.
    pub(crate) fn weighted(&self) -> impl Iterator<Item = (&Backend, u32)> {
        self.cluster.iter().enumerate().map(|(n, backend)| (backend, self.places.get(n).copied().unwrap_or(1)))
    }

    /// Every backend of either list, once.
    pub(crate) fn backends(&self) -> Vec<Backend> {
        sorted(self.cluster.iter().chain(&self.local).copied())
    }
}

/// Sorted, each once.
pub(crate) fn sorted(backends: impl IntoIterator<Item = Backend>) -> Vec<Backend> {
    let mut backends: Vec<Backend> = backends.into_iter().collect();
    backends.sort_unstable();
    backends.dedup();
    backends
}

/// Everything that is to be programmed.
pub type ServiceTable = BTreeMap<ServicePort, Service>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frontend_survives_the_way_through_a_key() {
        for (address, text) in [("10.96.0.10", "10.96.0.10:53/UDP"), ("fd00::a", "[fd00::a]:53/UDP")] {
            let frontend = Frontend { address: address.parse().unwrap(), port: 53, protocol: Protocol::Udp };
            assert_eq!(Frontend::from_key(&frontend.key()), Some(frontend));
            assert_eq!(frontend.to_string(), text);
            assert_eq!(Frontend::from_key(&FrontendKey { protocol: 136, ..frontend.key() }), None);
        }
    }

    #[test]
    fn the_unspecified_addresses_of_both_families_stay_apart() {
        for family in [Family::IPv4, Family::IPv6] {
            assert_eq!(from_map(to_map(family.unspecified())), family.unspecified());
            assert_eq!(skep_ebpf_common::unspecified(&to_map(family.unspecified())), to_map(family.unspecified()));
        }
    }

    #[test]
    fn protocols_are_read_as_the_api_writes_them() {
        assert_eq!(Protocol::from_api(None), Some(Protocol::Tcp));
        assert_eq!(Protocol::from_api(Some("UDP")), Some(Protocol::Udp));
        assert_eq!(Protocol::from_api(Some("SCTP")), Some(Protocol::Sctp));
        assert_eq!(Protocol::from_api(Some("DCCP")), None);
    }

    #[test]
    fn backends_are_sorted_and_deduplicated() {
        let [a, b] = ["10.0.0.1:80", "10.0.0.2:80"].map(|address| address.parse().unwrap());
        let frontend = Frontend { address: [10, 96, 0, 1].into(), port: 80, protocol: Protocol::Tcp };
        let service = Service::new(frontend, [b, a, b]);
        assert_eq!(service.backends(), [a, b].map(|address| Backend { address, local: false }));
    }
}
