//! `skepctl endpoint`, `conntrack` and `status` where there are pods and programs that see packets.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use skep_proxy::{
    MapSizes,
    devices::{Devices, Settings},
};

use crate::node::{Node, dns};

fn ip(command: &str) {
    let output = Command::new("ip").args(command.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// In a network namespace of the test's thread, with a pod's device.
fn with_pod() -> (Node, Devices, String) {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    ip("link set lo up");
    let pod = skep_network::host_device_name("0123456789abcdef", "eth0");
    ip(&format!("link add name {pod} type veth peer name inside address 02:00:00:00:00:05"));
    ip(&format!("link set {pod} up"));
    ip("link set inside up");
    ip(&format!("route add 10.128.0.5/32 dev {pod}"));
    ip(&format!("neigh add 10.128.0.5 lladdr 02:00:00:00:00:05 dev {pod}"));
    let node = Node::new(&dns());
    let settings = Settings { is_pod: skep_network::is_host_device_name, ..Settings::default() };
    let sizes = MapSizes {
        services: 8192,
        backends: 8192,
        sticky: 1024,
        udp_peers: 1024,
        tcp_peers: 1024,
        connections: 0,
        flows: 1024,
    };
    let mut devices = Devices::open(&node.root(), &sizes, settings).unwrap();
    devices.reconcile(&[], true).unwrap();
    (node, devices, pod)
}

fn json_of(node: &Node, arguments: &[&str]) -> Value {
    serde_json::from_str(&node.run(&[arguments, &["-o", "json"]].concat())).unwrap()
}

#[test]
fn pods_programs_and_connections_of_a_node_are_shown() {
    let (node, _devices, pod) = with_pod();

    let endpoints = json_of(&node, &["endpoint", "list"]);
    assert_eq!(endpoints.as_array().unwrap().len(), 1);
    let endpoint = &endpoints[0];
    assert_eq!((&endpoint["device"], &endpoint["addresses"]), (&json!(pod), &json!(["10.128.0.5"])));
    assert_eq!(endpoint["services"], json!(["kube-system/kube-dns:dns-tcp", "kube-system/kube-dns:dns"]));
    assert_eq!(endpoint["mac"], "02:00:00:00:00:05");
    assert_eq!(endpoint["pod"], Value::Null, "nobody tells its name");

    let status = json_of(&node, &["status"]);
    assert_eq!(status["warnings"], json!([]));
    assert_eq!((&status["devices"][0]["program"], &status["devices"][0]["device"]), (&json!("from_pod"), &json!(pod)));
    assert_eq!(status["networkPolicy"]["loaded"], false);
    assert!(status["drops"].as_array().unwrap().iter().all(|drop| drop["packets"] == 0));
    let most = |name: &str| {
        let map = status["maps"].as_array().unwrap().iter().find(|map| map["name"] == name).unwrap();
        (map["capacity"].clone(), map["most"].clone())
    };
    assert_eq!(most("SERVICES").1, 1_048_576, "it grows");
    assert_eq!(most("TCP_PEERS").0, most("TCP_PEERS").1, "it makes room by itself");
    let text = node.run(&["status"]);
    assert!(text.contains("GROWS-TO"), "{text}");
    assert!(text.contains("DROPPED-FOR") && text.contains("source-denied"), "{text}");

    assert_eq!(json_of(&node, &["conntrack", "list"]), json!([]));
    let text = node.run(&["conntrack", "list", "--all"]);
    assert!(text.starts_with("PROTOCOL") && text.lines().count() == 1, "{text}");

    // A pod that asks for its own Service past its socket sees the node's address, which nobody told here.
    let trace = json_of(&node, &["service", "trace", "10.96.0.10:53/udp", "--from", "10.128.0.5", "--path", "packet"]);
    assert_eq!(
        (&trace[0]["path"], &trace[0]["outcome"]["reason"]),
        (&json!("packet of a pod"), &json!("no-node-address"))
    );
    let trace = json_of(&node, &["service", "trace", "10.96.0.10:53/udp", "--from", "10.128.0.5"]);
    assert_eq!((&trace[0]["path"], &trace[0]["outcome"]["result"]), (&json!("socket"), &json!("backends")));
}
