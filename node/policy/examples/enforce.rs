//! What a packet costs under the policies of a cluster of 10,000 pods in 1,000 groups:
//! `cargo run --release -p skep-policy --example enforce DIR`, as root, DIR being on a BPF file system.

use std::net::Ipv4Addr;

use k8s_openapi::api::{
    core::v1::{Namespace, Pod},
    networking::v1::NetworkPolicy,
};
use serde_json::json;
use skep_policy::{Model, bench};

const PODS: u32 = 10_000;
const GROUPS: u32 = 1_000;

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0000 + number)
}

fn pod(number: u32, app: &str, node: &str) -> Result<Pod, serde_json::Error> {
    serde_json::from_value(json!({
        "metadata": {"name": format!("p{number}"), "namespace": "ns", "labels": {"app": app}},
        "spec": {"nodeName": node, "containers": []},
        "status": {"phase": "Running", "podIPs": [{"ip": address(number)}]},
    }))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::env::args().nth(1).ok_or("name a folder on a BPF file system")?;
    let mut model = Model::new("n0");
    model.apply_namespace(&serde_json::from_value::<Namespace>(json!({"metadata": {"name": "ns"}}))?);
    for number in 0..PODS {
        model.apply_pod(&pod(number, &format!("app{}", number % GROUPS), "n1")?);
    }
    let cast = bench::Cast { isolated: address(PODS), free: address(PODS + 1), peer: address(42), port: 80 };
    model.apply_pod(&pod(PODS, "isolated", "n0")?);
    model.apply_pod(&pod(PODS + 1, "free", "n0")?);
    model.apply_policy(&serde_json::from_value::<NetworkPolicy>(json!({
        "metadata": {"name": "np", "namespace": "ns"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "isolated"}},
            "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": 80}, {"port": 8000, "endPort": 8999}]}],
        },
    }))?);
    print!("{}", bench::run(root.as_ref(), &mut model, cast)?);
    Ok(())
}
