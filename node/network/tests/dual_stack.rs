//! Pods with addresses of two families, or of IPv6 alone, against the real kernel: every node and pod here is a network
//! namespace made by the test. Needs root and iproute2.

#[path = "network/harness.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod harness;

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};

use harness::{Namespace, Node, PATIENCE, exchange};
use serde_json::{Value, json};
use skep_network::{Network, Reconciled, host_device_name, pod_devices};

const BOTH: &str = "10.77.0.0/24,fd00:77::/64";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn read(namespace: &Namespace, setting: &str) -> String {
    let path = format!("/proc/sys/net/ipv6/conf/{setting}");
    namespace.run(|| fs::read_to_string(path).unwrap().trim().to_owned())
}

#[test]
fn pods_and_their_node_reach_each_other_over_both_families() {
    for (cidrs, first, second) in [
        (BOTH, "10.77.0.2", Some("fd00:77::2")),
        ("fd00:77::/64,10.77.0.0/24", "fd00:77::2", Some("10.77.0.2")),
        ("fd00:77::/64", "fd00:77::2", None),
    ] {
        let node = Node::new(cidrs);
        let (a, b) = (node.add("pod-a"), node.add("pod-b"));
        assert_eq!((a.address, a.second), (ip(first), second.map(ip)));
        let [of_a, of_b] = [&a, &b].map(|pod| [Some(pod.address), pod.second].into_iter().flatten());
        for (own, other) in of_a.zip(of_b) {
            let of_node = if own.is_ipv4() { IpAddr::from(Node::ADDRESS) } else { Node::ADDRESS6.into() };
            assert_eq!(exchange(&a.namespace, &b.namespace, other), own.to_string());
            assert_eq!(exchange(&b.namespace, &a.namespace, own), other.to_string());
            assert_eq!(exchange(&node.namespace, &a.namespace, own), of_node.to_string());
            assert_eq!(exchange(&a.namespace, &node.namespace, of_node), own.to_string());
            assert_eq!(exchange(&a.namespace, &a.namespace, own), own.to_string());
        }
        let devices = node.namespace.run(|| pod_devices().unwrap());
        assert_eq!(devices.len(), 2);
        assert!(devices.iter().all(|device| device.addresses.len() == 1 + usize::from(second.is_some())));
    }
}

#[test]
fn a_pod_reaches_what_the_node_routes_over_ipv6_and_is_answered() {
    let node = Node::new(BOTH);
    let pod = node.add("pod");
    let outside = &node.outside;
    outside.ip(&format!("-6 route add fd00:77::/64 via {}", Node::ADDRESS6));
    let address = pod.second.unwrap();
    assert_eq!(exchange(&pod.namespace, outside, Node::OUTSIDE6), address.to_string());
    assert_eq!(exchange(outside, &pod.namespace, address), Node::OUTSIDE6.to_string());
}

#[test]
fn nodes_that_listened_to_routers_still_do_and_pods_never() {
    let mut prepared = Node::prepare(BOTH);
    prepared.namespace.ip("link add up2 type veth peer name up3");
    for (device, value) in [("up0", "1"), ("up2", "0")] {
        let path = format!("/proc/sys/net/ipv6/conf/{device}/accept_ra");
        prepared.namespace.run(|| fs::write(path, value).unwrap());
    }
    prepared.setup();
    let node = prepared.into_node();
    let pod = node.add("pod");
    assert_eq!(read(&node.namespace, "all/forwarding"), "1");
    assert_eq!([read(&node.namespace, "up0/accept_ra"), read(&node.namespace, "up2/accept_ra")], ["2", "0"]);
    let wire = host_device_name("pod", "eth0");
    assert_eq!(
        [read(&node.namespace, &format!("{wire}/accept_ra")), read(&pod.namespace, "eth0/accept_ra")],
        ["0", "0"]
    );
    // Nothing is asked or announced on a wire: the node's end has no address of its own.
    assert_eq!(node.namespace.ip(&format!("-6 address show dev {wire}")), "");
}

#[test]
fn a_node_of_one_family_changes_no_setting_of_the_other() {
    let node = Node::new("10.77.0.0/24");
    let _pod = node.add("pod");
    assert_eq!(read(&node.namespace, "all/forwarding"), "0");
    assert_eq!(read(&node.namespace, &format!("{}/disable_ipv6", host_device_name("pod", "eth0"))), "1");
}

