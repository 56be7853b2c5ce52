//! The examples of the API's documentation: default deny and allow of each direction, the example policy with all its
//! kinds of peers, "and" against "or" in one list of peers, ranges of ports, and the rules that hold without a policy.

use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod},
    networking::v1::NetworkPolicy,
};
use serde_json::{Value, json};
use skep_policy::{
    Direction::{self, Egress, Ingress},
    Mirror, Model, TCP, UDP,
};

const DB: &str = "10.1.0.1";
const FRONTEND: &str = "10.1.0.2";
const OTHER: &str = "10.1.0.3";
const FAR: &str = "10.1.0.4";
const FAR_CLIENT: &str = "10.1.0.5";
const HOST: &str = "10.9.0.1";
const REMOTE: &str = "10.9.0.2";
const HOST_NETWORK: &str = REMOTE;

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// default/db (local, named port), default/frontend, default/other, far/far (team=x), far/client, and two nodes.
fn cluster(specs: &[Value]) -> Mirror {
    let mut model = Model::new("here");
    for (name, address) in [("here", HOST), ("there", REMOTE)] {
        let addresses = json!([{"type": "InternalIP", "address": address}]);
        model.apply_node(&parse::<Node>(json!({"metadata": {"name": name}, "status": {"addresses": addresses}})));
    }
    for (name, labels) in [("default", json!({})), ("far", json!({"project": "myproject"}))] {
        model.apply_namespace(&parse::<Namespace>(json!({"metadata": {"name": name, "labels": labels}})));
    }
    let pods = [
        ("default", "db", DB, false),
        ("default", "frontend", FRONTEND, false),
        ("default", "other", OTHER, false),
        ("far", "far", FAR, false),
        ("far", "client", FAR_CLIENT, false),
        ("default", "frontend", HOST_NETWORK, true),
    ];
    for (namespace, role, ip, host) in pods {
        let ports = json!([{"name": "sql", "containerPort": 6379}]);
        model.apply_pod(&parse::<Pod>(json!({
            "metadata": {"name": format!("{role}-{host}"), "namespace": namespace, "labels": {"role": role}},
            "spec": {"nodeName": "here", "hostNetwork": host, "containers": [{"name": "c", "ports": ports}]},
            "status": {"phase": "Running", "podIPs": [{"ip": ip}]},
        })));
    }
    for (number, spec) in specs.iter().enumerate() {
        let metadata = json!({"name": format!("np{number}"), "namespace": "default"});
        model.apply_policy(&parse::<NetworkPolicy>(json!({"metadata": metadata, "spec": spec})));
    }
    let mut mirror = Mirror::default();
    mirror.apply(&model.changes());
    mirror
}

fn allows(mirror: &Mirror, pod: &str, direction: Direction, peer: &str, port: u16) -> bool {
    mirror.allows(pod.parse().unwrap(), direction, peer.parse().unwrap(), TCP, port)
}

fn spec_of_the_example() -> Value {
    json!({
        "podSelector": {"matchLabels": {"role": "db"}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{
            "from": [
                {"ipBlock": {"cidr": "172.17.0.0/16", "except": ["172.17.1.0/24"]}},
                {"namespaceSelector": {"matchLabels": {"project": "myproject"}}},
                {"podSelector": {"matchLabels": {"role": "frontend"}}},
            ],
            "ports": [{"protocol": "TCP", "port": 6379}],
        }],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/24"}}], "ports": [{"protocol": "TCP", "port": 5978}]}],
    })
}

#[test]
fn without_a_policy_everything_is_allowed() {
    let mirror = cluster(&[]);
    assert!(allows(&mirror, DB, Ingress, "8.8.8.8", 1) && allows(&mirror, DB, Egress, FAR, 1));
}

#[test]
fn the_example_policy_allows_what_its_text_says() {
    let mirror = cluster(&[spec_of_the_example()]);
    for (peer, expected) in [
        (FRONTEND, true),
        (OTHER, false),
        (FAR, true),
        ("172.17.0.1", true),
        ("172.17.1.1", false),
        ("172.18.0.1", false),
        (HOST, true),
        // A pod of another node's host network is that node, whatever its labels.
        (REMOTE, false),
        (DB, true),
    ] {
        assert_eq!(allows(&mirror, DB, Ingress, peer, 6379), expected, "from {peer}");
    }
    assert!(!allows(&mirror, DB, Ingress, FRONTEND, 6380));
    assert!(allows(&mirror, DB, Egress, "10.0.0.9", 5978));
    assert!(!allows(&mirror, DB, Egress, "10.0.1.9", 5978) && !allows(&mirror, DB, Egress, "10.0.0.9", 80));
    assert!(allows(&mirror, OTHER, Ingress, FAR, 1), "the policy does not select it");
}

#[test]
fn two_selectors_in_one_peer_are_both_needed_and_in_two_either_will_do() {
    let namespace = json!({"matchLabels": {"project": "myproject"}});
    let pods = json!({"matchLabels": {"role": "client"}});
    let both = json!([{"namespaceSelector": namespace, "podSelector": pods}]);
    let either = json!([{"namespaceSelector": namespace}, {"podSelector": pods}]);
    let one = cluster(&[json!({"podSelector": {}, "ingress": [{"from": both}]})]);
    assert!(allows(&one, DB, Ingress, FAR_CLIENT, 1) && !allows(&one, DB, Ingress, FAR, 1));
    let two = cluster(&[json!({"podSelector": {}, "ingress": [{"from": either}]})]);
    assert!(allows(&two, DB, Ingress, FAR_CLIENT, 1) && allows(&two, DB, Ingress, FAR, 1));
    assert!(!allows(&two, DB, Ingress, OTHER, 1));
}

