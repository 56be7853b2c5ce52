//! Daemons that come and go: what was enforced stays so, and the switch to what the next one says is one step.

use serde_json::json;
use skep_ebpf_common::policy::PolicyFlow;

use super::{
    craft::{ACK, SYN, tcp},
    rig::{
        Rig,
        Side::{FromPod, ToPod},
        at,
    },
};
use crate::Model;

const A: &str = "10.1.0.1";

/// The cluster as every daemon sees it: pod `a`, to which pods `app=client` may send.
fn cluster(rig: &mut Rig, client: &str) {
    rig.pod("a", &json!({ "app": "a" }), "n0", &[A]);
    rig.pod("client", &json!({ "app": client }), "n1", &["10.2.0.1"]);
    let from = json!([{ "podSelector": { "matchLabels": { "app": "client" } } }]);
    rig.policy("web", &json!({ "podSelector": { "matchLabels": { "app": "a" } }, "ingress": [{ "from": from }] }));
}

#[test]
fn a_new_daemon_changes_nothing_before_it_knows_all() {
    let mut rig = Rig::new();
    cluster(&mut rig, "client");
    let (client, pod) = (at("10.2.0.1:4000"), at("10.1.0.1:80"));
    assert!(rig.passes(ToPod, A, &tcp(client, pod, SYN)));
    assert!(rig.passes(FromPod, A, &tcp(pod, client, SYN | ACK)));
    let before = rig.programmer.state();

    rig.take_over(Model::new("n0"));
    assert_eq!(rig.programmer.state(), before);
    assert!(rig.programmer.enforces());
    assert!(rig.passes(ToPod, A, &tcp(client, pod, ACK)));
    assert!(!rig.passes(ToPod, A, &tcp(at("10.2.0.9:4000"), pod, SYN)));

    // It learns one thing after the other; until it has come into force, the former word holds.
    cluster(&mut rig, "somebody-else");
    assert!(rig.passes(ToPod, A, &tcp(at("10.2.0.1:4001"), pod, SYN)));
    rig.programmer.come_into_force().unwrap();
    assert!(!rig.passes(ToPod, A, &tcp(at("10.2.0.1:4001"), pod, SYN)));
    assert!(!rig.passes(FromPod, A, &tcp(pod, client, ACK)), "open connections are judged anew, too");
    assert_ne!(rig.programmer.state().generation, before.generation);
}

#[test]
fn a_daemon_that_died_half_way_leaves_nothing_behind() {
    let mut rig = Rig::new();
    cluster(&mut rig, "client");
    let entries = rig.programmer.entries();
    rig.take_over(Model::new("n0"));
    cluster(&mut rig, "client");
    assert_ne!(rig.programmer.entries(), entries, "two generations");
    // It dies before it comes into force.
    rig.take_over(Model::new("n0"));
    let (devices, identities, rules) = entries;
    assert_eq!(rig.programmer.entries(), (devices, identities + 1, rules), "and one for all of IPv4 in the next");
    assert!(!rig.passes(ToPod, A, &tcp(at("10.2.0.9:4000"), at("10.1.0.1:80"), SYN)));
}

#[test]
fn pods_that_the_former_daemon_did_not_know_are_isolated_until_the_next_one_does() {
    let mut rig = Rig::new();
    cluster(&mut rig, "client");
    rig.connect(&["10.1.0.9"]);
    rig.take_over(Model::new("n0"));
    rig.programmer.close_unknown().unwrap();
    let syn = tcp(at("10.1.0.9:4000"), at("8.8.8.8:80"), SYN);
    assert!(!rig.passes(FromPod, "10.1.0.9", &syn));
    assert!(rig.passes(ToPod, A, &tcp(at("10.2.0.1:4000"), at("10.1.0.1:80"), SYN)));
    cluster(&mut rig, "client");
    rig.pod("new", &json!({}), "n0", &["10.1.0.9"]);
    rig.programmer.come_into_force().unwrap();
    assert!(rig.passes(FromPod, "10.1.0.9", &syn));
}

#[test]
fn stamps_are_never_of_revision_zero() {
    let rig = Rig::new();
    assert!(rig.programmer.state().revision > PolicyFlow::default().ingress);
}
