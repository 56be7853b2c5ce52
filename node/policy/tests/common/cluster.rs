//! Random clusters: objects as the API has them, and the changes that made them.

use std::net::IpAddr;

use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod},
    networking::v1::NetworkPolicy,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use skep_policy::{Model, reference::Cluster};

/// One object's change.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Namespace(usize, Value),
    Pod { slot: usize, namespace: usize, labels: Value, node: usize, ports: usize, phase: usize, host: bool },
    RemovePod(usize),
    Policy(usize, usize, Value),
    RemovePolicy(usize),
}

fn labels() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        Just(json!({"app": "a"})),
        Just(json!({"app": "b"})),
        Just(json!({"app": "a", "tier": "x"})),
        Just(json!({"tier": "y"})),
    ]
}

fn selector() -> impl Strategy<Value = Value> {
    let operator = prop_oneof![Just("In"), Just("NotIn"), Just("Exists"), Just("DoesNotExist")];
    let key = prop_oneof![Just("app"), Just("tier")];
    prop_oneof![
        Just(json!({})),
        labels().prop_map(|labels| json!({"matchLabels": labels})),
        (key, operator, prop::sample::subsequence(vec!["a", "b", "x"], 1..=2)).prop_map(|(key, operator, values)| {
            let values = if operator.ends_with("In") { json!(values) } else { json!(null) };
            json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]})
        }),
    ]
}

fn peer() -> impl Strategy<Value = Value> {
    let cidr = prop_oneof![
        Just(("0.0.0.0/0", vec!["10.0.0.0/8", "10.1.0.2/32"])),
        Just(("10.1.0.0/16", vec!["10.1.0.0/30", "10.1.0.4/31"])),
        Just(("10.1.0.0/30", vec![])),
        Just(("10.1.0.3/32", vec![])),
        Just(("192.0.2.0/24", vec!["192.0.2.128/25"])),
        Just(("fd00::/8", vec!["fd00::2/127"])),
        Just(("::/0", vec!["fd00::/64"])),
    ];
    prop_oneof![
        selector().prop_map(|pods| json!({"podSelector": pods})),
        selector().prop_map(|namespaces| json!({"namespaceSelector": namespaces})),
        (selector(), selector()).prop_map(|(n, p)| json!({"namespaceSelector": n, "podSelector": p})),
        cidr.prop_flat_map(|(cidr, holes)| {
            let count = holes.len();
            prop::sample::subsequence(holes, 0..=count)
                .prop_map(move |except| json!({"ipBlock": {"cidr": cidr, "except": except}}))
        }),
    ]
}

fn port() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        Just(json!({"protocol": "UDP"})),
        Just(json!({"port": 80})),
        Just(json!({"port": 80, "endPort": 1000})),
        Just(json!({"port": 53, "protocol": "UDP"})),
        Just(json!({"port": "web"})),
        Just(json!({"port": "dns", "protocol": "UDP"})),
    ]
}

/// Missing, empty or filled: the three are not always the same.
fn list(item: impl Strategy<Value = Value>, most: usize) -> impl Strategy<Value = Value> {
    prop_oneof![
        1 => Just(json!(null)),
        1 => Just(json!([])),
        4 => prop::collection::vec(item, 1..=most).prop_map(|items| json!(items)),
    ]
}

fn policy() -> impl Strategy<Value = Value> {
    let types = prop_oneof![
        Just(json!(null)),
        Just(json!([])),
        Just(json!(["Ingress"])),
        Just(json!(["Egress"])),
        Just(json!(["Ingress", "Egress"])),
    ];
    let ingress =
        list((list(peer(), 2), list(port(), 2)).prop_map(|(from, ports)| json!({"from": from, "ports": ports})), 2);
    let egress = list((list(peer(), 2), list(port(), 2)).prop_map(|(to, ports)| json!({"to": to, "ports": ports})), 2);
    (selector(), types, ingress, egress)
        .prop_map(|(s, t, i, e)| json!({"podSelector": s, "policyTypes": t, "ingress": i, "egress": e}))
}

pub(crate) const PODS: usize = 8;

pub(crate) fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => (0..3usize, labels()).prop_map(|(slot, labels)| Event::Namespace(slot, labels)),
        6 => (0..PODS, 0..3usize, labels(), 0..2usize, 0..3usize, 0..6usize, prop::bool::weighted(0.1)).prop_map(
            |(slot, namespace, labels, node, ports, phase, host)| Event::Pod { slot, namespace, labels, node, ports, phase, host }
        ),
        1 => (0..PODS).prop_map(Event::RemovePod),
        4 => (0..5usize, 0..3usize, policy()).prop_map(|(slot, namespace, spec)| Event::Policy(slot, namespace, spec)),
        1 => (0..5usize).prop_map(Event::RemovePolicy),
    ]
}

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn node(number: usize) -> Node {
    let addresses = [("InternalIP", format!("10.9.0.{number}")), ("Hostname", format!("n{number}"))];
    let addresses = addresses.map(|(kind, address)| json!({"type": kind, "address": address}));
    parse(json!({"metadata": {"name": format!("n{number}")}, "status": {"addresses": addresses}}))
}

