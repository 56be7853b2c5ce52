//! Which ServiceCIDRs hold which addresses. Pure functions.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};

use crate::meta;

const MANAGED_BY_LABEL: &str = "ipaddress.kubernetes.io/managed-by";
const MANAGED_BY: &str = "ipallocator.k8s.io";

/// The networks of a range; the API server has seen to it that they are some.
fn networks(range: &ServiceCIDR) -> impl Iterator<Item = IpNet> + '_ {
    let cidrs = range.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
    cidrs.iter().filter_map(|cidr| cidr.parse().ok())
}

/// The address, if the API server has given it to a Service.
pub(super) fn allocated(address: &IPAddress) -> Option<IpAddr> {
    if meta::label(&address.metadata, MANAGED_BY_LABEL) != Some(MANAGED_BY) {
        return None;
    }
    meta::name(&address.metadata).parse().ok()
}

/// True if some address is in both ranges.
pub(super) fn overlap(one: &ServiceCIDR, other: &ServiceCIDR) -> bool {
    networks(one).any(|net| networks(other).any(|other| net.contains(&other) || other.contains(&net)))
}

/// True if a Service can have the address from the range: it is neither its first nor, in IPv4, its last one.
pub(super) fn holds(range: &ServiceCIDR, address: IpAddr) -> bool {
    networks(range).any(|net| {
        net.contains(&address) && net.network() != address && (address.is_ipv6() || net.broadcast() != address)
    })
}

/// True if no allocated address is left without a range when `range` goes. That is so if the other ranges contain all of
/// it, or none of `addresses` is in it alone.
pub(super) fn may_go(range: &ServiceCIDR, all: &[Arc<ServiceCIDR>], addresses: &[IpAddr]) -> bool {
    let others: Vec<_> = all.iter().filter(|other| other.metadata.name != range.metadata.name).collect();
    let is_contained = |net: IpNet| others.iter().any(|other| networks(other).any(|parent| parent.contains(&net)));
    if networks(range).all(is_contained) {
        return true;
    }
    !addresses.iter().any(|address| holds(range, *address) && !others.iter().any(|other| holds(other, *address)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn range(name: &str, cidrs: &[&str]) -> Arc<ServiceCIDR> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}})).unwrap())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_holds_what_it_can_give_away() {
        let range = range("a", &["10.0.0.0/24", "fd00::/120"]);
        for (address, held) in [
            ("10.0.0.0", false),
            ("10.0.0.1", true),
            ("10.0.0.255", false),
            ("10.0.1.1", false),
            ("fd00::", false),
            ("fd00::ff", true),
        ] {
            assert_eq!(holds(&range, ip(address)), held, "{address}");
        }
    }

    #[test]
    fn ranges_overlap_when_one_contains_the_other() {
        let wide = range("wide", &["10.0.0.0/16"]);
        let narrow = range("narrow", &["fd00::/120", "10.0.7.0/24"]);
        let apart = range("apart", &["10.1.0.0/16"]);
        assert!(overlap(&wide, &narrow) && overlap(&narrow, &wide));
        assert!(!overlap(&apart, &wide) && !overlap(&apart, &narrow));
    }

    #[test]
    fn a_range_goes_only_when_nobody_misses_it() {
        let wide = range("wide", &["10.0.0.0/16"]);
        let narrow = range("narrow", &["10.0.7.0/24"]);
        let both = [wide.clone(), narrow.clone()];
        assert!(may_go(&narrow, &both, &[ip("10.0.7.1")]), "the wider one has the address too");
        assert!(!may_go(&wide, &both, &[ip("10.0.8.1")]));
        assert!(may_go(&wide, &both, &[ip("10.0.7.1")]), "the narrower one has the address too");
        assert!(!may_go(&wide, &both, &[ip("10.0.7.255")]), "the narrower one cannot give its last address away");
        assert!(!may_go(&narrow, std::slice::from_ref(&narrow), &[ip("10.0.7.1")]));
        assert!(may_go(&narrow, std::slice::from_ref(&narrow), &[ip("10.0.8.1")]));
    }

    #[test]
    fn both_networks_must_be_contained() {
        let dual = range("dual", &["10.0.0.0/24", "fd00::/120"]);
        let parent = range("parent", &["10.0.0.0/16"]);
        assert!(!may_go(&dual, &[dual.clone(), parent.clone()], &[ip("10.0.0.1"), ip("fd00::1")]));
        assert!(may_go(&dual, &[dual.clone(), parent], &[ip("10.0.0.1")]));
    }

    #[test]
    fn only_addresses_of_the_api_server_count() {
        let address = |manager: &str| {
            let labels = json!({MANAGED_BY_LABEL: manager});
            allocated(&serde_json::from_value(json!({"metadata": {"name": "10.0.0.1", "labels": labels}})).unwrap())
        };
        assert_eq!(address("ipallocator.k8s.io"), Some(ip("10.0.0.1")));
        assert_eq!(address("somebody"), None);
    }
}
