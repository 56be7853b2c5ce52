//! Which of a pod's addresses are told, and in what order.

use std::net::IpAddr;

/// The first address of each family, that of the node's primary family first: a runtime lists them in an order of its own
/// (KEP-563). What is no address is left out.
pub(crate) fn sorted(ips: &[String], node_ips: &[IpAddr]) -> Vec<String> {
    let v6_first = node_ips.first().is_some_and(IpAddr::is_ipv6);
    let parsed = || ips.iter().filter_map(|ip| Some((ip.parse::<IpAddr>().ok()?.is_ipv6(), ip)));
    let of = |v6: bool| parsed().find(|(is_v6, _)| *is_v6 == v6).map(|(_, ip)| ip.clone());
    of(v6_first).into_iter().chain(of(!v6_first)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_primary_family_comes_first_and_each_has_one() {
        let node = |ip: &str| [ip.parse::<IpAddr>().unwrap()];
        let text = |ips: &[&str]| ips.iter().map(ToString::to_string).collect::<Vec<_>>();
        let both = text(&["10.0.0.2", "fd00::2"]);
        assert_eq!(sorted(&both, &node("192.0.2.1")), both);
        assert_eq!(sorted(&both, &node("fd00::1")), text(&["fd00::2", "10.0.0.2"]));
        assert_eq!(sorted(&both, &[]), both);
        let many = text(&["fd00::2", "10.0.0.2", "fd00::3", "", "10.0.0.3"]);
        assert_eq!(sorted(&many, &node("192.0.2.1")), both);
        assert_eq!(sorted(&text(&["fd00::2"]), &node("192.0.2.1")), text(&["fd00::2"]));
        assert!(sorted(&[], &node("fd00::1")).is_empty());
    }
}
