//! From slices to the backends that may be used: readiness and termination (KEP-1669), topology hints (KEP-2433, KEP-3015),
//! and which of them are on this node.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::zones::ZoneWeights;
use crate::service::{Backend, Family, Protocol};

/// Where this node is.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// Its name.
    pub(super) node: Option<String>,
    /// The zone its label names.
    pub(super) zone: Option<String>,
}

/// What matters of an EndpointSlice.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Slice {
    family: Family,
    ports: Vec<(String, Protocol, u16)>,
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, PartialEq, Eq)]
struct Endpoint {
    address: IpAddr,
    usable: Usable,
    node: Option<String>,
    zone: Option<String>,
    for_zones: HashSet<String>,
    for_nodes: HashSet<String>,
}

/// How good an endpoint is; the better ones compare greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Usable {
    No,
    /// Terminating but still serving: used when no endpoint is ready.
    Fallback,
    Ready,
}

impl Slice {
    /// Slices of names (address type FQDN) read as empty, as do addresses that are not of the slice's type.
    pub(super) fn read(slice: &EndpointSlice) -> Self {
        let Some(family) = Family::from_api(&slice.address_type) else {
            return Self { family: Family::IPv4, ports: Vec::new(), endpoints: Vec::new() };
        };
        let ports = slice
            .ports
            .iter()
            .flatten()
            .filter_map(|port| {
                let protocol = Protocol::from_api(port.protocol.as_deref())?;
                let number = port.port.and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0)?;
                Some((port.name.clone().unwrap_or_default(), protocol, number))
            })
            .collect();
        let endpoints = slice
            .endpoints
            .iter()
            .filter_map(|endpoint| {
                // The others are for DNS; upstream's proxy uses the first one too.
                let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
                let conditions = endpoint.conditions.as_ref();
                let is = |condition: Option<bool>, default| condition.unwrap_or(default);
                let ready = is(conditions.and_then(|c| c.ready), true);
                let serving = is(conditions.and_then(|c| c.serving), true);
                let terminating = is(conditions.and_then(|c| c.terminating), false);
                let usable = match (ready, serving && terminating) {
                    (true, _) => Usable::Ready,
                    (false, true) => Usable::Fallback,
                    (false, false) => Usable::No,
                };
                let hints = endpoint.hints.as_ref();
                let zones = hints.and_then(|hints| hints.for_zones.as_ref());
                let nodes = hints.and_then(|hints| hints.for_nodes.as_ref());
                (Family::of(address) == family).then(|| Endpoint {
                    address,
                    usable,
                    node: endpoint.node_name.clone(),
                    zone: endpoint.zone.clone().filter(|zone| !zone.is_empty()),
                    for_zones: zones.into_iter().flatten().map(|zone| zone.name.clone()).collect(),
                    for_nodes: nodes.into_iter().flatten().map(|node| node.name.clone()).collect(),
                })
            })
            .collect();
        Self { family, ports, endpoints }
    }

    /// Is there such an endpoint that serves?
    pub(super) fn serves(&self, protocol: Protocol, at: SocketAddr) -> bool {
        self.ports.iter().any(|(_, p, number)| *p == protocol && *number == at.port())
            && self.endpoints.iter().any(|endpoint| endpoint.address == at.ip() && endpoint.usable != Usable::No)
    }
}

/// The backends of one service port, sorted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// For policy `Cluster`.
    pub(super) cluster: Vec<Backend>,
    /// How many places each of them gets; empty: one.
    pub(super) places: Vec<u32>,
    /// For policy `Local`.
    pub(super) local: Vec<Backend>,
}

