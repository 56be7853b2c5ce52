//! Ports of the host that pods ask for, and which of them are taken on a node.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;

const ANY_ADDRESS: &str = "0.0.0.0";

/// One port on the host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// Port number.
    pub port: i32,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Host address; `0.0.0.0` stands for all of them.
    pub address: String,
}

impl HostPort {
    fn conflicts_with(&self, other: &Self) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address || self.address == ANY_ADDRESS || other.address == ANY_ADDRESS)
    }
}

/// Whether any port of `wanted` cannot be had beside `taken`.
pub fn conflict(wanted: &[HostPort], taken: &[HostPort]) -> bool {
    wanted.iter().any(|wanted| taken.iter().any(|taken| wanted.conflicts_with(taken)))
}

/// Host ports of the containers and of the init containers that keep running (sidecars).
pub fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars =
        spec.init_containers.iter().flatten().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    sidecars
        .chain(&spec.containers)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            Some(HostPort {
                port: port.host_port.filter(|port| *port > 0)?,
                protocol: port.protocol.clone().filter(|p| !p.is_empty()).unwrap_or_else(|| "TCP".to_owned()),
                address: port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| ANY_ADDRESS.to_owned()),
            })
        })
        .collect()
}

/// The ports taken on one node. Counted, because a node may be told of two pods with one port (static pods for example).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsedPorts(BTreeMap<HostPort, u32>);

impl UsedPorts {
    /// Marks ports as taken.
    pub fn add(&mut self, ports: &[HostPort]) {
        for port in ports {
            *self.0.entry(port.clone()).or_default() += 1;
        }
    }

    /// Gives ports back.
    pub fn remove(&mut self, ports: &[HostPort]) {
        for port in ports {
            if let Some(count) = self.0.get_mut(port) {
                *count -= 1;
                if *count == 0 {
                    self.0.remove(port);
                }
            }
        }
    }

    /// Whether any of `wanted` is taken.
    pub fn conflict(&self, wanted: &[HostPort]) -> bool {
        wanted.iter().any(|wanted| {
            let first = HostPort { address: String::new(), ..wanted.clone() };
            self.0
                .range(first..)
                .take_while(|(taken, _)| taken.port == wanted.port && taken.protocol == wanted.protocol)
                .any(|(taken, _)| wanted.conflicts_with(taken))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(port: i32, protocol: &str, address: &str) -> HostPort {
        HostPort { port, protocol: protocol.to_owned(), address: address.to_owned() }
    }

    #[test]
    fn the_wildcard_address_conflicts_with_every_address_of_the_same_port_and_protocol() {
        let mut used = UsedPorts::default();
        used.add(&[port(80, "TCP", "10.0.0.1")]);
        assert!(used.conflict(&[port(80, "TCP", "0.0.0.0")]));
        assert!(used.conflict(&[port(80, "TCP", "10.0.0.1")]));
        assert!(!used.conflict(&[port(80, "TCP", "10.0.0.2")]));
        assert!(!used.conflict(&[port(80, "UDP", "0.0.0.0")]));
        assert!(!used.conflict(&[port(81, "TCP", "0.0.0.0")]));
    }

    #[test]
    fn a_port_is_free_when_its_last_user_has_gone() {
        let mut used = UsedPorts::default();
        used.add(&[port(80, "TCP", "0.0.0.0")]);
        used.add(&[port(80, "TCP", "0.0.0.0")]);
        used.remove(&[port(80, "TCP", "0.0.0.0")]);
        assert!(used.conflict(&[port(80, "TCP", "10.0.0.1")]));
        used.remove(&[port(80, "TCP", "0.0.0.0")]);
        assert_eq!(used, UsedPorts::default());
    }
}
