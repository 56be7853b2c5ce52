//! What the model keeps of the API's objects.

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use k8s_openapi::{
    api::{
        core::v1::{Node, Pod},
        networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort},
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};

use crate::{
    SCTP, TCP, UDP,
    selector::{Labels, Selector},
};

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The object's namespace.
    pub namespace: Arc<str>,
    /// The object's name.
    pub name: Arc<str>,
}

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    pub(crate) fn of(metadata: &ObjectMeta) -> Self {
        Self::new(metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
    }
}

/// Everything policies can tell about a pod but its address. Namespace labels are left out: a namespace has one set of
/// them at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct GroupKey {
    pub(crate) namespace: Arc<str>,
    pub(crate) labels: Labels,
    /// (name, protocol, number), sorted.
    pub(crate) ports: Box<[(Box<str>, u8, u16)]>,
}

impl fmt::Display for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {{{}}}", self.namespace, self.labels)
    }
}

/// A pod that has an address of its own and may still send.
#[derive(Clone, Debug)]
pub(crate) struct PodRecord {
    pub(crate) group: GroupKey,
    pub(crate) addresses: Box<[IpAddr]>,
    pub(crate) node: Option<Box<str>>,
    /// Being deleted: its policies hold to the end, but another pod that already has its address is the owner.
    pub(crate) terminating: bool,
}

/// What a policy refers to; nothing of a pod that policies do not see: of the host's network, completed, or without an
/// address yet.
pub(crate) fn pod(pod: &Pod) -> Option<PodRecord> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
    let completed = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if completed || spec.host_network == Some(true) {
        return None;
    }
    let mut addresses: Vec<IpAddr> = status.pod_ips.iter().flatten().filter_map(|ip| ip.ip.parse().ok()).collect();
    addresses.extend(status.pod_ip.as_ref().and_then(|ip| ip.parse::<IpAddr>().ok()));
    addresses.sort();
    addresses.dedup();
    if addresses.is_empty() {
        return None;
    }
    // Init containers that go on running (sidecars) serve ports, too.
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let mut ports = Vec::new();
    for port in spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten()) {
        if let (Some(name), Some(protocol), Ok(number)) =
            (&port.name, protocol(port.protocol.as_deref()), u16::try_from(port.container_port))
        {
            ports.push((Box::from(name.as_str()), protocol, number));
        }
    }
    ports.sort();
    ports.dedup();
    let namespace = Arc::from(pod.metadata.namespace.as_deref().unwrap_or_default());
    Some(PodRecord {
        group: GroupKey { namespace, labels: Labels::new(pod.metadata.labels.as_ref()), ports: ports.into() },
        addresses: addresses.into(),
        node: spec.node_name.as_deref().map(Box::from),
        terminating: pod.metadata.deletion_timestamp.is_some(),
    })
}

/// Will the pod have an address of its own, if it has none yet?
pub(crate) fn expects_address(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network);
    host_network != Some(true) && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// A node's addresses that packets can come from.
pub(crate) fn node_addresses(node: &Node) -> Vec<IpAddr> {
    let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    all.filter_map(|address| address.address.parse().ok()).collect()
}

fn protocol(name: Option<&str>) -> Option<u8> {
    match name {
        None | Some("TCP") => Some(TCP),
        Some("UDP") => Some(UDP),
        Some("SCTP") => Some(SCTP),
        Some(_) => None,
    }
}

/// A peer as rules name it. Equal peers of different policies are one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Peer {
    /// Pods of the policy's namespace.
    Near(Arc<str>, Selector),
    /// Pods of the namespaces the first selector matches.
    Far(Selector, Selector),
    /// Every pod: stands for a missing `to` where named ports must be resolved pod by pod.
    Pods,
    /// Addresses, less the exceptions.
    Block(IpNet, Box<[IpNet]>),
}

