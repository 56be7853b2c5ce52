//! Defaults of services.

use k8s_openapi::api::core::v1::{ClientIPConfig, Service, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{is_headless, kind, needs_cluster_ip, takes_external_traffic};
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

/// `clusterIP` is the first of `clusterIPs`. An old client may know only the first of the two.
pub(super) fn cluster_ips(spec: &mut ServiceSpec, old: Option<&ServiceSpec>) {
    let one = text(&spec.cluster_ip).to_owned();
    let none = spec.cluster_ips.as_ref().is_none_or(Vec::is_empty);
    let Some(old) = old else {
        if !one.is_empty() && none {
            spec.cluster_ips = Some(vec![one]);
        }
        return;
    };
    let (changed, list_changed) = (one != text(&old.cluster_ip), spec.cluster_ips != old.cluster_ips);
    if changed && !list_changed {
        spec.cluster_ips = (!one.is_empty()).then(|| vec![one]);
    } else if !one.is_empty() && none && changed {
        spec.cluster_ips = Some(vec![one]);
    }
}

/// Families and policy on a cluster that has one family.
pub(super) fn families(spec: &mut ServiceSpec, family: &str) {
    if !needs_cluster_ip(spec) {
        return;
    }
    let loose = is_headless(spec) && spec.selector.as_ref().is_none_or(|s| s.is_empty());
    or(&mut spec.ip_family_policy, if loose { "RequireDualStack" } else { "SingleStack" });
    let families = spec.ip_families.get_or_insert_default();
    if families.is_empty() {
        let given = spec.cluster_ips.as_ref().and_then(|ips| ips.first()).and_then(|ip| ip.parse().ok());
        let first = match given {
            Some(std::net::IpAddr::V4(_)) => "IPv4",
            Some(std::net::IpAddr::V6(_)) => "IPv6",
            None => family,
        };
        families.push(first.to_owned());
    }
    // A headless service without selector may have endpoints of any family.
    if loose && families.len() == 1 && text(&spec.ip_family_policy) != "SingleStack" {
        let other = if families[0] == "IPv4" { "IPv6" } else { "IPv4" };
        families.push(other.to_owned());
    }
}
