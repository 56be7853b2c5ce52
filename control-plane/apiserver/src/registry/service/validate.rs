//! Validation of services.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use skep_api::field::{Error, Errors, Path};
use skep_api::{meta, name};

use super::{families, is_headless, kind, needs_node_port, takes_external_traffic};
use crate::registry::checks::{self, one_of, text};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const MAX_STICKY_SECONDS: i32 = 86400;

/// Checks a service, whatever the cluster.
pub(super) fn validate(service: &Service) -> Errors {
    let mut errors = Errors::new();
    let empty = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&empty);
    let path = Path::new("spec");
    validate_ports(spec, &path, &mut errors);
    match kind(spec) {
        "LoadBalancer" if is_headless(spec) => {
            let list = path.child("clusterIPs");
            let why = "may not be set to 'None' for LoadBalancer services";
            errors.push(Error::invalid(&list.index(0), "None", why));
        }
        "NodePort" if is_headless(spec) => {
            let list = path.child("clusterIPs");
            let why = "may not be set to 'None' for NodePort services";
            errors.push(Error::invalid(&list.index(0), "None", why));
        }
        "ExternalName" => validate_external_name(spec, &path, &mut errors),
        _ => {}
    }
    if let Some(selector) = &spec.selector {
        meta::validate_labels(selector, &path.child("selector"), &mut errors);
    }
    validate_affinity(spec, &path, &mut errors);
    one_of(&mut errors, &path.child("type"), kind(spec), &TYPES);
    errors.extend(families::check(spec));
    let list = path.child("externalIPs");
    for (i, ip) in spec.external_ips.iter().flatten().enumerate() {
        checks::name(&mut errors, &list.index(i), ip, name::ip);
        validate_outer(ip, &list.index(i), &mut errors);
    }
    validate_traffic(spec, &path, &mut errors);
    validate_load_balancer(spec, &path, &mut errors);
    errors
}

/// Checks what a load balancer reported.
pub(super) fn validate_status(service: &Service) -> Errors {
    let mut errors = Errors::new();
    let path = Path::new("status.loadBalancer.ingress");
    let ingress = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|l| l.ingress.as_ref());
    for (i, one) in ingress.into_iter().flatten().enumerate() {
        let at = path.index(i);
        let ip = text(&one.ip);
        if !ip.is_empty() {
            checks::name(&mut errors, &at.child("ip"), ip, name::ip);
        }
        let hostname = text(&one.hostname);
        if !hostname.is_empty() {
            checks::name(&mut errors, &at.child("hostname"), hostname, name::dns1123_subdomain);
        }
    }
    errors
}

fn validate_ports(spec: &ServiceSpec, path: &Path<'_>, errors: &mut Errors) {
    let ports = spec.ports.as_deref().unwrap_or_default();
    let list = path.child("ports");
    if ports.is_empty() && !is_headless(spec) && kind(spec) != "ExternalName" {
        errors.push(Error::required(&list, ""));
    }
    let mut names = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = list.index(i);
        validate_port(port, ports.len() > 1, is_headless(spec), &mut names, &path, errors);
        if !needs_node_port(spec) && kind(spec) == "ClusterIP" && port.node_port.unwrap_or(0) != 0 {
            let why = "may not be used when `type` is 'ClusterIP'";
            errors.push(Error::forbidden(&path.child("nodePort"), why));
        }
        let same = |p: &&ServicePort| p.port == port.port && p.protocol == port.protocol;
        if ports[..i].iter().any(|p| same(&p)) {
            let key =
                ServicePort { name: None, target_port: None, node_port: None, app_protocol: None, ..port.clone() };
            errors.push(Error::duplicate(&path, key));
        }
        let number = port.node_port.filter(|n| *n != 0);
        if number.is_some() && ports[..i].iter().any(|p| p.node_port == number && p.protocol == port.protocol) {
            errors.push(Error::duplicate(&path.child("nodePort"), number));
        }
    }
}

fn validate_port<'a>(
    port: &'a ServicePort,
    needs_name: bool,
    headless: bool,
    names: &mut HashSet<&'a str>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let own = text(&port.name);
    if own.is_empty() {
        if needs_name {
            errors.push(Error::required(&path.child("name"), ""));
        }
    } else {
        checks::name(errors, &path.child("name"), own, name::dns1123_label);
        if !names.insert(own) {
            errors.push(Error::duplicate(&path.child("name"), own));
        }
    }
    checks::port_number(errors, &path.child("port"), port.port);
    one_of(errors, &path.child("protocol"), text(&port.protocol), &PROTOCOLS);
    // A headless service does not forward, so it cares about no target port that is a number.
    let number = matches!(port.target_port, Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(_)));
    if let Some(target) = port.target_port.as_ref().filter(|_| !(headless && number)) {
        checks::port(errors, &path.child("targetPort"), target);
    }
    let protocol = text(&port.app_protocol);
    if !protocol.is_empty() {
        checks::name(errors, &path.child("appProtocol"), protocol, name::qualified_name);
    }
}

