//! The ranges cluster IPs come from: those of the ServiceCIDRs that are ready (KEP-1880), in each the upper part first
//! (KEP-3070).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use rand::Rng;

use crate::registry::service::families::family_of;

/// The ServiceCIDR that holds what the API server was started with.
pub(crate) const DEFAULT: &str = "kubernetes";
/// Upstream gives nothing out of a wider IPv6 range.
const SHORTEST_IPV6_PREFIX: u8 = 64;
/// More addresses than this are not looked through for a free one.
const MOST_TRIES: usize = 1 << 16;

/// The networks addresses may be given from, those of the default ServiceCIDR first. As long as there is no such object,
/// what the server was started with stands for it.
pub(crate) fn usable(objects: &[ServiceCIDR], configured: &[IpNet]) -> Vec<IpNet> {
    let is_default = |object: &&ServiceCIDR| object.metadata.name.as_deref() == Some(DEFAULT);
    let mut networks = match objects.iter().find(is_default) {
        Some(object) => networks_of(object),
        None => configured.to_vec(),
    };
    for network in objects.iter().filter(|object| !is_default(object)).flat_map(networks_of) {
        if !networks.contains(&network) {
            networks.push(network);
        }
    }
    networks.retain(|network| matches!(network, IpNet::V4(_)) || network.prefix_len() >= SHORTEST_IPV6_PREFIX);
    networks
}

/// None while the object is not ready, or goes. Nobody having said yet whether it is ready means that it is, so that a
/// cluster without controllers works.
fn networks_of(object: &ServiceCIDR) -> Vec<IpNet> {
    let conditions = object.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready");
    if object.metadata.deletion_timestamp.is_some() || ready.is_some_and(|ready| ready.status != "True") {
        return Vec::new();
    }
    let cidrs = object.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
    cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect()
}

/// The addresses services may have in one network.
#[derive(Clone, Copy)]
pub(super) struct AddressRange {
    network: IpNet,
    first: u128,
    /// How many addresses follow the first usable one, itself included.
    size: u128,
    /// The lower part that free choices leave to those who ask for an address by name.
    reserved: u128,
}

impl AddressRange {
    pub(super) fn new(network: IpNet) -> Self {
        let (bits, start) = match network.trunc() {
            IpNet::V4(net) => (32 - net.prefix_len(), u128::from(u32::from(net.network()))),
            IpNet::V6(net) => (128 - net.prefix_len(), u128::from(net.network())),
        };
        // The network's own address is never given out, nor is an IPv4 broadcast address.
        let all = 1_u128 << bits.min(64);
        let unusable = if matches!(network, IpNet::V4(_)) { 2 } else { 1 };
        let size = all.saturating_sub(unusable);
        let reserved = if size < 16 { 0 } else { (size / 16).clamp(16, 256).min(size / 2) };
        // Without room for a further address the size is none.
        AddressRange { network, first: start.saturating_add(1), size, reserved }
    }

    /// The family of its addresses.
    pub(super) fn family(&self) -> &'static str {
        family_of(&self.network.addr())
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let value = match (address, self.network) {
            (IpAddr::V4(ip), IpNet::V4(_)) => u128::from(u32::from(ip)),
            (IpAddr::V6(ip), IpNet::V6(_)) => u128::from(ip),
            _ => return false,
        };
        value >= self.first && value - self.first < self.size
    }

    /// Addresses to try: from a random one of the upper part around, then the lower part.
    pub(super) fn candidates(self) -> impl Iterator<Item = IpAddr> {
        let (low, high) = (self.reserved, self.size);
        let start = if high > low { rand::rng().random_range(low..high) } else { low };
        let offsets = (start..high).chain(low..start).chain(0..low);
        offsets.take(MOST_TRIES).filter_map(move |offset| self.nth(offset))
    }

    fn nth(&self, offset: u128) -> Option<IpAddr> {
        let value = self.first.checked_add(offset)?;
        match self.network {
            IpNet::V4(_) => u32::try_from(value).ok().map(|v| IpAddr::V4(Ipv4Addr::from(v))),
            IpNet::V6(_) => Some(IpAddr::V6(Ipv6Addr::from(value))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn object(name: &str, cidrs: &[&str], ready: Option<&str>, deleted: Option<&str>) -> ServiceCIDR {
        let conditions: Vec<Value> = ready
            .iter()
            .map(|status| {
                let time = "2026-01-01T00:00:00Z";
                json!({"type": "Ready", "status": status, "reason": "", "message": "", "lastTransitionTime": time})
            })
            .collect();
        serde_json::from_value(json!({
            "metadata": {"name": name, "deletionTimestamp": deleted},
            "spec": {"cidrs": cidrs},
            "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    #[test]
    fn ranges_count_once_they_are_ready_and_until_they_go() {
        let configured = nets(&["10.96.0.0/16"]);
        assert_eq!(usable(&[], &configured), configured);
        let gone = Some("2026-01-01T00:00:00Z");
        let objects = [
            object("a", &["10.1.0.0/16", "fd00:1::/112"], Some("True"), None),
            object("b", &["10.2.0.0/16"], Some("False"), None),
            object("c", &["10.3.0.0/16"], Some("True"), gone),
            object("d", &["10.4.0.0/16"], None, None),
            object("e", &["10.1.0.0/16"], Some("True"), None),
            object("wide", &["fd00::/48"], Some("True"), None),
        ];
        let found = usable(&objects, &configured);
        assert_eq!(found, nets(&["10.96.0.0/16", "10.1.0.0/16", "fd00:1::/112", "10.4.0.0/16"]));
    }

    #[test]
    fn the_default_object_outweighs_what_the_server_was_started_with() {
        let default = |status, deleted| object(DEFAULT, &["10.5.0.0/16"], status, deleted);
        let first = object("a", &["10.1.0.0/16"], Some("True"), None);
        let configured = nets(&["10.96.0.0/16"]);
        let both = [first.clone(), default(Some("True"), None)];
        assert_eq!(usable(&both, &configured), nets(&["10.5.0.0/16", "10.1.0.0/16"]));
        let going = [first, default(Some("True"), Some("2026-01-01T00:00:00Z"))];
        assert_eq!(usable(&going, &configured), nets(&["10.1.0.0/16"]));
    }

    #[test]
    fn a_range_gives_all_its_addresses_but_its_ends() {
        for (network, expected) in [
            ("10.0.0.0/29", &["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"][..]),
            ("fd00::8/126", &["fd00::9", "fd00::a", "fd00::b"]),
            ("10.0.0.0/32", &[]),
            ("255.255.255.255/32", &[]),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", &[]),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127", &["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]),
        ] {
            let range = AddressRange::new(network.parse().unwrap());
            let mut all: Vec<_> = range.candidates().collect();
            all.sort();
            assert_eq!(all, expected.iter().map(|ip| ip.parse::<IpAddr>().unwrap()).collect::<Vec<_>>());
            assert!(all.iter().all(|address| range.contains(*address)));
        }
    }

    #[test]
    fn the_lower_part_of_a_wide_ipv6_range_is_left_to_those_who_ask_for_it() {
        let range = AddressRange::new("fd00::/64".parse().unwrap());
        let some: Vec<_> = range.candidates().take(100).collect();
        assert!(
            some.iter().all(|address| range.contains(*address) && *address > "fd00::100".parse::<IpAddr>().unwrap())
        );
        assert!(range.contains("fd00::1".parse().unwrap()) && !range.contains("fd00::".parse().unwrap()));
    }
}
