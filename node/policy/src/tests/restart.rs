//! Daemons that come and go: what was enforced stays so, and the switch to what the next one says is one step.

use ipnet::IpNet;
use serde_json::json;
use skep_ebpf_common::policy::{PolicyFlow, PolicyState};

use super::{
    craft::{ACK, SYN, tcp},
    rig::{
        Rig,
        Side::{FromPod, ToPod},
        at,
    },
};
use crate::{
    Model,
    kernel::{Maps, Paths},
};

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

#[test]
fn what_somebody_else_does_to_the_maps_is_put_right() {
    let mut rig = Rig::new();
    cluster(&mut rig, "client");
    rig.connect(&["10.1.0.9", "fd01::9"]);
    rig.pod("six", &json!({ "app": "client" }), "n0", &["10.1.0.9", "fd01::9"]);
    assert_eq!(rig.programmer.check().unwrap(), 0);
    let (client, stranger) =
        (tcp(at("10.2.0.1:1"), at("10.1.0.1:80"), SYN), tcp(at("8.8.8.8:1"), at("10.1.0.1:80"), SYN));

    // One rule, one identity and one device are gone, another device is another pod's, everybody is a client.
    let mut maps = Maps::open(&Paths::new(rig.root()).maps).unwrap();
    let state = maps.state().unwrap();
    let identities = maps.identities_of(state.generation).unwrap();
    let client_is = identities["10.2.0.1/32".parse::<IpNet>().as_ref().unwrap()];
    maps.set_identity(state.generation, "10.2.0.1/32".parse().unwrap(), None).unwrap();
    maps.set_identity(state.generation, "0.0.0.0/0".parse().unwrap(), Some(client_is)).unwrap();
    let rules = maps.rules_of(state.generation).unwrap();
    assert_eq!(rules.len(), 1);
    let index = rig.devices[0].index;
    maps.set_device(state.generation, index, None).unwrap();
    assert!(rig.passes(ToPod, A, &stranger), "the damage is done");
    assert_eq!(rig.programmer.check().unwrap(), 3);
    assert!(!rig.passes(ToPod, A, &stranger));
    assert!(rig.passes(ToPod, A, &client));

    rules.iter().for_each(|rule| maps.set_rule(rule, false).unwrap());
    maps.set_state(PolicyState { flags: 0, ..maps.state().unwrap() }).unwrap();
    assert_eq!(rig.programmer.check().unwrap(), 2);
    assert!(!rig.passes(ToPod, A, &stranger));
    assert!(rig.passes(ToPod, A, &client));
    assert_eq!(rig.programmer.check().unwrap(), 0);
}