fn validate_external_name(spec: &ServiceSpec, path: &Path<'_>, errors: &mut Errors) {
    let why = "may not be set for ExternalName services";
    if spec.cluster_ips.as_ref().is_some_and(|ips| !ips.is_empty()) || !text(&spec.cluster_ip).is_empty() {
        errors.push(Error::forbidden(&path.child("clusterIPs"), why));
    }
    if spec.ip_families.as_ref().is_some_and(|f| !f.is_empty()) {
        errors.push(Error::forbidden(&path.child("ipFamilies"), why));
    }
    if spec.ip_family_policy.is_some() {
        errors.push(Error::forbidden(&path.child("ipFamilyPolicy"), why));
    }
    let external = text(&spec.external_name);
    let external = external.strip_suffix('.').unwrap_or(external);
    if external.is_empty() {
        errors.push(Error::required(&path.child("externalName"), ""));
    } else {
        checks::name(errors, &path.child("externalName"), external, name::dns1123_subdomain);
    }
}

fn validate_affinity(spec: &ServiceSpec, path: &Path<'_>, errors: &mut Errors) {
    one_of(errors, &path.child("sessionAffinity"), text(&spec.session_affinity), &["ClientIP", "None"]);
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    let seconds = config.and_then(|c| c.timeout_seconds);
    if let Some(seconds) = seconds.filter(|s| !(1..=MAX_STICKY_SECONDS).contains(s)) {
        let why = format!("must be greater than 0 and less than {MAX_STICKY_SECONDS}");
        errors.push(Error::invalid(&path.child("sessionAffinityConfig.clientIP.timeoutSeconds"), seconds, why));
    }
}

/// An address of the outside world.
fn validate_outer(ip: &str, path: &Path<'_>, errors: &mut Errors) {
    let Ok(address) = ip.parse::<std::net::IpAddr>() else { return };
    if let Some(why) = checks::special_address(address) {
        errors.push(Error::invalid(path, ip, why));
    }
}

fn validate_traffic(spec: &ServiceSpec, path: &Path<'_>, errors: &mut Errors) {
    let supported = ["Cluster", "Local"];
    let at = path.child("externalTrafficPolicy");
    let external = text(&spec.external_traffic_policy);
    if !takes_external_traffic(spec) {
        if !external.is_empty() {
            errors.push(Error::invalid(&at, external, "may only be set for externally-accessible services"));
        }
    } else if external.is_empty() {
        errors.push(Error::required(&at, ""));
    } else if !supported.contains(&external) {
        errors.push(Error::not_supported(&at, external, &supported));
    }
    let internal = text(&spec.internal_traffic_policy);
    if !internal.is_empty() && !supported.contains(&internal) {
        errors.push(Error::not_supported(&path.child("internalTrafficPolicy"), internal, &supported));
    }
    let distribution = text(&spec.traffic_distribution);
    let known = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    if !distribution.is_empty() && !known.contains(&distribution) {
        errors.push(Error::not_supported(&path.child("trafficDistribution"), distribution, &known));
    }
}

fn validate_load_balancer(spec: &ServiceSpec, path: &Path<'_>, errors: &mut Errors) {
    let balanced = kind(spec) == "LoadBalancer";
    let list = path.child("loadBalancerSourceRanges");
    let ranges = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    if !balanced && !ranges.is_empty() {
        errors.push(Error::forbidden(&list, "may only be used when `type` is 'LoadBalancer'"));
    }
    for (i, range) in ranges.iter().enumerate() {
        if range.trim().parse::<ipnet::IpNet>().is_err() {
            let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.push(Error::invalid(&list.index(i), range, why));
        }
    }
    let only = "may only be used when `type` is 'LoadBalancer'";
    if !balanced && spec.allocate_load_balancer_node_ports.is_some() {
        errors.push(Error::forbidden(&path.child("allocateLoadBalancerNodePorts"), only));
    }
    if !balanced && spec.load_balancer_class.is_some() {
        errors.push(Error::forbidden(&path.child("loadBalancerClass"), only));
    }
    let port = spec.health_check_node_port.unwrap_or(0);
    if port != 0 && !super::needs_health_check_port(spec) {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(Error::invalid(&path.child("healthCheckNodePort"), port, why));
    }
}