fn pod(slot: usize, namespace: usize, labels: &Value, node: usize, ports: usize, phase: usize, host: bool) -> Pod {
    let ports = match ports {
        0 => json!([]),
        1 => json!([{"name": "web", "containerPort": 80}, {"name": "dns", "protocol": "UDP", "containerPort": 53}]),
        _ => json!([{"name": "web", "containerPort": 8080}]),
    };
    let (four, six) = if host {
        (format!("10.9.0.{node}"), "fd99::1".to_owned())
    } else {
        (format!("10.1.0.{slot}"), format!("fd00::{slot}"))
    };
    let phase = ["Running", "Running", "Running", "Pending", "Succeeded", "Failed"][phase];
    parse(json!({
        "metadata": {"name": format!("p{slot}"), "namespace": format!("ns{namespace}"), "labels": labels},
        "spec": {"nodeName": format!("n{node}"), "hostNetwork": host, "containers": [{"name": "c", "ports": ports}]},
        "status": {"phase": phase, "podIP": four, "podIPs": [{"ip": four}, {"ip": six}]},
    }))
}

pub(crate) fn change(
    cluster: &mut Cluster,
    model: &mut Model,
    places: &mut [Option<(String, String)>; PODS],
    event: Event,
) {
    let policy_name = |slot: usize| format!("np{slot}");
    match event {
        Event::Namespace(slot, labels) => {
            let namespace: Namespace = parse(json!({"metadata": {"name": format!("ns{slot}"), "labels": labels}}));
            cluster.namespaces.retain(|other| other.metadata.name != namespace.metadata.name);
            model.apply_namespace(&namespace);
            cluster.namespaces.push(namespace);
        }
        Event::Pod { slot, namespace, labels, node, ports, phase, host } => {
            let pod = pod(slot, namespace, &labels, node, ports, phase, host);
            let place = (pod.metadata.namespace.clone().unwrap(), pod.metadata.name.clone().unwrap());
            if let Some(old) = places[slot].take().filter(|old| *old != place) {
                model.remove_pod(&old.0, &old.1);
            }
            cluster.pods.retain(|other| other.metadata.name != pod.metadata.name);
            model.apply_pod(&pod);
            cluster.pods.push(pod);
            places[slot] = Some(place);
        }
        Event::RemovePod(slot) => {
            if let Some((namespace, name)) = places[slot].take() {
                model.remove_pod(&namespace, &name);
                cluster.pods.retain(|other| other.metadata.name.as_ref() != Some(&name));
            }
        }
        Event::Policy(slot, namespace, spec) => {
            let metadata = json!({"name": policy_name(slot), "namespace": format!("ns{namespace}")});
            let policy: NetworkPolicy = parse(json!({"metadata": metadata, "spec": spec}));
            cluster.policies.retain(|other| {
                other.metadata.name != policy.metadata.name || other.metadata.namespace != policy.metadata.namespace
            });
            model.apply_policy(&policy);
            cluster.policies.push(policy);
        }
        Event::RemovePolicy(slot) => {
            for namespace in ["ns0", "ns1", "ns2"] {
                model.remove_policy(namespace, &policy_name(slot));
            }
            cluster.policies.retain(|other| other.metadata.name.as_ref() != Some(&policy_name(slot)));
        }
    }
}

/// Every kind of peer.
pub(crate) fn peers() -> Vec<IpAddr> {
    let four = (0..PODS).map(|slot| format!("10.1.0.{slot}"));
    let six = (0..PODS).map(|slot| format!("fd00::{slot}"));
    let others = ["10.9.0.0", "10.9.0.1", "10.1.7.7", "192.0.2.1", "192.0.2.200", "8.8.8.8", "fd01::1", "2001:db8::1"];
    four.chain(six).chain(others.map(String::from)).map(|peer| peer.parse().unwrap()).collect()
}

/// Two nodes, seen from the first.
pub(crate) fn start() -> (Cluster, Model) {
    let mut model = Model::new("n0");
    let cluster = Cluster { nodes: vec![node(0), node(1)], ..Cluster::default() };
    cluster.nodes.iter().for_each(|node| model.apply_node(node));
    (cluster, model)
}