#[test]
fn the_result_names_both_addresses_and_check_asks_for_both() {
    let node = Node::new(BOTH);
    let pod = Namespace::bare();
    let conf = node.conf("1.1.0");
    let result = node.respond("ADD", "pod", "eth0", Some(&pod.path), &conf).unwrap();
    assert_eq!(
        result["ips"],
        json!([
            { "address": "10.77.0.2/32", "gateway": "169.254.1.1", "interface": 1 },
            { "address": "fd00:77::2/128", "gateway": "fe80::1", "interface": 1 },
        ])
    );
    assert_eq!(
        result["routes"],
        json!([{ "dst": "0.0.0.0/0", "gw": "169.254.1.1" }, { "dst": "::/0", "gw": "fe80::1" }])
    );
    let check = |result: &Value| {
        let mut conf: Value = serde_json::from_str(&conf).unwrap();
        conf["prevResult"] = result.clone();
        node.respond("CHECK", "pod", "eth0", Some(&pod.path), &conf.to_string())
    };
    check(&result).unwrap();
    let mut half = result.clone();
    half["ips"].as_array_mut().unwrap().pop();
    assert_eq!(check(&half).unwrap_err()["code"], 101);
    for broken in ["-6 route del default", "-6 address del fd00:77::2/128 dev eth0"] {
        pod.ip(broken);
        assert_eq!(check(&result).unwrap_err()["code"], 101, "{broken}");
        // A second ADD makes it whole, with the same addresses.
        assert_eq!(node.respond("ADD", "pod", "eth0", Some(&pod.path), &conf).unwrap(), result);
        check(&result).unwrap();
    }
    let old = node.call_as("0.4.0", "ADD", "old", Some(&Namespace::bare().path)).unwrap();
    assert_eq!([&old["ips"][0]["version"], &old["ips"][1]["version"]], ["4", "6"]);
    node.delete("pod", Some(&pod.path));
    node.delete("old", None);
    assert!(node.network.leases().unwrap().is_empty());
}

#[test]
fn reconcile_restores_both_families() {
    let node = Node::new(BOTH);
    let (a, b) = (node.add("pod-a"), node.add("pod-b"));
    let whole = node.inventory();
    assert_eq!(node.reconcile(), Reconciled { pods: 2, ..Reconciled::default() });
    assert_eq!(node.inventory(), whole);
    node.namespace.ip("-6 route flush proto 83");
    node.namespace.ip(&format!("-6 neigh flush nud permanent dev {}", host_device_name("pod-a", "eth0")));
    node.namespace.ip(&format!("link del {}", host_device_name("pod-b", "eth0")));
    node.namespace.ip("-6 route add unreachable fd99::/64 proto 83");
    assert_eq!(node.reconcile(), Reconciled { pods: 2, repaired: 2, leftovers_removed: 1, ..Reconciled::default() });
    assert_eq!(node.inventory(), whole);
    let [of_a, of_b] = [&a, &b].map(|pod| pod.second.unwrap());
    assert_eq!(exchange(&a.namespace, &b.namespace, of_b), of_a.to_string());
    assert_eq!(exchange(&a.namespace, &b.namespace, b.address), a.address.to_string());
}

#[test]
fn unknown_service_and_pod_addresses_are_refused_at_once() {
    let node = Node::new(BOTH);
    let pod = node.add("pod");
    for address in ["[fd96::77]:80", "[fd00:77::99]:80"] {
        let address: SocketAddr = address.parse().unwrap();
        for from in [&pod.namespace, &node.namespace] {
            let error = from.run(|| TcpStream::connect_timeout(&address, PATIENCE).unwrap_err());
            let refused = matches!(error.kind(), ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable);
            assert!(refused, "{address}: {error}");
        }
    }
}

