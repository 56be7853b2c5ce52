//! From pods to endpoints, grouped by address type and ports. Pure functions.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};

use crate::meta;
use crate::pod;
use crate::service_membership as membership;

pub(super) const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Endpoints that share address type and ports, and therefore slices.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Group {
    pub(crate) address_type: &'static str,
    /// Sorted by name, protocol and number.
    pub(crate) ports: Vec<EndpointPort>,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// The groups of a Service's endpoints; each address type has at least one, possibly empty.
pub(super) fn groups(service: &Service, pods: &[Arc<Pod>], zone: impl Fn(&str) -> Option<String>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for address_type in address_types(service) {
        let first = groups.len();
        for pod in pods.iter().filter(|pod| membership::can_be_endpoint(pod, true)) {
            let Some(endpoint) = endpoint(service, pod, address_type, &zone) else { continue };
            let ports = ports(service, pod);
            match groups[first..].iter_mut().find(|group| group.ports == ports) {
                Some(group) => group.endpoints.push(endpoint),
                None => groups.push(Group { address_type, ports, endpoints: vec![endpoint] }),
            }
        }
        if groups.len() == first {
            groups.push(Group { address_type, ports: Vec::new(), endpoints: Vec::new() });
        }
    }
    groups
}

fn address_types(service: &Service) -> Vec<&'static str> {
    let spec = service.spec.as_ref();
    let families = spec.and_then(|spec| spec.ip_families.as_deref()).unwrap_or_default();
    let mut types: Vec<_> = families
        .iter()
        .filter_map(|family| match family.as_str() {
            "IPv4" => Some("IPv4"),
            "IPv6" => Some("IPv6"),
            _ => None,
        })
        .collect();
    if types.is_empty() {
        let cluster_ip = spec.and_then(|spec| spec.cluster_ip.as_deref()).and_then(|ip| ip.parse::<IpAddr>().ok());
        types.push(if cluster_ip.is_some_and(|ip| ip.is_ipv6()) { "IPv6" } else { "IPv4" });
    }
    types
}

fn is_of_type(ip: &str, address_type: &str) -> bool {
    ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4() == (address_type == "IPv4"))
}

fn endpoint(
    service: &Service,
    pod: &Pod,
    address_type: &str,
    zone: impl Fn(&str) -> Option<String>,
) -> Option<Endpoint> {
    let addresses: Vec<_> = membership::ips(pod).filter(|ip| is_of_type(ip, address_type)).map(str::to_owned).collect();
    if addresses.is_empty() {
        return None;
    }
    let publish = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
    let serving = pod::is_ready(pod);
    let terminating = meta::is_deleting(&pod.metadata);
    let node = pod::node_name(pod);
    let mut endpoint = Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: membership::hostname(pod, service),
        node_name: (!node.is_empty()).then(|| node.to_owned()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        zone: zone(node),
        ..Endpoint::default()
    };
    endpoint.hints = super::hints::hints(service, &endpoint);
    Some(endpoint)
}

/// The pod's ports behind the Service's; a named port the pod does not have is left out.
fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let wanted = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let mut ports: Vec<_> = wanted
        .iter()
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(membership::find_port(pod, port)?),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    sort_ports(&mut ports);
    ports
}

pub(crate) fn sort_ports(ports: &mut [EndpointPort]) {
    ports.sort_by(|a, b| (&a.name, &a.protocol, a.port).cmp(&(&b.name, &b.protocol, b.port)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{
        Container, ContainerPort, PodCondition, PodIP, PodSpec, PodStatus, ServicePort, ServiceSpec,
    };
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

    fn service(families: &[&str]) -> Service {
        let port = ServicePort {
            name: Some("web".into()),
            port: 80,
            target_port: Some(IntOrString::String("http".into())),
            ..Default::default()
        };
        Service {
            spec: Some(ServiceSpec {
                ports: Some(vec![port]),
                ip_families: Some(families.iter().map(|f| (*f).to_owned()).collect()),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn pod(port: i32, ips: &[&str], ready: bool) -> Arc<Pod> {
        let container = Container {
            ports: Some(vec![ContainerPort { name: Some("http".into()), container_port: port, ..Default::default() }]),
            ..Default::default()
        };
        let condition = PodCondition {
            type_: "Ready".into(),
            status: if ready { "True" } else { "False" }.into(),
            ..Default::default()
        };
        Arc::new(Pod {
            spec: Some(PodSpec { containers: vec![container], node_name: Some("n1".into()), ..Default::default() }),
            status: Some(PodStatus {
                pod_ips: Some(ips.iter().map(|ip| PodIP { ip: (*ip).to_owned() }).collect()),
                conditions: Some(vec![condition]),
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    #[test]
    fn a_named_port_with_different_numbers_makes_two_groups() {
        let pods = [pod(8080, &["10.0.0.1"], true), pod(9090, &["10.0.0.2"], true), pod(8080, &["10.0.0.3"], true)];
        let groups = groups(&service(&["IPv4"]), &pods, |_| None);
        assert_eq!(groups.len(), 2);
        assert_eq!(groups[0].endpoints.len(), 2);
        assert_eq!(groups[1].ports[0].port, Some(9090));
    }

    #[test]
    fn dual_stack_pods_are_in_both_families() {
        let pods = [pod(80, &["10.0.0.1", "fd00::1"], true)];
        let groups = groups(&service(&["IPv4", "IPv6"]), &pods, |_| Some("zone-a".into()));
        assert_eq!(groups[0].endpoints[0].addresses, ["10.0.0.1"]);
        assert_eq!(groups[1].endpoints[0].addresses, ["fd00::1"]);
        assert_eq!(groups[1].endpoints[0].zone.as_deref(), Some("zone-a"));
    }

    #[test]
    fn a_terminating_pod_serves_but_is_not_ready() {
        let mut terminating = pod(80, &["10.0.0.1"], true).as_ref().clone();
        terminating.metadata.deletion_timestamp = Some(meta::now());
        let groups = groups(&service(&["IPv4"]), &[Arc::new(terminating)], |_| None);
        let conditions = groups[0].endpoints[0].conditions.clone().unwrap();
        assert_eq!(
            (conditions.ready, conditions.serving, conditions.terminating),
            (Some(false), Some(true), Some(true))
        );
    }

    #[test]
    fn not_ready_addresses_are_published_on_request() {
        let mut service = service(&["IPv4"]);
        service.spec.get_or_insert_default().publish_not_ready_addresses = Some(true);
        let groups = groups(&service, &[pod(80, &["10.0.0.1"], false)], |_| None);
        let conditions = groups[0].endpoints[0].conditions.clone().unwrap();
        assert_eq!((conditions.ready, conditions.serving), (Some(true), Some(false)));
    }

    #[test]
    fn a_service_without_pods_keeps_an_empty_group() {
        let groups = groups(&service(&["IPv4"]), &[], |_| None);
        assert_eq!(groups, [Group { address_type: "IPv4", ports: vec![], endpoints: vec![] }]);
    }
}
