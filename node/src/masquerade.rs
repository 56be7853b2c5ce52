//! Whose addresses pods' own are shown to, when what they send elsewhere gets the node's.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use skep_proxy::devices::Range;

use crate::peers;
use crate::settings::Settings;

/// What is to become of packets that leave the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Masquerade {
    /// Not known yet: as a former life left it.
    AsItWas,
    /// They keep the pod's address.
    Off,
    /// They get the node's, unless they go to one of these ranges.
    Except(BTreeSet<Range>),
}

/// The addresses of nodes and pods that `nodes` tell of.
pub(crate) fn addresses<'a>(nodes: impl Iterator<Item = &'a Node>) -> BTreeSet<IpNet> {
    let mut all = BTreeSet::new();
    for node in nodes {
        all.extend(peers::pod_cidrs(node));
        all.extend(peers::internal_addresses(node).map(IpNet::from));
    }
    all
}

/// What the settings ask for, given the addresses of the Nodes (`None`: not known yet). `own`: this node's and its pods'.
pub(crate) fn decide(
    settings: &Settings,
    nodes: Option<&BTreeSet<IpNet>>,
    own: impl Iterator<Item = IpNet>,
) -> Masquerade {
    if !settings.masquerade {
        return Masquerade::Off;
    }
    let Some(nodes) = nodes else { return Masquerade::AsItWas };
    let given = settings.cluster_cidrs.iter().chain(nodes).copied();
    let ranges = given.chain(settings.service_cidrs.iter().copied()).chain(own).chain(nowhere());
    Masquerade::Except(ranges.map(|range| (range.network(), range.prefix_len())).collect())
}

/// Addresses that mean something on one link, or many receivers.
fn nowhere() -> impl Iterator<Item = IpNet> {
    let one = |address: [u8; 4], length| IpNet::new_assert(IpAddr::from(address), length);
    let six = |first: u16, length| IpNet::new_assert(IpAddr::from([first, 0, 0, 0, 0, 0, 0, 0]), length);
    [one([169, 254, 0, 0], 16), one([224, 0, 0, 0], 4), one([255; 4], 32), six(0xfe80, 10), six(0xff00, 8)].into_iter()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nodes_tell_of_their_pods_and_their_own_addresses() {
        let node: Node =
            serde_json::from_value(json!({ "spec": { "podCIDRs": ["10.0.1.0/24"] }, "status": { "addresses": [
            { "type": "InternalIP", "address": "192.0.2.2" }, { "type": "ExternalIP", "address": "203.0.113.1" } ] } }))
            .unwrap();
        let all: Vec<String> = addresses([node].iter()).iter().map(IpNet::to_string).collect();
        assert_eq!(all, ["10.0.1.0/24", "192.0.2.2/32"]);
    }

    #[test]
    fn both_families_of_nodes_pods_and_services_see_pods_as_they_are() {
        let node: Node = serde_json::from_value(json!({
            "spec": { "podCIDRs": ["10.0.1.0/24", "fd00:1::/64"] },
            "status": { "addresses": [
                { "type": "InternalIP", "address": "192.0.2.2" }, { "type": "InternalIP", "address": "2001:db8::2" }
            ] },
        }))
        .unwrap();
        let all: Vec<String> = addresses([node].iter()).iter().map(IpNet::to_string).collect();
        assert_eq!(all, ["10.0.1.0/24", "192.0.2.2/32", "2001:db8::2/128", "fd00:1::/64"]);
    }

    #[test]
    fn ranges_for_nobody_are_sound() {
        assert_eq!(nowhere().count(), 5);
    }
}
