//! Connections: their packets, the answers to them, errors about them; and what a change of policies does to them.

use serde_json::{Value, json};

use super::{
    craft::{ACK, FIN, RST, SYN, error, icmp, tcp, udp},
    rig::{
        Rig,
        Side::{FromPod, ToPod},
        addr, at,
    },
};

const A: &str = "10.1.0.1";

/// Pod `a` here, to which pods `app=client` may open TCP connections at port 80, and which may open none itself.
fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.pod("a", &json!({ "app": "a" }), "n0", &[A, "fd01::1"]);
    rig.pod("client", &json!({ "app": "client" }), "n1", &["10.2.0.1", "fd02::1"]);
    rig.policy("web", &web("client", &json!([{ "port": 80 }])));
    rig
}

fn web(client: &str, ports: &Value) -> Value {
    let from = json!([{ "podSelector": { "matchLabels": { "app": client } } }]);
    json!({
        "podSelector": { "matchLabels": { "app": "a" } },
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{ "from": from, "ports": ports }],
    })
}

#[test]
fn answers_pass_where_the_pod_may_open_nothing() {
    let mut rig = rig();
    for (client, pod) in [("10.2.0.1:4000", "10.1.0.1:80"), ("[fd02::1]:4000", "[fd01::1]:80")] {
        let (client, pod) = (at(client), at(pod));
        let ip = pod.ip().to_string();
        assert!(!rig.passes(FromPod, &ip, &tcp(pod, client, SYN | ACK)), "there is nothing to answer yet");
        assert!(rig.passes(ToPod, &ip, &tcp(client, pod, SYN)));
        assert!(rig.passes(FromPod, &ip, &tcp(pod, client, SYN | ACK)));
        assert!(rig.passes(ToPod, &ip, &tcp(client, pod, ACK)));
        assert!(rig.passes(FromPod, &ip, &tcp(pod, client, ACK | FIN)));
        // But not to another port, another host, by another protocol; and an answer is no beginning.
        let mut elsewhere = client;
        elsewhere.set_port(4001);
        assert!(!rig.passes(FromPod, &ip, &tcp(pod, elsewhere, ACK)));
        assert!(!rig.passes(FromPod, &ip, &udp(pod, client)));
        assert!(!rig.passes(FromPod, &ip, &tcp(pod, client, SYN)));
    }
}

#[test]
fn udp_and_echoes_are_answered_too() {
    let mut rig = rig();
    rig.policy("web", &json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [{}] }));
    let (client, pod) = (at("10.2.0.1:4000"), at("10.1.0.1:53"));
    assert!(!rig.passes(FromPod, A, &udp(pod, client)));
    assert!(rig.passes(ToPod, A, &udp(client, pod)));
    assert!(rig.passes(FromPod, A, &udp(pod, client)));
    let (from, to) = (addr("10.2.0.1"), addr(A));
    assert!(!rig.passes(FromPod, A, &icmp(to, from, 0, 7)));
    assert!(rig.passes(ToPod, A, &icmp(from, to, 8, 7)));
    assert!(rig.passes(FromPod, A, &icmp(to, from, 0, 7)));
    assert!(!rig.passes(FromPod, A, &icmp(to, from, 0, 8)), "the answer to another request");
    assert!(!rig.passes(FromPod, A, &icmp(to, from, 8, 7)), "a request of its own");
    let (from, to) = (addr("fd02::1"), addr("fd01::1"));
    assert!(rig.passes(ToPod, A, &icmp(from, to, 128, 7)));
    assert!(rig.passes(FromPod, A, &icmp(to, from, 129, 7)));
}

#[test]
fn errors_pass_if_they_are_about_a_known_flow() {
    let mut rig = rig();
    for (client, pod, router) in
        [("10.2.0.1:4000", "10.1.0.1:80", "192.0.2.1"), ("[fd02::1]:4000", "[fd01::1]:80", "2001:db8::1")]
    {
        let (client, pod, router) = (at(client), at(pod), addr(router));
        let ip = pod.ip().to_string();
        let (asked, answered) = (tcp(client, pod, SYN), tcp(pod, client, SYN | ACK));
        assert!(!rig.passes(ToPod, &ip, &error(router, pod.ip(), &answered)));
        assert!(rig.passes(ToPod, &ip, &asked));
        assert!(rig.passes(ToPod, &ip, &error(router, pod.ip(), &answered)), "of a router about an answer");
        assert!(rig.passes(FromPod, &ip, &error(pod.ip(), client.ip(), &asked)), "of the pod about a request");
        assert!(!rig.passes(FromPod, &ip, &error(pod.ip(), client.ip(), &udp(client, pod))), "about something else");
        assert!(!rig.passes(FromPod, &ip, &error(pod.ip(), router, &answered)), "about what somebody else received");
    }
}