#[test]
fn service_ranges_that_come_later_are_closed_and_opened_again() {
    let mut node = Node::new(BOTH);
    let whole = node.inventory();
    let close = |node: &Node, ranges: &[&str]| {
        let ranges: Vec<_> = ranges.iter().map(|range| range.parse().unwrap()).collect();
        node.namespace.run(|| node.network.close_ranges(&ranges).unwrap());
    };
    // Ranges that are closed anyway, and such as would cut the node or its pods off.
    close(&node, &["10.96.0.0/12", "fd00:77::/48", "192.168.0.0/16", "10.77.0.128/25"]);
    assert_eq!(node.inventory(), whole);
    close(&node, &["10.120.0.0/16", "fd97::/112"]);
    let closed = node.inventory();
    for range in ["unreachable 10.120.0.0/16", "unreachable fd97::/112"] {
        assert!(closed.contains(range), "{closed}");
    }
    assert_eq!(node.reconcile(), Reconciled::default());
    assert_eq!(node.inventory(), closed);

    // A daemon that comes back does not open them before it is told.
    node.config.awaits_more_ranges = true;
    node.network = node.namespace.run(|| Network::setup(node.config.clone()).unwrap());
    assert_eq!(node.reconcile(), Reconciled::default());
    assert_eq!(node.inventory(), closed);
    close(&node, &[]);
    assert_eq!(node.inventory(), whole);
}

#[test]
fn pods_from_before_the_second_family_keep_their_one_address() {
    let mut node = Node::new("10.77.0.0/24");
    let old = node.add("old");
    // As a daemon of before would have written them.
    let conf = node.conf("1.0.0");
    let mut before: Value = serde_json::from_str(&conf).unwrap();
    let before = before.as_object_mut().unwrap();
    before.remove("podCIDRs");
    before.remove("nodeIPs");
    before.insert("podCIDR".into(), "10.77.0.0/24".into());
    before.insert("nodeIP".into(), Node::ADDRESS.to_string().into());
    let before = json!(before).to_string();
    node.respond("CHECK", "old", "eth0", Some(&old.namespace.path), &before).unwrap();

    node.namespace.ip(&format!("address add {}/64 dev up0 nodad", Node::ADDRESS6));
    node.config.pod_cidrs.push("fd00:77::/64".parse().unwrap());
    node.config.service_cidrs.push("fd96::/108".parse().unwrap());
    node.config.node_ips.push(Node::ADDRESS6.into());
    node.network = node.namespace.run(|| Network::setup(node.config.clone()).unwrap());
    assert_eq!(node.reconcile(), Reconciled { pods: 1, ..Reconciled::default() });
    node.call("CHECK", "old", Some(&old.namespace.path)).unwrap();
    let new = node.add("new");
    assert_eq!((new.address, new.second), (ip("10.77.0.3"), Some(ip("fd00:77::2"))));
    assert_eq!(exchange(&new.namespace, &old.namespace, old.address), new.address.to_string());
    // And the plugin's configuration of before still serves.
    node.respond("DEL", "old", "eth0", Some(&old.namespace.path), &before).unwrap();
    node.respond("DEL", "new", "eth0", Some(&new.namespace.path), &before).unwrap();
    assert!(node.network.leases().unwrap().is_empty());
}

#[test]
fn teardown_removes_what_is_of_either_family() {
    let mut node = Node::new(BOTH);
    let bare = node.bare_inventory.clone();
    let pod = node.add("pod");
    node.teardown();
    assert_eq!(node.inventory(), bare);
    assert!(!pod.namespace.ip("link show").contains("eth0"));
}

#[test]
fn families_that_do_not_fit_together_are_refused() {
    let prepared = Node::prepare(BOTH);
    for (pods, services) in [
        (&["10.77.0.0/24", "10.78.0.0/24"][..], &["10.96.0.0/12"][..]),
        (&[], &["10.96.0.0/12"]),
        (&["10.77.0.0/24", "fd00:77::/64"], &["10.96.0.0/12", "10.112.0.0/12"]),
        (&["10.77.0.0/24", "fd96::/64"], &["10.96.0.0/12", "fd96::/108"]),
    ] {
        let mut config = prepared.config.clone();
        config.pod_cidrs = pods.iter().map(|cidr| cidr.parse().unwrap()).collect();
        config.service_cidrs = services.iter().map(|cidr| cidr.parse().unwrap()).collect();
        let error = prepared.namespace.run(|| Network::setup(config).unwrap_err());
        assert!(matches!(error, skep_network::Error::Config(_)), "{pods:?} {services:?}: {error}");
    }
}
