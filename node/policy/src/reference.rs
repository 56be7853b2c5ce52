//! The API's documentation as a function: slow, without state, and as close to the text as code can be.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Node, Pod},
        networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort},
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use crate::Direction;

/// All there is.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Every Namespace.
    pub namespaces: Vec<Namespace>,
    /// Every Pod.
    pub pods: Vec<Pod>,
    /// Every NetworkPolicy.
    pub policies: Vec<NetworkPolicy>,
    /// Every Node.
    pub nodes: Vec<Node>,
}

impl Cluster {
    /// May the pod open (egress) or be sent (ingress) a connection, as far as its own policies go? `port` is the
    /// destination's. A connection between two pods needs both of their answers.
    pub fn allows(
        &self,
        pod: &Pod,
        own: IpAddr,
        direction: Direction,
        peer: IpAddr,
        protocol: &str,
        port: u16,
    ) -> bool {
        let at_home = |node: &&Node| node.metadata.name == pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        // "Traffic to and from the node where a Pod is running is always allowed"; a pod cannot be cut off from itself.
        if peer == own || self.nodes.iter().filter(at_home).any(|node| node_has(node, peer)) {
            return true;
        }
        let mut isolated = false;
        for policy in &self.policies {
            let spec = policy.spec.clone().unwrap_or_default();
            let selected = policy.metadata.namespace == pod.metadata.namespace
                && spec.pod_selector.as_ref().is_none_or(|selector| matches(selector, pod.metadata.labels.as_ref()));
            let types = match spec.policy_types.as_deref().unwrap_or_default() {
                [] if spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()) => vec!["Ingress", "Egress"],
                [] => vec!["Ingress"],
                listed => listed.iter().map(String::as_str).collect(),
            };
            if !selected || !types.contains(&format!("{direction:?}").as_str()) {
                continue;
            }
            isolated = true;
            let mut rules = Vec::new();
            match direction {
                Direction::Ingress => {
                    rules.extend(spec.ingress.into_iter().flatten().map(|rule| (rule.from, rule.ports)))
                }
                Direction::Egress => rules.extend(spec.egress.into_iter().flatten().map(|rule| (rule.to, rule.ports))),
            }
            for (peers, ports) in rules {
                let (peers, ports) = (peers.unwrap_or_default(), ports.unwrap_or_default());
                let peer_fits = peers.is_empty() || peers.iter().any(|p| self.peer_fits(policy, p, peer));
                let destination = if direction == Direction::Ingress { Some(pod) } else { self.pod_at(peer) };
                let port_fits = ports.is_empty() || ports.iter().any(|p| port_fits(p, destination, protocol, port));
                if peer_fits && port_fits {
                    return true;
                }
            }
        }
        !isolated
    }

    /// The pod that has an address to itself.
    fn pod_at(&self, address: IpAddr) -> Option<&Pod> {
        if self.nodes.iter().any(|node| node_has(node, address)) {
            return None;
        }
        self.pods.iter().find(|pod| seen(pod) && addresses(pod).contains(&address))
    }

    fn peer_fits(&self, policy: &NetworkPolicy, rule: &NetworkPolicyPeer, peer: IpAddr) -> bool {
        if let Some(block) = &rule.ip_block {
            let within = |cidr: &String| cidr.parse::<IpNet>().is_ok_and(|net| net.contains(&peer));
            return within(&block.cidr) && !block.except.iter().flatten().any(within);
        }
        let Some(pod) = self.pod_at(peer) else { return false };
        let namespace_fits = match &rule.namespace_selector {
            None => rule.pod_selector.is_some() && pod.metadata.namespace == policy.metadata.namespace,
            Some(selector) => self.namespaces.iter().any(|namespace| {
                namespace.metadata.name == pod.metadata.namespace
                    && matches(selector, namespace.metadata.labels.as_ref())
            }),
        };
        namespace_fits && rule.pod_selector.as_ref().is_none_or(|s| matches(s, pod.metadata.labels.as_ref()))
    }
}

/// Is it a pod that policies see: on the pod network and not done?
pub fn seen(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or_default();
    !host_network && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// A pod's addresses.
pub fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let ips = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
    ips.filter_map(|ip| ip.ip.parse().ok()).collect()
}

fn node_has(node: &Node, address: IpAddr) -> bool {
    let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    all.into_iter().any(|a| a.address.parse() == Ok(address))
}

fn port_fits(rule: &NetworkPolicyPort, destination: Option<&Pod>, protocol: &str, port: u16) -> bool {
    if rule.protocol.as_deref().unwrap_or("TCP") != protocol {
        return false;
    }
    match &rule.port {
        None => true,
        Some(IntOrString::Int(low)) => (*low..=rule.end_port.unwrap_or(*low)).contains(&i32::from(port)),
        Some(IntOrString::String(name)) => {
            let containers = destination.and_then(|pod| pod.spec.as_ref()).map(|spec| &spec.containers);
            containers.into_iter().flatten().flat_map(|c| c.ports.iter().flatten()).any(|p| {
                p.name.as_ref() == Some(name)
                    && p.protocol.as_deref().unwrap_or("TCP") == protocol
                    && p.container_port == i32::from(port)
            })
        }
    }
}

fn matches(selector: &LabelSelector, labels: Option<&std::collections::BTreeMap<String, String>>) -> bool {
    let value = |key: &String| labels.and_then(|labels| labels.get(key));
    let labels_fit = selector.match_labels.iter().flatten().all(|(key, wanted)| value(key) == Some(wanted));
    labels_fit
        && selector.match_expressions.iter().flatten().all(|e| {
            let listed = value(&e.key).is_some_and(|v| e.values.iter().flatten().any(|wanted| wanted == v));
            match e.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value(&e.key).is_some(),
                "DoesNotExist" => value(&e.key).is_none(),
                _ => false,
            }
        })
}
