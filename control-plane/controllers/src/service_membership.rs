//! Which Services a pod belongs to, and which ports and addresses of a pod they reach. Shared by the EndpointSlice and the
//! Endpoints controller.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::informer::{Delta, Informer};
use crate::meta::{self, ObjectKey};
use crate::pod;
use crate::pod_control::has_labels;

/// The Services whose endpoints a pod's change may affect.
pub(crate) fn affected_services(services: &Informer<Service>, delta: &Delta<Pod>) -> Vec<ObjectKey> {
    if let Delta::Modified { old, new } = delta
        && !endpoint_changed(old, new)
    {
        return Vec::new();
    }
    let namespace = meta::namespace(&delta.object().metadata);
    let selected = |service: &Arc<Service>| {
        let Some(selector) = service.spec.as_ref().and_then(selector) else { return false };
        delta.both().any(|pod| has_labels(meta::labels(&pod.metadata), selector))
    };
    services
        .in_namespace(namespace)
        .iter()
        .filter(|service| selected(service))
        .map(|s| ObjectKey::of(&s.metadata))
        .collect()
}

/// A Service's selector; None if it selects nothing (no selector, or an ExternalName).
pub(crate) fn selector(spec: &ServiceSpec) -> Option<&std::collections::BTreeMap<String, String>> {
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref().filter(|selector| !selector.is_empty())
}

fn endpoint_changed(old: &Pod, new: &Pod) -> bool {
    fn face(pod: &Pod) -> impl PartialEq {
        let spec = pod.spec.as_ref();
        (
            (meta::is_deleting(&pod.metadata), pod::is_ready(pod), pod::is_terminal(pod)),
            pod.metadata.labels.clone(),
            ips(pod).map(str::to_owned).collect::<Vec<_>>(),
            spec.map(|s| (s.node_name.clone(), s.hostname.clone(), s.subdomain.clone())),
            pod.metadata.uid.clone(),
        )
    }
    face(old) != face(new)
}

/// The pod's addresses.
pub(crate) fn ips(pod: &Pod) -> impl Iterator<Item = &str> {
    let status = pod.status.as_ref();
    let list = status.and_then(|s| s.pod_ips.as_deref()).unwrap_or_default();
    let single = status.and_then(|s| s.pod_ip.as_deref()).filter(|_| list.is_empty());
    list.iter().map(|ip| ip.ip.as_str()).chain(single).filter(|ip| !ip.is_empty())
}

/// True for pods that can be endpoints at all.
pub(crate) fn can_be_endpoint(pod: &Pod, include_terminating: bool) -> bool {
    !pod::is_terminal(pod) && ips(pod).next().is_some() && (include_terminating || !meta::is_deleting(&pod.metadata))
}

/// The container port a Service port leads to; None if the pod has no port of that name.
pub(crate) fn find_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars =
                spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
            spec.containers
                .iter()
                .chain(sidecars)
                .flat_map(|container| container.ports.iter().flatten())
                .find(|p| p.name.as_deref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol)
                .map(|p| p.container_port)
        }
    }
}

/// The pod's name in its Service's domain, if it has one.
pub(crate) fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.as_ref().filter(|hostname| !hostname.is_empty())?;
    (spec.subdomain.as_deref() == service.metadata.name.as_deref()).then(|| hostname.clone())
}

/// True for Services without a cluster IP.
pub(crate) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}