impl Peer {
    fn new(namespace: &Arc<str>, peer: &NetworkPolicyPeer) -> Option<Self> {
        match (&peer.ip_block, &peer.namespace_selector, &peer.pod_selector) {
            (Some(block), None, None) => Self::block(block),
            (None, None, Some(pods)) => Some(Self::Near(namespace.clone(), Selector::new(pods))),
            (None, Some(namespaces), pods) => {
                Some(Self::Far(Selector::new(namespaces), pods.as_ref().map(Selector::new).unwrap_or_default()))
            }
            // Validation refuses the others.
            _ => None,
        }
    }

    fn block(block: &IPBlock) -> Option<Self> {
        // No packet has an IPv4 address in IPv6 clothes.
        let is_mapped = |net: &IpNet| matches!(net.network(), IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
        let parse = |text: &String| text.parse::<IpNet>().ok().map(|net| net.trunc()).filter(|net| !is_mapped(net));
        let mut except = Vec::new();
        for text in block.except.iter().flatten() {
            // An exception that cannot be read must not widen what is allowed.
            except.push(parse(text)?);
        }
        except.sort();
        Some(Self::Block(parse(&block.cidr)?, except.into()))
    }
}

/// Ports as rules name them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ports {
    Range(u8, u16, u16),
    Named(u8, Box<str>),
}

impl Ports {
    fn new(port: &NetworkPolicyPort) -> Option<Self> {
        let protocol = protocol(port.protocol.as_deref())?;
        Some(match &port.port {
            None => Self::Range(protocol, 0, u16::MAX),
            Some(IntOrString::String(name)) => Self::Named(protocol, name.as_str().into()),
            Some(IntOrString::Int(low)) => {
                let low = u16::try_from(*low).ok()?;
                let high = port.end_port.map_or(Some(low), |high| u16::try_from(high).ok())?;
                Self::Range(protocol, low, high).filter_empty()?
            }
        })
    }

    fn filter_empty(self) -> Option<Self> {
        match self {
            Self::Range(_, low, high) if low > high => None,
            other => Some(other),
        }
    }
}

/// A rule: its peers or everybody, its ports or everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) peers: Option<Box<[Peer]>>,
    pub(crate) ports: Option<Box<[Ports]>>,
}

impl Rule {
    fn new(
        namespace: &Arc<str>,
        peers: Option<&Vec<NetworkPolicyPeer>>,
        ports: Option<&Vec<NetworkPolicyPort>>,
    ) -> Self {
        // An empty list says the same as none.
        let peers = peers.filter(|list| !list.is_empty());
        let ports = ports.filter(|list| !list.is_empty());
        Self {
            peers: peers.map(|list| list.iter().filter_map(|peer| Peer::new(namespace, peer)).collect()),
            ports: ports.map(|list| list.iter().filter_map(Ports::new).collect()),
        }
    }
}

/// A policy. A direction that is `None` is not its business; one without rules allows nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PolicyRecord {
    pub(crate) subjects: Selector,
    pub(crate) ingress: Option<Box<[Rule]>>,
    pub(crate) egress: Option<Box<[Rule]>>,
}

/// The API's form, with its defaults: without types, ingress always, egress if there are egress rules.
pub(crate) fn policy(policy: &NetworkPolicy) -> PolicyRecord {
    let namespace: Arc<str> = policy.metadata.namespace.as_deref().unwrap_or_default().into();
    let spec = policy.spec.clone().unwrap_or_default();
    let types = spec.policy_types.unwrap_or_default();
    let (mut ingress, mut egress) = (Vec::new(), Vec::new());
    for rule in spec.ingress.iter().flatten() {
        ingress.push(Rule::new(&namespace, rule.from.as_ref(), rule.ports.as_ref()));
    }
    for rule in spec.egress.iter().flatten() {
        egress.push(Rule::new(&namespace, rule.to.as_ref(), rule.ports.as_ref()));
    }
    let has = |name: &str| types.iter().any(|t| t == name);
    let wants_ingress = types.is_empty() || has("Ingress");
    let wants_egress = if types.is_empty() { !egress.is_empty() } else { has("Egress") };
    PolicyRecord {
        subjects: spec.pod_selector.as_ref().map(Selector::new).unwrap_or_default(),
        ingress: wants_ingress.then(|| ingress.into()),
        egress: wants_egress.then(|| egress.into()),
    }
}
