//! Whose addresses are the cluster's own: pods show them theirs, even when what they send elsewhere gets the node's; and
//! backends answer through the node that was asked, even when they answer others directly.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use skep_proxy::devices::Range;

use crate::peers;
use crate::settings::Settings;

/// The addresses of all nodes and their pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cluster {
    /// By which nodes know each other.
    pub(crate) nodes: BTreeSet<IpAddr>,
    /// Ranges of pods.
    pub(crate) pods: BTreeSet<IpNet>,
}

impl Cluster {
    /// What `nodes` tell.
    pub(crate) fn of<'a>(nodes: impl Iterator<Item = &'a Node>) -> Self {
        let mut all = Self::default();
        for node in nodes {
            all.pods.extend(peers::pod_cidrs(node));
            all.nodes.extend(peers::internal_addresses(node));
        }
        all
    }

    /// All ranges of the cluster's own, as the settings name more.
    pub(crate) fn inside(&self, settings: &Settings) -> BTreeSet<Range> {
        let given = settings.cluster_cidrs.iter().chain(&self.pods).copied();
        let ranges = given.chain(settings.service_cidrs.iter().copied()).chain(nowhere());
        ranges.map(|range| (range.network(), range.prefix_len())).collect()
    }
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
        let all = Cluster::of([node].iter());
        assert_eq!(all.pods, BTreeSet::from(["10.0.1.0/24".parse().unwrap()]));
        assert_eq!(all.nodes, BTreeSet::from(["192.0.2.2".parse().unwrap()]));
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
        let all = Cluster::of([node].iter());
        assert_eq!(all.pods.iter().map(IpNet::to_string).collect::<Vec<_>>(), ["10.0.1.0/24", "fd00:1::/64"]);
        assert_eq!(all.nodes.iter().map(IpAddr::to_string).collect::<Vec<_>>(), ["192.0.2.2", "2001:db8::2"]);
    }

    #[test]
    fn ranges_for_nobody_are_sound() {
        assert_eq!(nowhere().count(), 5);
    }
}
