//! What policies allow and refuse.

use serde_json::json;
use skep_ebpf_common::policy::Verdict;

use super::{
    craft::{ACK, SCTP, SYN, icmp, other, tcp, udp},
    rig::{
        Rig,
        Side::{FromPod, ToPod},
        TUNNEL, addr, at, ip,
    },
};

const A: &str = "10.1.0.1";
const B: &str = "10.1.0.2";
const FAR: &str = "10.2.0.1";

/// `a` (app=a) and `b` (app=b) here, `far` (app=far) elsewhere, nobody isolated.
fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.namespace("default", &json!({}));
    rig.pod("a", &json!({ "app": "a" }), "n0", &[A, "fd01::1"]);
    rig.pod("b", &json!({ "app": "b" }), "n0", &[B, "fd01::2"]);
    rig.pod("far", &json!({ "app": "far" }), "n1", &[FAR, "fd02::1"]);
    rig
}

fn syn(from: &str, to: &str, port: u16) -> Vec<u8> {
    tcp((addr(from), 40_000).into(), (addr(to), port).into(), SYN)
}

#[test]
fn without_isolation_everything_passes() {
    let mut rig = rig();
    rig.policy("others", &json!({ "podSelector": { "matchLabels": { "app": "nobody" } } }));
    assert!(rig.passes_between(A, B, &syn(A, B, 80)));
    assert!(rig.passes(ToPod, A, &syn(FAR, A, 80)));
    assert!(rig.passes(FromPod, A, &udp(at("10.1.0.1:5"), at("8.8.8.8:53"))));
    assert!(rig.passes(ToPod, A, b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x08\x06 an ARP request, say"));
}

#[test]
fn default_deny_refuses_what_is_new_but_nothing_of_the_node() {
    let mut rig = rig();
    rig.policy("deny", &json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress"] }));
    assert!(!rig.passes(ToPod, A, &syn(FAR, A, 80)));
    assert!(!rig.passes(FromPod, A, &syn(A, FAR, 80)));
    assert!(!rig.passes(FromPod, A, &syn(A, "8.8.8.8", 80)));
    assert!(!rig.passes(ToPod, A, &icmp(addr(FAR), addr(A), 8, 1)));
    assert_eq!(rig.count(Verdict::Denied), 4);
    // Probes; the node's own address; an address of the node that its object does not tell.
    assert!(rig.passes_from_node(A, &syn("192.0.2.77", A, 80)));
    assert!(rig.passes(FromPod, A, &syn(A, "10.9.0.0", 6443)));
    assert!(rig.passes(ToPod, A, &syn("10.9.0.0", A, 80)), "the node, translated by itself");
    assert!(!rig.passes(FromPod, A, &udp(at("10.1.0.1:5"), at("10.96.0.10:53"))));
    ip("address add 10.96.0.10/32 dev lo");
    ip("link set lo up");
    assert!(rig.passes(FromPod, A, &udp(at("10.1.0.1:5"), at("10.96.0.10:53"))));
    // Another node is no exception, multicast neither.
    assert!(!rig.passes(FromPod, A, &syn(A, "10.9.0.1", 6443)));
    assert!(!rig.passes(FromPod, A, &udp(at("10.1.0.1:5"), at("224.0.0.251:5353"))));
    // A pod and itself.
    assert!(rig.passes(ToPod, A, &syn(A, A, 80)));
}

#[test]
fn a_rule_allows_its_peers_at_its_ports_and_protocol() {
    let mut rig = rig();
    rig.policy(
        "web",
        &json!({
            "podSelector": { "matchLabels": { "app": "a" } },
            "ingress": [{
                "from": [{ "podSelector": { "matchLabels": { "app": "b" } } }],
                "ports": [{ "port": 80 }, { "port": 8000, "endPort": 8999 }, { "port": 53, "protocol": "UDP" }],
            }],
        }),
    );
    for (port, allowed) in
        [(80, true), (79, false), (81, false), (7999, false), (8000, true), (8999, true), (9000, false)]
    {
        assert_eq!(rig.passes_between(B, A, &syn(B, A, port)), allowed, "port {port}");
        assert!(!rig.passes(ToPod, A, &syn(FAR, A, port)), "port {port} of somebody else");
    }
    assert!(rig.passes(ToPod, A, &udp(at("10.1.0.2:9"), at("10.1.0.1:53"))));
    assert!(!rig.passes(ToPod, A, &udp(at("10.1.0.2:9"), at("10.1.0.1:80"))));
    assert!(!rig.passes(ToPod, A, &other(at("10.1.0.2:9"), at("10.1.0.1:80"), SCTP)));
    assert!(!rig.passes(ToPod, A, &icmp(addr(B), addr(A), 8, 1)), "ports leave out what has none");
    // Egress is no business of that policy, and the other family is the same pod.
    assert!(rig.passes(FromPod, A, &syn(A, "8.8.8.8", 443)));
    assert!(rig.passes_between("fd01::2", "fd01::1", &syn("fd01::2", "fd01::1", 80)));
    assert!(!rig.passes(ToPod, "fd01::1", &syn("fd02::1", "fd01::1", 80)));
}

#[test]
fn a_rule_without_ports_allows_every_protocol() {
    let mut rig = rig();
    let from = json!([{ "podSelector": { "matchLabels": { "app": "far" } } }]);
    rig.policy("any", &json!({ "podSelector": { "matchLabels": { "app": "a" } }, "ingress": [{ "from": from }] }));
    assert!(rig.passes(ToPod, A, &syn(FAR, A, 1)));
    assert!(rig.passes(ToPod, A, &other(at("10.2.0.1:9"), at("10.1.0.1:80"), SCTP)));
    assert!(rig.passes(ToPod, A, &icmp(addr(FAR), addr(A), 8, 1)));
    assert!(rig.passes(ToPod, A, &other(at("10.2.0.1:9"), at("10.1.0.1:80"), 47)), "GRE");
    assert!(!rig.passes(ToPod, A, &other(at("10.1.0.2:9"), at("10.1.0.1:80"), 47)), "GRE of another");
}

#[test]
fn sctp_has_ports() {
    let mut rig = rig();
    let ports = json!([{ "port": 3868, "protocol": "SCTP" }]);
    rig.policy("sctp", &json!({ "podSelector": { "matchLabels": { "app": "a" } }, "ingress": [{ "ports": ports }] }));
    assert!(rig.passes(ToPod, A, &other(at("10.2.0.1:9"), at("10.1.0.1:3868"), SCTP)));
    assert!(!rig.passes(ToPod, A, &other(at("10.2.0.1:9"), at("10.1.0.1:3869"), SCTP)));
    assert!(!rig.passes(ToPod, A, &syn(FAR, A, 3868)));
}

#[test]
fn blocks_have_holes() {
    let mut rig = rig();
    let block = json!({ "cidr": "192.0.2.0/24", "except": ["192.0.2.128/25", "192.0.2.7/32"] });
    rig.policy(
        "block",
        &json!({
            "podSelector": { "matchLabels": { "app": "a" } },
            "policyTypes": ["Egress"],
            "egress": [{ "to": [{ "ipBlock": block }] }, { "to": [{ "ipBlock": { "cidr": "2001:db8::/32" } }] }],
        }),
    );
    for (peer, allowed) in [
        ("192.0.2.1", true),
        ("192.0.2.7", false),
        ("192.0.2.127", true),
        ("192.0.2.128", false),
        ("192.0.3.1", false),
        (FAR, false),
    ] {
        assert_eq!(rig.passes(FromPod, A, &syn(A, peer, 80)), allowed, "{peer}");
    }
    assert!(rig.passes(FromPod, "fd01::1", &syn("fd01::1", "2001:db8::5", 80)));
    assert!(!rig.passes(FromPod, "fd01::1", &syn("fd01::1", "2001:db9::5", 80)));
    assert!(rig.passes(ToPod, A, &syn(FAR, A, 80)), "ingress is no business of it");
}

#[test]
fn both_pods_must_agree() {
    let mut rig = rig();
    let select = |app: &str| json!({ "podSelector": { "matchLabels": { "app": app } } });
    rig.policy("in", &json!({ "podSelector": select("a")["podSelector"], "ingress": [{ "from": [select("b")] }] }));
    let egress = json!({
        "podSelector": select("b")["podSelector"], "policyTypes": ["Egress"], "egress": [{ "to": [select("far")] }],
    });
    rig.policy("out", &egress);
    assert!(!rig.passes(FromPod, B, &syn(B, A, 80)));
    assert!(rig.passes(ToPod, A, &syn(B, A, 80)));
    // The refusal of one side lets nobody answer, though the other side would have it.
    assert!(!rig.passes(FromPod, B, &tcp(at("10.1.0.2:40000"), at("10.1.0.1:80"), ACK)));
    rig.policy("out", &json!({ "podSelector": select("b")["podSelector"], "egress": [{ "to": [select("a")] }] }));
    assert!(rig.passes_between(B, A, &syn(B, A, 80)));
}

#[test]
fn a_pod_cannot_borrow_an_address() {
    let mut rig = rig();
    rig.policy("deny", &json!({ "podSelector": { "matchLabels": { "app": "b" } }, "policyTypes": ["Egress"] }));
    for stranger in [FAR, B, "10.9.0.0"] {
        assert!(!rig.passes(FromPod, A, &syn(stranger, "8.8.8.8", 80)), "a as {stranger}");
    }
    assert!(!rig.passes(FromPod, B, &syn(A, "8.8.8.8", 80)), "the free pod's address does not free");
    assert!(!rig.passes(FromPod, "fd01::1", &syn("fd02::1", "2001:db8::1", 80)));
    assert_eq!(rig.count(Verdict::Spoofed), 5);
}

#[test]
fn a_device_nobody_knows_is_isolated_only_while_a_selected_pod_waits_for_its_own() {
    let mut rig = rig();
    rig.policy("deny", &json!({ "podSelector": { "matchLabels": { "app": "new" } } }));
    rig.connect(&["10.1.0.9"]);
    rig.write();
    let new = "10.1.0.9";
    assert!(rig.passes(FromPod, new, &syn(new, "8.8.8.8", 80)));
    rig.programmer.set_unknown_closed(true).unwrap();
    assert!(!rig.passes(FromPod, new, &syn(new, "8.8.8.8", 80)));
    assert!(!rig.passes(ToPod, new, &syn(FAR, new, 80)));
    assert!(rig.passes(FromPod, new, &syn(new, "10.9.0.0", 6443)), "its node it reaches");
    assert!(rig.passes_from_node(new, &syn("10.9.0.0", new, 80)));
    assert!(rig.passes(ToPod, A, &syn(FAR, A, 80)), "who is known is not concerned");
    // It turns out to be a pod that nobody selects.
    rig.pod("free", &json!({ "app": "free" }), "n0", &[new]);
    assert!(rig.passes(FromPod, new, &syn(new, "8.8.8.8", 80)));
}

#[test]
fn no_pod_puts_packets_into_the_tunnel_between_nodes() {
    let mut rig = rig();
    rig.policy("deny", &json!({ "podSelector": { "matchLabels": { "app": "b" } }, "policyTypes": ["Egress"] }));
    let block = json!([{ "to": [{ "ipBlock": { "cidr": "10.9.0.0/16" } }] }]);
    rig.policy("nodes", &json!({ "podSelector": { "matchLabels": { "app": "b" } }, "egress": block }));
    ip("address add 10.96.0.10/32 dev lo");
    ip("link set lo up");
    let to = |from: &str, peer: &str, port: u16| udp((addr(from), 5).into(), (addr(peer), port).into());
    for pod in [A, B] {
        for node in ["10.9.0.0", "10.9.0.1", "10.96.0.10"] {
            assert!(!rig.passes(FromPod, pod, &to(pod, node, TUNNEL)), "{pod} to {node}");
            assert!(rig.passes(FromPod, pod, &to(pod, node, TUNNEL + 1)), "{pod} to {node}, another port");
        }
    }
    assert_eq!(rig.count(Verdict::Tunnel), 6);
    assert!(rig.passes(FromPod, A, &to(A, FAR, TUNNEL)), "a tunnel of pods is their own affair");
}