#[test]
fn a_change_of_policy_holds_for_open_connections_in_both_directions() {
    let mut rig = rig();
    let (client, pod) = (at("10.2.0.1:4000"), at("10.1.0.1:80"));
    assert!(rig.passes(ToPod, A, &tcp(client, pod, SYN)));
    assert!(rig.passes(FromPod, A, &tcp(pod, client, SYN | ACK)));
    // A change that does not concern it.
    rig.policy("web", &web("client", &json!([{ "port": 80 }, { "port": 81 }])));
    assert!(rig.passes(FromPod, A, &tcp(pod, client, ACK)));
    assert!(rig.passes(ToPod, A, &tcp(client, pod, ACK)));
    // One that does: nothing passes any more, whoever speaks first.
    rig.policy("web", &web("client", &json!([{ "port": 81 }])));
    assert!(!rig.passes(FromPod, A, &tcp(pod, client, ACK)));
    assert!(!rig.passes(ToPod, A, &tcp(client, pod, ACK)));
    assert!(!rig.passes(FromPod, A, &tcp(pod, client, ACK)));
    // And back.
    rig.policy("web", &web("client", &json!([{ "port": 80 }])));
    assert!(rig.passes(FromPod, A, &tcp(pod, client, ACK)));
    assert!(rig.passes(ToPod, A, &tcp(client, pod, ACK)));
    // So does a change of the peer's labels, and its end.
    rig.pod("client", &json!({ "app": "other" }), "n1", &["10.2.0.1", "fd02::1"]);
    assert!(!rig.passes(FromPod, A, &tcp(pod, client, ACK)));
    rig.remove_policy("web");
    assert!(rig.passes(FromPod, A, &tcp(pod, client, ACK)));
}

#[test]
fn a_connection_older_than_the_isolation_goes_on_if_its_opener_may_open_it() {
    let mut rig = rig();
    let (client, pod) = (at("10.2.0.1:4000"), at("10.1.0.1:80"));
    assert!(rig.passes(ToPod, A, &tcp(client, pod, ACK)), "in the middle of a stream");
    assert!(rig.passes(FromPod, A, &tcp(pod, client, ACK)));
    assert!(!rig.passes(ToPod, A, &tcp(at("10.2.0.1:4000"), at("10.1.0.1:81"), ACK)));
}

#[test]
fn a_port_may_be_used_again_once_its_connection_is_over() {
    let mut rig = rig();
    let (client, pod) = (at("10.2.0.1:4000"), at("10.1.0.1:80"));
    for _ in 0..2 {
        assert!(rig.passes(ToPod, A, &tcp(client, pod, SYN)));
        assert!(rig.passes(FromPod, A, &tcp(pod, client, SYN | ACK)));
        assert!(rig.passes(ToPod, A, &tcp(client, pod, RST)));
    }
}

#[test]
fn only_what_may_revoke_something_makes_flows_be_judged_anew() {
    let mut rig = rig();
    let revision = |rig: &Rig| rig.programmer.state().revision;
    let before = revision(&rig);
    // Pods that come, pods that no table speaks of and that go, rules that allow more.
    rig.pod("new", &json!({ "app": "new" }), "n1", &["10.2.0.7"]);
    rig.pod("client2", &json!({ "app": "client" }), "n1", &["10.2.0.8"]);
    rig.pod("new", &json!({ "app": "newer" }), "n1", &["10.2.0.7"]);
    rig.world.model.remove_pod("default", "new");
    rig.write();
    rig.policy("more", &web("more", &json!([{ "port": 90 }])));
    assert_eq!(revision(&rig), before);
    // A peer that goes; a rule that goes; a hole in a block.
    rig.world.model.remove_pod("default", "client2");
    rig.write();
    let after_peer = revision(&rig);
    assert_ne!(after_peer, before);
    rig.remove_policy("more");
    let block = |except: &Value| json!({ "podSelector": {}, "ingress": [{ "from": [{ "ipBlock": { "cidr": "192.0.2.0/24", "except": except } }] }] });
    rig.policy("block", &block(&json!([])));
    let (outside, pod) = (at("192.0.2.9:4000"), at("10.1.0.1:80"));
    assert!(rig.passes(ToPod, A, &tcp(outside, pod, SYN)));
    rig.policy("block", &block(&json!(["192.0.2.9/32"])));
    assert!(!rig.passes(ToPod, A, &tcp(outside, pod, ACK)));
    assert!(!rig.passes(FromPod, A, &tcp(pod, outside, ACK)));
}
