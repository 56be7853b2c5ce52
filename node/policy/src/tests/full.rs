//! Maps that are full: what finds no room is refused, never allowed, and comes when there is room again.

use serde_json::{Value, json};

use super::{
    craft::{SYN, tcp},
    rig::{Rig, SIZES, Side::ToPod, at},
};
use crate::Sizes;

const A: &str = "10.1.0.1";

fn asks(rig: &mut Rig, from: &str, port: u16) -> bool {
    rig.passes(ToPod, A, &tcp(at(&format!("{from}:4000")), at(&format!("{A}:{port}")), SYN))
}

fn allow(from: &Value, ports: &Value) -> Value {
    json!({ "podSelector": { "matchLabels": { "app": "a" } }, "ingress": [{ "from": from, "ports": ports }] })
}

#[test]
fn rules_without_room_allow_nothing() {
    let mut rig = Rig::with(Sizes { rules: 4, ..SIZES });
    rig.pod("a", &json!({ "app": "a" }), "n0", &[A]);
    let ports: Vec<Value> = (0..8).map(|number| json!({ "port": 80 + 2 * number })).collect();
    rig.policy("many", &allow(&json!([]), &json!(ports)));
    assert!(!rig.programmer.is_settled());
    let open: Vec<u16> = (80..96).filter(|port| asks(&mut rig, "10.2.0.1", *port)).collect();
    assert_eq!(open.len(), 4, "{open:?}");
    assert!(open.iter().all(|port| port % 2 == 0), "{open:?}");

    rig.policy("many", &allow(&json!([]), &json!([{ "port": 94 }, { "port": 80 }])));
    rig.programmer.retry().unwrap();
    assert!(rig.programmer.is_settled());
    let open: Vec<u16> = (80..96).filter(|port| asks(&mut rig, "10.2.0.1", *port)).collect();
    assert_eq!(open, [80, 94]);
}

#[test]
fn without_room_for_a_pods_address_rules_that_name_pods_do_not_match_it() {
    let mut rig = Rig::with(Sizes { identities: 5, ..SIZES });
    rig.pod("a", &json!({ "app": "a" }), "n0", &[A]);
    rig.policy("pods", &allow(&json!([{ "podSelector": {} }]), &json!([])));
    for number in 1..5 {
        rig.pod(&format!("far{number}"), &json!({}), "n1", &[&format!("10.2.0.{number}")]);
    }
    assert!(!rig.programmer.is_settled());
    let open: Vec<u8> = (1..5).filter(|number| asks(&mut rig, &format!("10.2.0.{number}"), 80)).collect();
    // All of IPv4, two nodes and the pod itself have the other four.
    assert_eq!(open, [1]);
}

#[test]
fn without_room_for_a_hole_in_a_block_no_rule_is_believed() {
    let mut rig = Rig::with(Sizes { identities: 5, ..SIZES });
    rig.pod("a", &json!({ "app": "a" }), "n0", &[A]);
    let block = json!({ "cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"] });
    rig.policy("block", &allow(&json!([{ "ipBlock": block }]), &json!([])));
    assert!(!rig.programmer.is_settled());
    assert!(!asks(&mut rig, "192.0.2.200", 80), "the hole");
    assert!(!asks(&mut rig, "192.0.2.1", 80), "the block");
    assert!(rig.passes_from_node(A, &tcp(at("10.9.0.0:4000"), at("10.1.0.1:80"), SYN)), "probes go on");

    // A node goes: there is room.
    rig.world.model.remove_node("n1");
    rig.write();
    rig.programmer.retry().unwrap();
    assert!(rig.programmer.is_settled());
    assert!(asks(&mut rig, "192.0.2.1", 80));
    assert!(!asks(&mut rig, "192.0.2.200", 80));
}
