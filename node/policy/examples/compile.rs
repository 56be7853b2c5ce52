//! 10,000 pods and 1,000 policies: what the whole costs, and what one change costs of it.
//! `cargo run --release -p skep-policy --example compile`

use std::time::{Duration, Instant};

use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod},
    networking::v1::NetworkPolicy,
};
use serde_json::json;
use skep_policy::{Mirror, Model};

const PODS: usize = 10_000;
const POLICIES: usize = 1_000;
const NAMESPACES: usize = 100;
const NODES: usize = 100;

fn pod(number: usize) -> Result<Pod, serde_json::Error> {
    let ip = format!("10.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255);
    serde_json::from_value(json!({
        "metadata": {
            "name": format!("p{number}"), "namespace": format!("ns{}", number % NAMESPACES),
            "labels": {"app": format!("app{}", number / NAMESPACES % 10)},
        },
        "spec": {"nodeName": format!("n{}", number * 7 / 3 % NODES), "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 80}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": ip}]},
    }))
}

fn policy(number: usize) -> Result<NetworkPolicy, serde_json::Error> {
    let peer = match number % 3 {
        0 => json!({"podSelector": {"matchLabels": {"app": format!("app{}", number % 7)}}}),
        1 => json!({"namespaceSelector": {"matchLabels": {"team": format!("t{}", number % 10)}}}),
        _ => {
            json!({"ipBlock": {"cidr": format!("172.{}.0.0/16", number % 200), "except": [format!("172.{}.9.0/24", number % 200)]}})
        }
    };
    serde_json::from_value(json!({
        "metadata": {"name": format!("np{number}"), "namespace": format!("ns{}", number % NAMESPACES)},
        "spec": {
            "podSelector": {"matchLabels": {"app": format!("app{}", number / NAMESPACES)}},
            "ingress": [{"from": [peer], "ports": [{"port": "web"}, {"port": 8000, "endPort": 8999}]}],
        },
    }))
}

fn main() -> Result<(), serde_json::Error> {
    let pods = (0..PODS).map(pod).collect::<Result<Vec<_>, _>>()?;
    let policies = (0..POLICIES).map(policy).collect::<Result<Vec<_>, _>>()?;
    let (mut model, mut mirror) = (Model::new("n0"), Mirror::default());

    let begin = Instant::now();
    for number in 0..NAMESPACES {
        let metadata = json!({"name": format!("ns{number}"), "labels": {"team": format!("t{}", number % 10)}});
        model.apply_namespace(&serde_json::from_value::<Namespace>(json!({"metadata": metadata}))?);
    }
    model.apply_node(&serde_json::from_value::<Node>(json!({"metadata": {"name": "n0"}}))?);
    pods.iter().for_each(|pod| model.apply_pod(pod));
    policies.iter().for_each(|policy| model.apply_policy(policy));
    mirror.apply(&model.changes());
    let whole = begin.elapsed();
    let entries: usize = mirror.tables.values().map(|table| table.len()).sum();
    println!(
        "whole: {whole:?}; {} identities, {} local endpoints, {} tables, {entries} entries",
        model.identities(),
        mirror.endpoints.len(),
        mirror.tables.len()
    );

    let mut one = |name: &str, change: &mut dyn FnMut(&mut Model)| {
        let (begin, compiled) = (Instant::now(), model.compiled());
        change(&mut model);
        let changes = model.changes();
        let took = begin.elapsed().max(Duration::from_nanos(1));
        let tables = model.compiled() - compiled;
        println!(
            "{name}: {took:?}, 1/{:.0} of the whole; {tables} tables compiled, {} prefixes and {} tables to write",
            whole.as_secs_f64() / took.as_secs_f64(),
            changes.identities.len(),
            changes.tables.len()
        );
    };
    one("one more replica", &mut |model| {
        let mut replica = pods[42].clone();
        replica.metadata.name = Some("replica".into());
        if let Some(status) = replica.status.as_mut() {
            status.pod_ips.iter_mut().flatten().for_each(|ip| ip.ip = "10.200.0.1".into());
        }
        model.apply_pod(&replica);
    });
    one("one pod gone", &mut |model| model.remove_pod("ns42", "p42"));
    one("one policy gone", &mut |model| model.remove_policy("ns7", "np7"));
    one("one policy back", &mut |model| model.apply_policy(&policies[7]));
    Ok(())
}
