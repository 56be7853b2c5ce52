//! From slices to the addresses that may be used, as KEP-1669 (terminating endpoints) has it.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
};

use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::service::Protocol;

/// What matters of an EndpointSlice.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Slice {
    ports: Vec<(String, Protocol, u16)>,
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, PartialEq, Eq)]
struct Endpoint {
    address: Ipv4Addr,
    usable: Usable,
    node: Option<String>,
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
    /// Slices of other address types read as empty.
    pub(super) fn read(slice: &EndpointSlice) -> Self {
        if slice.address_type != "IPv4" {
            return Self { ports: Vec::new(), endpoints: Vec::new() };
        }
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
                let address = endpoint.addresses.first()?.parse().ok()?;
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
                Some(Endpoint { address, usable, node: endpoint.node_name.clone() })
            })
            .collect();
        Self { ports, endpoints }
    }
}

/// Addresses that answer for a port: the ready ones, or, if there is none, those that still serve while they terminate.
/// With `local` only those of that node count. An endpoint in several slices counts once, with its best state.
pub(super) fn usable<'a>(
    slices: impl Iterator<Item = &'a Slice>,
    port: &str,
    protocol: Protocol,
    local: Option<&str>,
) -> Vec<SocketAddrV4> {
    let mut best: BTreeMap<SocketAddrV4, Usable> = BTreeMap::new();
    for slice in slices {
        let numbers = slice.ports.iter().filter(|(name, p, _)| name == port && *p == protocol).map(|(_, _, n)| *n);
        for number in numbers {
            for endpoint in &slice.endpoints {
                if local.is_some_and(|node| endpoint.node.as_deref() != Some(node)) {
                    continue;
                }
                let state = best.entry(SocketAddrV4::new(endpoint.address, number)).or_insert(Usable::No);
                *state = endpoint.usable.max(*state);
            }
        }
    }
    let with = |wanted: Usable| best.iter().filter(move |(_, state)| **state == wanted).map(|(address, _)| *address);
    let ready: Vec<_> = with(Usable::Ready).collect();
    if ready.is_empty() { with(Usable::Fallback).collect() } else { ready }
}
