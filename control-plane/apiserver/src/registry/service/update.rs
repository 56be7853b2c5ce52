//! What stays and what goes when a service is updated.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use skep_api::field::{Error, Errors, Path};

use super::{families, kind, needs_cluster_ip, needs_health_check_port, needs_node_port, takes_external_traffic};
use crate::registry::checks::text;

/// Values the server allocated stay when the client leaves them out.
pub(super) fn keep_allocations(spec: &mut ServiceSpec, old: &ServiceSpec) {
    if needs_cluster_ip(spec) && needs_cluster_ip(old) {
        if text(&spec.cluster_ip).is_empty() {
            spec.cluster_ip.clone_from(&old.cluster_ip);
        }
        if spec.cluster_ips.as_ref().is_none_or(Vec::is_empty) {
            spec.cluster_ips.clone_from(&old.cluster_ips);
        }
    }
    if needs_node_port(spec) && needs_node_port(old) {
        let mut used: HashSet<i32> = spec.ports.iter().flatten().filter_map(|p| p.node_port).collect();
        for port in spec.ports.iter_mut().flatten().filter(|p| p.node_port.unwrap_or(0) == 0) {
            let was = old.ports.iter().flatten().find(|o| o.port == port.port && o.protocol == port.protocol);
            if let Some(number) = was.and_then(|o| o.node_port).filter(|n| *n != 0)
                && used.insert(number)
            {
                port.node_port = Some(number);
            }
        }
    }
    if needs_health_check_port(spec) && needs_health_check_port(old) && spec.health_check_node_port.unwrap_or(0) == 0 {
        spec.health_check_node_port = old.health_check_node_port;
    }
}

/// Values that only another type has go with it, unless the client just set them.
pub(super) fn drop_by_type(spec: &mut ServiceSpec, old: &ServiceSpec) {
    if needs_cluster_ip(old) && !needs_cluster_ip(spec) {
        if spec.cluster_ip == old.cluster_ip && spec.cluster_ips == old.cluster_ips {
            spec.cluster_ip = None;
            spec.cluster_ips = None;
        }
        if spec.ip_families == old.ip_families {
            spec.ip_families = None;
        }
        if spec.ip_family_policy == old.ip_family_policy {
            spec.ip_family_policy = None;
        }
        if spec.internal_traffic_policy == old.internal_traffic_policy {
            spec.internal_traffic_policy = None;
        }
    }
    let ports =
        |spec: &ServiceSpec| -> HashSet<i32> { spec.ports.iter().flatten().filter_map(|p| p.node_port).collect() };
    if needs_node_port(old) && !needs_node_port(spec) && ports(spec).is_subset(&ports(old)) {
        spec.ports.iter_mut().flatten().for_each(|p| p.node_port = None);
    }
    if needs_health_check_port(old)
        && !needs_health_check_port(spec)
        && spec.health_check_node_port == old.health_check_node_port
    {
        spec.health_check_node_port = None;
    }
    if kind(old) == "LoadBalancer" && kind(spec) != "LoadBalancer" {
        if spec.allocate_load_balancer_node_ports == old.allocate_load_balancer_node_ports {
            spec.allocate_load_balancer_node_ports = None;
        }
        if spec.load_balancer_class == old.load_balancer_class {
            spec.load_balancer_class = None;
        }
    }
    if takes_external_traffic(old)
        && !takes_external_traffic(spec)
        && spec.external_traffic_policy == old.external_traffic_policy
    {
        spec.external_traffic_policy = None;
    }
}

/// Checks what may not change. `configured` are the cluster's families.
pub(super) fn validate(service: &Service, old: &Service, configured: &[&str]) -> Errors {
    let empty = ServiceSpec::default();
    let (new, old) = (service.spec.as_ref().unwrap_or(&empty), old.spec.as_ref().unwrap_or(&empty));
    let mut errors = families::settle(&mut new.clone(), Some(old), configured);
    if errors.is_empty() {
        errors = families::check_update(new, old);
    }
    if kind(old) == "LoadBalancer" && kind(new) == "LoadBalancer" && new.load_balancer_class != old.load_balancer_class
    {
        let path = Path::new("spec.loadBalancerClass");
        errors.push(Error::invalid(&path, &new.load_balancer_class, "may not change once set"));
    }
    errors
}
