//! How `kubectl get services` looks.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use serde_json::{Value, json};

use super::kind;
use crate::registry::checks::{labels_text, text};
use crate::registry::strategy::{Column, age};

pub(super) const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Type", "string", "type determines how the Service is exposed."),
    Column::new("Cluster-IP", "string", "clusterIP is the IP address of the service."),
    Column::new(
        "External-IP",
        "string",
        "externalIPs is a list of IP addresses for which nodes in the cluster will also \
        accept traffic for this service.",
    ),
    Column::new("Port(s)", "string", "The list of ports that are exposed by this service."),
    Column::AGE,
    Column::wide(
        "Selector",
        "string",
        "Route service traffic to pods with label keys and values matching this selector.",
    ),
];

pub(super) fn row(service: &Service, now: Timestamp) -> Vec<Value> {
    let empty = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&empty);
    let ip = spec.cluster_ips.as_ref().and_then(|ips| ips.first()).map_or("<none>", String::as_str);
    vec![
        json!(text(&service.metadata.name)),
        json!(kind(spec)),
        json!(ip),
        json!(external(service, spec)),
        json!(ports(spec)),
        json!(age(service.metadata.creation_timestamp.as_ref().map(|t| t.0), now)),
        json!(labels_text(spec.selector.as_ref())),
    ]
}

fn external(service: &Service, spec: &ServiceSpec) -> String {
    let fixed = spec.external_ips.as_deref().unwrap_or_default().join(",");
    let or_none = |s: String| if s.is_empty() { "<none>".to_owned() } else { s };
    match kind(spec) {
        "ClusterIP" | "NodePort" => or_none(fixed),
        "LoadBalancer" => {
            let ingress =
                service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|l| l.ingress.as_ref());
            let mut given: Vec<&str> = Vec::new();
            for one in ingress.into_iter().flatten() {
                let address = if text(&one.ip).is_empty() { text(&one.hostname) } else { text(&one.ip) };
                if !address.is_empty() && !given.contains(&address) {
                    given.push(address);
                }
            }
            let mut all = given.join(",");
            if !fixed.is_empty() {
                all = if all.is_empty() { fixed } else { format!("{all},{fixed}") };
            }
            if all.is_empty() { "<pending>".to_owned() } else { all }
        }
        "ExternalName" => text(&spec.external_name).to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

fn ports(spec: &ServiceSpec) -> String {
    let list: Vec<String> = spec
        .ports
        .iter()
        .flatten()
        .map(|p| match p.node_port.unwrap_or(0) {
            0 => format!("{}/{}", p.port, text(&p.protocol)),
            node => format!("{}:{node}/{}", p.port, text(&p.protocol)),
        })
        .collect();
    if list.is_empty() { "<none>".to_owned() } else { list.join(",") }
}