#[test]
fn the_defaults_of_a_namespace_isolate_the_directions_they_name() {
    for (spec, ingress, egress) in [
        (json!({"podSelector": {}, "policyTypes": ["Ingress"]}), false, true),
        (json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}]}), true, true),
        (json!({"podSelector": {}, "policyTypes": ["Egress"]}), true, false),
        (json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}), true, true),
        (json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}), false, false),
        // Types left out: always ingress, egress only where there are rules.
        (json!({"podSelector": {}}), false, true),
        (json!({"podSelector": {}, "egress": []}), false, true),
        (json!({"podSelector": {}, "egress": [{"to": [{"podSelector": {}}]}]}), false, false),
        // An empty list of peers says the same as none.
        (json!({"podSelector": {}, "ingress": [{"from": []}]}), true, true),
    ] {
        let mirror = cluster(std::slice::from_ref(&spec));
        let found = (allows(&mirror, DB, Ingress, "8.8.8.8", 80), allows(&mirror, DB, Egress, "8.8.8.8", 80));
        assert_eq!(found, (ingress, egress), "{spec}");
        assert!(allows(&mirror, DB, Ingress, HOST, 80), "the node's probes: {spec}");
        assert!(allows(&mirror, FAR, Ingress, DB, 80), "another namespace: {spec}");
    }
}

#[test]
fn policies_add_up() {
    let deny = json!({"podSelector": {}, "policyTypes": ["Ingress"]});
    assert!(allows(&cluster(&[deny, spec_of_the_example()]), DB, Ingress, FRONTEND, 6379));
}

#[test]
fn ports_may_be_ranges_or_names_and_are_tcp_unless_they_say_else() {
    let rule = |ports: Value| json!({"podSelector": {}, "ingress": [{"ports": ports}]});
    let range = cluster(&[rule(json!([{"port": 32000, "endPort": 32768}]))]);
    for (port, expected) in [(31999, false), (32000, true), (32768, true), (32769, false)] {
        assert_eq!(allows(&range, DB, Ingress, FAR, port), expected, "{port}");
    }
    assert!(!range.allows(DB.parse().unwrap(), Ingress, FAR.parse().unwrap(), UDP, 32000));
    let named = cluster(&[rule(json!([{"port": "sql"}]))]);
    assert!(allows(&named, DB, Ingress, FAR, 6379) && !allows(&named, DB, Ingress, FAR, 6380));
    // On the way out the name is the destination's, who has none outside of the cluster.
    let out =
        cluster(&[json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [{"port": "sql"}]}]})]);
    assert!(allows(&out, DB, Egress, FAR, 6379) && !allows(&out, DB, Egress, "8.8.8.8", 6379));
}

#[test]
fn one_more_replica_compiles_no_table() {
    let mut model = Model::new("here");
    model.apply_namespace(&parse::<Namespace>(json!({"metadata": {"name": "default"}})));
    let pod = |name: &str, ip: &str, node: &str| {
        parse::<Pod>(json!({
            "metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": "Running", "podIPs": [{"ip": ip}]},
        }))
    };
    model.apply_pod(&pod("a", "10.1.0.1", "here"));
    let policy = json!({"metadata": {"name": "np", "namespace": "default"}, "spec": {"ingress": [{"from": [{"podSelector": {}}]}]}});
    model.apply_policy(&parse::<NetworkPolicy>(policy));
    model.changes();
    let compiled = model.compiled();
    model.apply_pod(&pod("b", "10.1.0.2", "there"));
    model.apply_pod(&pod("c", "10.1.0.3", "here"));
    let changes = model.changes();
    assert_eq!((model.compiled(), changes.identities.len(), changes.endpoints.len()), (compiled, 2, 1));
    assert!(changes.tables.is_empty());
}

#[test]
fn a_pod_that_takes_over_an_address_owns_it_while_the_former_is_being_deleted() {
    let mut model = Model::new("here");
    let pod = |name: &str, app: &str, deleted: Option<&str>| {
        let labels = json!({"app": app});
        parse::<Pod>(json!({
            "metadata": {"name": name, "namespace": "default", "labels": labels, "deletionTimestamp": deleted},
            "spec": {"nodeName": "there", "containers": []},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.1.0.1"}]},
        }))
    };
    let (mut mirror, address) = (Mirror::default(), "10.1.0.1".parse().unwrap());
    let mut now = |model: &mut Model| {
        mirror.apply(&model.changes());
        mirror.identity(address)
    };
    model.apply_pod(&pod("new", "b", None));
    let new = now(&mut model);
    model.apply_pod(&pod("old", "a", Some("2026-01-01T00:00:00Z")));
    assert_eq!(now(&mut model), new);
    model.remove_pod("default", "new");
    assert_ne!(now(&mut model), new);
}