/// Backends of a port, as upstream's proxy sorts them. Ready ones count, of the whole cluster those the topology hints
/// leave; if there is none, those that still serve while they terminate, whatever their hints. The same on this node alone,
/// without hints. An endpoint in several slices counts once, with its best state. `weights` divide what is for policy
/// `Cluster` among the zones, except where hints are followed: those have chosen the zone.
pub(super) fn categorize<'a>(
    slices: impl Iterator<Item = &'a Slice>,
    port: &str,
    protocol: Protocol,
    family: Family,
    here: &Place,
    weights: &ZoneWeights,
) -> Choice {
    let mut best: BTreeMap<SocketAddr, &Endpoint> = BTreeMap::new();
    for slice in slices.filter(|slice| slice.family == family) {
        let numbers = slice.ports.iter().filter(|(name, p, _)| name == port && *p == protocol).map(|(_, _, n)| *n);
        for number in numbers {
            for endpoint in &slice.endpoints {
                let known = best.entry(SocketAddr::new(endpoint.address, number)).or_insert(endpoint);
                if endpoint.usable > known.usable {
                    *known = endpoint;
                }
            }
        }
    }
    let is_local = |endpoint: &Endpoint| here.node.is_some() && endpoint.node == here.node;
    let hints = Hints::read(best.values().copied(), here);
    let of = |state: Usable, wanted: &dyn Fn(&Endpoint) -> bool| -> Vec<Backend> {
        let all = best.iter().filter(|(_, endpoint)| endpoint.usable == state && wanted(endpoint));
        all.map(|(address, endpoint)| Backend { address: *address, local: is_local(endpoint) }).collect()
    };
    let ready_or_leaving = |ready: Vec<Backend>, wanted: &dyn Fn(&Endpoint) -> bool| {
        if ready.is_empty() { of(Usable::Fallback, wanted) } else { ready }
    };
    let mut cluster = ready_or_leaving(of(Usable::Ready, &|endpoint| hints.allow(endpoint, here)), &|_| true);
    let mut places = Vec::new();
    if hints == Hints::None {
        let zone = |backend: &Backend| best.get(&backend.address).and_then(|endpoint| endpoint.zone.as_deref());
        places = weights.places(&cluster.iter().map(zone).collect::<Vec<_>>());
        let mut given = places.iter();
        cluster.retain(|_| given.next() != Some(&0));
        places.retain(|count| *count != 0);
        if places.iter().all(|count| Some(count) == places.first()) {
            places.clear();
        }
    }
    Choice { cluster, places, local: ready_or_leaving(of(Usable::Ready, &is_local), &is_local) }
}

/// How many ready endpoints (addresses) of these slices are on this node.
pub(super) fn ready_here<'a>(slices: impl Iterator<Item = &'a Slice>, here: &Place) -> usize {
    let endpoints = slices.flat_map(|slice| &slice.endpoints);
    let counts =
        |endpoint: &&Endpoint| endpoint.usable == Usable::Ready && here.node.is_some() && endpoint.node == here.node;
    endpoints.filter(counts).map(|endpoint| endpoint.address).collect::<HashSet<_>>().len()
}

/// Which hints are followed: those for nodes before those for zones, and either only when every ready endpoint has them and
/// at least one is meant for here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hints {
    None,
    Zones,
    Nodes,
}

impl Hints {
    fn read<'a>(endpoints: impl Iterator<Item = &'a Endpoint>, here: &Place) -> Self {
        let (mut all_nodes, mut all_zones, mut for_node, mut for_zone) = (true, true, false, false);
        for endpoint in endpoints.filter(|endpoint| endpoint.usable == Usable::Ready) {
            all_nodes &= !endpoint.for_nodes.is_empty();
            all_zones &= !endpoint.for_zones.is_empty();
            for_node |= Self::Nodes.allow(endpoint, here);
            for_zone |= Self::Zones.allow(endpoint, here);
        }
        if all_nodes && for_node {
            Self::Nodes
        } else if all_zones && for_zone {
            Self::Zones
        } else {
            Self::None
        }
    }

    fn allow(self, endpoint: &Endpoint, here: &Place) -> bool {
        let has = |set: &HashSet<String>, name: &Option<String>| name.as_ref().is_some_and(|name| set.contains(name));
        match self {
            Self::None => true,
            Self::Zones => has(&endpoint.for_zones, &here.zone),
            Self::Nodes => has(&endpoint.for_nodes, &here.node),
        }
    }
}
