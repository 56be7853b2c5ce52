//! What is to be programmed, without any word of maps.

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
    str::FromStr,
    sync::Arc,
};

use serde::Serialize;
use skep_ebpf_common::{ServiceKey, TCP, UDP, address, host_port, octets, port};

/// Transport protocol of a service port. (SCTP passes the data plane untouched.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// From the API's word for it; absent means TCP.
    pub fn from_api(protocol: Option<&str>) -> Option<Self> {
        match protocol {
            None | Some("" | "TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some(_) => None,
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// One port of one virtual address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// Virtual address.
    pub vip: Ipv4Addr,
    /// Port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

impl Frontend {
    /// As the maps keep it.
    pub fn key(&self) -> ServiceKey {
        ServiceKey::new(address(self.vip.octets()), port(self.port), self.protocol.number())
    }

    /// From a map's key; `None` for a protocol this version does not know.
    pub fn from_key(key: &ServiceKey) -> Option<Self> {
        let protocol = match key.protocol {
            TCP => Protocol::Tcp,
            UDP => Protocol::Udp,
            _ => return None,
        };
        Some(Self { vip: octets(key.vip).into(), port: host_port(key.port), protocol })
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.vip, self.port, self.protocol)
    }
}

/// Whose port it is. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct ServicePortName {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name of the Service.
    pub name: Arc<str>,
    /// Name of the port; empty if it has none.
    pub port: Arc<str>,
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

/// A service port and the backends that answer for it. Built with [`Service::new`], which sorts and deduplicates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    name: ServicePortName,
    backends: Vec<SocketAddrV4>,
}

impl Service {
    /// A service port; the order of the backends does not matter.
    pub fn new(name: ServicePortName, mut backends: Vec<SocketAddrV4>) -> Self {
        backends.sort_unstable();
        backends.dedup();
        Self { name, backends }
    }

    /// Whose port it is.
    pub fn name(&self) -> &ServicePortName {
        &self.name
    }

    /// The backends, sorted, each once.
    pub fn backends(&self) -> &[SocketAddrV4] {
        &self.backends
    }
}

/// Everything that is to be programmed.
pub type ServiceTable = BTreeMap<Frontend, Service>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frontend_survives_the_way_through_a_key() {
        let frontend = Frontend { vip: Ipv4Addr::new(10, 96, 0, 10), port: 53, protocol: Protocol::Udp };
        assert_eq!(Frontend::from_key(&frontend.key()), Some(frontend));
        assert_eq!(frontend.to_string(), "10.96.0.10:53/UDP");
        assert_eq!(Frontend::from_key(&ServiceKey { protocol: 132, ..frontend.key() }), None);
    }

    #[test]
    fn protocols_are_read_as_the_api_writes_them() {
        assert_eq!(Protocol::from_api(None), Some(Protocol::Tcp));
        assert_eq!(Protocol::from_api(Some("UDP")), Some(Protocol::Udp));
        assert_eq!(Protocol::from_api(Some("SCTP")), None);
    }

    #[test]
    fn backends_are_sorted_and_deduplicated() {
        let a = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 80);
        let b = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 80);
        assert_eq!(Service::new(ServicePortName::default(), vec![b, a, b]).backends(), [a, b]);
    }
}
