//! What people are told is what the kernel does.

use prometheus_client::registry::Registry;
use serde_json::json;

use super::{
    craft::{SYN, TCP, UDP, tcp},
    rig::{
        Rig,
        Side::{FromPod, ToPod},
        addr, at,
    },
};
use crate::{
    Metrics,
    reader::{Reader, RuleRecord, Step},
};

const A: &str = "10.1.0.1";

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.namespace("default", &json!({}));
    rig.pod("a", &json!({ "app": "a" }), "n0", &[A, "fd01::1"]);
    rig.pod("b", &json!({ "app": "b" }), "n0", &["10.1.0.2"]);
    let from = json!([{ "podSelector": { "matchLabels": { "app": "b" } } }]);
    let ports = json!([{ "port": 80 }, { "port": 8081, "endPort": 8090 }, { "port": 53, "protocol": "UDP" }]);
    rig.policy(
        "web",
        &json!({ "podSelector": { "matchLabels": { "app": "a" } }, "ingress": [{ "from": from, "ports": ports }] }),
    );
    rig
}

#[test]
fn pods_are_listed_with_what_they_are_allowed() {
    let rig = rig();
    let reader = Reader::open(rig.root()).unwrap();
    assert_eq!(reader.warnings(), Vec::<&str>::new());
    let pods = reader.pods().unwrap();
    let names: Vec<_> = pods.iter().map(|pod| (pod.namespace.as_str(), pod.name.as_str())).collect();
    assert_eq!(names, [("default", "a"), ("default", "b")]);
    assert_eq!(pods[0].addresses, [addr(A), addr("fd01::1")]);
    assert_eq!((&pods[0].egress, &pods[1].ingress, &pods[1].egress), (&None, &None, &None));
    let rules = pods[0].ingress.as_ref().unwrap();
    let allowed: Vec<_> = rules.iter().map(|rule| (rule.peer.as_str(), rule.protocol, rule.ports)).collect();
    let peer = "default {app=b}";
    assert_eq!(
        allowed,
        [(peer, Some(TCP), Some((80, 80))), (peer, Some(TCP), Some((8081, 8090))), (peer, Some(UDP), Some((53, 53))),]
    );
}

#[test]
fn a_trace_says_what_the_programs_do() {
    let mut rig = rig();
    let deny = json!({ "podSelector": { "matchLabels": { "app": "b" } }, "policyTypes": ["Egress"] });
    for spec in [None, Some(deny)] {
        if let Some(spec) = spec {
            rig.policy("deny", &spec);
        }
        let reader = Reader::open(rig.root()).unwrap();
        for peer in ["10.1.0.2", "10.9.0.0", "10.9.0.1", "8.8.8.8", A] {
            for port in [79, 80, 8080, 8085, 8091] {
                let steps = reader.trace(addr(peer), addr(A), TCP, port).unwrap();
                let syn = tcp((addr(peer), 4000).into(), (addr(A), port).into(), SYN);
                let of = |way: &str| steps.iter().find(|step| step.direction == way).map(|step| step.allowed);
                assert_eq!(of("ingress"), Some(rig.passes(ToPod, A, &syn)), "{peer} to port {port}: {steps:?}");
                let sender = (peer == "10.1.0.2").then(|| rig.passes(FromPod, peer, &syn));
                if peer != A {
                    assert_eq!(of("egress"), sender, "{peer} to port {port}: {steps:?}");
                }
            }
        }
    }
    let reader = Reader::open(rig.root()).unwrap();
    let steps = reader.trace(addr("10.1.0.2"), addr(A), TCP, 80).unwrap();
    let [Step { pod: sender, allowed: false, rule: None, .. }, Step { rule: Some(rule), .. }] = &steps[..] else {
        panic!("{steps:?}");
    };
    assert_eq!(sender, "default/b");
    assert!(matches!(rule, RuleRecord { ports: Some((80, 80)), .. }));
}

#[test]
fn whoever_listens_hears_of_new_connections_and_of_what_is_dropped() {
    let mut rig = rig();
    let syn = |port: u16| tcp(at("10.1.0.2:4000"), (addr(A), port).into(), SYN);
    assert!(rig.passes(ToPod, A, &syn(80)), "nobody listens yet");
    let mut listener = Reader::open(rig.root()).unwrap().listen().unwrap();
    assert_eq!(listener.hear().unwrap(), []);
    assert!(rig.passes(ToPod, A, &syn(8085)));
    assert!(rig.passes(ToPod, A, &syn(8085)), "the same connection");
    assert!(!rig.passes(ToPod, A, &syn(81)));
    let heard = listener.hear().unwrap();
    let told: Vec<_> = heard.iter().map(|event| (event.verdict, event.destination_port)).collect();
    assert_eq!(told, [("allowed", 8085), ("denied", 81)]);
    let event = &heard[1];
    assert_eq!((event.pod.as_str(), event.peer.as_str()), ("default/a", "default {app=b}"));
    assert_eq!((event.source, event.destination, event.source_port), (addr("10.1.0.2"), addr(A), 4000));
    assert_eq!((event.direction, event.protocol), ("ingress", TCP));
}

#[test]
fn the_kernels_counters_are_among_the_metrics() {
    let mut rig = rig();
    let metrics = Metrics::default();
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    metrics.read_packets(std::path::Path::new("/nowhere")).unwrap();
    for port in [80, 81, 82] {
        rig.passes(ToPod, A, &tcp(at("10.1.0.2:4000"), (addr(A), port).into(), SYN));
    }
    metrics.read_packets(rig.root()).unwrap();
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        "skep_policy_packets_total{verdict=\"denied\",direction=\"ingress\"} 2",
        "skep_policy_packets_total{verdict=\"allowed\",direction=\"ingress\"} 1",
        "skep_policy_packets_total{verdict=\"spoofed\",direction=\"egress\"} 0",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
}

#[test]
fn a_flood_is_counted_and_told_in_part() {
    let mut rig = rig();
    let mut listener = Reader::open(rig.root()).unwrap().listen().unwrap();
    listener.hear().unwrap();
    for port in 0..1500_u16 {
        assert!(!rig.passes(ToPod, A, &tcp(at("10.1.0.2:4000"), (addr(A), 10_000 + port).into(), SYN)));
    }
    let told = listener.hear().unwrap().len() as u64;
    let untold = rig.count(skep_ebpf_common::policy::Verdict::Untold);
    assert_eq!(rig.count(skep_ebpf_common::policy::Verdict::Denied), 1500);
    assert_eq!(told + untold, 1500);
    assert!(untold > 0, "told were {told}");
}
