//! Objects of the data plane's measurements.

use serde_json::{Value, json};
use xtask::cluster::Cluster;

/// A pod `name` (label `app: <name>`) on `node` that serves on `port`, by which [`super::place::Place::pod`] finds it.
pub fn pod(name: &str, node: &Cluster, port: u16) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, labels: {{ app: {name} }} }}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers: [{{ name: {name}, image: 'localhost/skep/toolbox:1', command: [toolbox, serve, '{port}'] }}]
",
        node = node.spec().name
    )
}

/// A Service `name` of the pods of that name. Each port is also the pod's.
pub fn service(name: &str, kind: &str, ports: &[(u16, &str)]) -> String {
    let ports: Vec<_> = ports
        .iter()
        .map(|(port, protocol)| {
            let name = format!("{}-{port}", protocol.to_lowercase());
            json!({ "name": name, "port": port, "protocol": protocol })
        })
        .collect();
    let spec = json!({ "type": kind, "selector": { "app": name }, "ports": ports });
    let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name }, "spec": spec });
    format!("---\n{service}\n")
}

/// A Service `name` without a selector: its endpoints are what [`slice`] says.
pub fn bare_service(name: &str, kind: &str, port: u16, protocol: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "type": kind, "ports": [{ "port": port, "protocol": protocol }] },
    })
}

/// The EndpointSlice `name` of the Service of that name.
pub fn slice(name: &str, endpoints: &[String], port: u16, protocol: &str) -> Value {
    let endpoints: Vec<_> =
        endpoints.iter().map(|ip| json!({ "addresses": [ip], "conditions": { "ready": true } })).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": name, "labels": { "kubernetes.io/service-name": name } },
        "endpoints": endpoints, "ports": [{ "name": "", "port": port, "protocol": protocol }],
    })
}
