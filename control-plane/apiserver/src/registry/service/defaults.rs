//! Defaults of services.

use k8s_openapi::api::core::v1::{ClientIPConfig, Service, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::families::ips;
use super::{kind, needs_cluster_ip, takes_external_traffic};
use crate::registry::checks::text;

const STICKY_SECONDS: i32 = 10800;

fn or(field: &mut Option<String>, value: &str) {
    if text(field).is_empty() {
        *field = Some(value.to_owned());
    }
}

/// What upstream's `SetDefaults_Service` sets.
pub(super) fn set(spec: &mut ServiceSpec) {
    or(&mut spec.session_affinity, "None");
    match text(&spec.session_affinity) {
        "None" => spec.session_affinity_config = None,
        "ClientIP" => {
            let config = spec.session_affinity_config.get_or_insert_default();
            let client = config.client_ip.get_or_insert_with(ClientIPConfig::default);
            client.timeout_seconds.get_or_insert(STICKY_SECONDS);
        }
        _ => {}
    }
    or(&mut spec.type_, "ClusterIP");
    for port in spec.ports.iter_mut().flatten() {
        or(&mut port.protocol, "TCP");
        let missing = match &port.target_port {
            None | Some(IntOrString::Int(0)) => true,
            Some(IntOrString::String(name)) => name.is_empty(),
            Some(IntOrString::Int(_)) => false,
        };
        if missing {
            port.target_port = Some(IntOrString::Int(port.port));
        }
    }
    if takes_external_traffic(spec) {
        or(&mut spec.external_traffic_policy, "Cluster");
    }
    if needs_cluster_ip(spec) {
        or(&mut spec.internal_traffic_policy, "Cluster");
    }
    if kind(spec) == "LoadBalancer" {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
}

/// Upstream always says `loadBalancer`, even when there is none; addresses of one are virtual unless said otherwise.
pub(super) fn set_status(service: &mut Service) {
    let status = service.status.get_or_insert_default().load_balancer.get_or_insert_default();
    let balanced = service.spec.as_ref().is_some_and(|spec| kind(spec) == "LoadBalancer");
    for ingress in status.ingress.iter_mut().flatten().filter(|_| balanced) {
        if !text(&ingress.ip).is_empty() {
            ingress.ip_mode.get_or_insert_with(|| "VIP".to_owned());
        }
    }
}

/// `clusterIP` is the first of `clusterIPs`. An old client may know only the first of the two. Called after what the service
/// had was filled in (upstream's `normalizeClusterIPs`).
pub(super) fn cluster_ips(spec: &mut ServiceSpec, old: Option<&ServiceSpec>) {
    let one = text(&spec.cluster_ip);
    let sole = || (!one.is_empty()).then(|| vec![one.to_owned()]);
    match old {
        None if ips(spec).is_empty() => spec.cluster_ips = sole(),
        Some(old) if one != text(&old.cluster_ip) && ips(spec) == ips(old) => spec.cluster_ips = sole(),
        _ => {}
    }
}
