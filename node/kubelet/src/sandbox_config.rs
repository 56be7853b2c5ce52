//! What the runtime is told about a pod's sandbox.

use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use skep_cri::api::{LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol};

use crate::context::Context;
use crate::podext::PodExt;
use crate::{dns, labels, security};

/// The configuration for attempt `attempt`, in the cgroup `cgroup`.
pub(crate) fn build(context: &Context, pod: &Pod, attempt: u32, cgroup: &Path) -> PodSandboxConfig {
    let resolv_conf = std::fs::read_to_string(&context.config.resolv_conf).unwrap_or_default();
    let spec = pod.pod_spec();
    let sysctls = spec.security_context.as_ref().and_then(|security| security.sysctls.clone()).unwrap_or_default();
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: pod.pod_name().to_owned(),
            uid: pod.uid().to_owned(),
            namespace: pod.ns().to_owned(),
            attempt,
        }),
        // The runtime refuses a name of its own to a pod in the node's UTS namespace.
        hostname: if pod.host_network() { String::new() } else { dns::hostname(pod) },
        log_directory: context.log_dir(pod).to_string_lossy().into_owned(),
        dns_config: Some(dns::pod_dns(pod, &context.config, &resolv_conf)),
        port_mappings: port_mappings(pod),
        labels: labels::sandbox(pod),
        annotations: pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: cgroup.to_string_lossy().into_owned(),
            security_context: Some(security::sandbox(pod)),
            sysctls: sysctls.into_iter().map(|sysctl| (sysctl.name, sysctl.value)).collect(),
            ..Default::default()
        }),
        windows: None,
    }
}

fn port_mappings(pod: &Pod) -> Vec<PortMapping> {
    let ports = pod.all_containers().flat_map(|(_, container)| container.ports.iter().flatten());
    ports
        .map(|port| PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => Protocol::Udp as i32,
                Some("SCTP") => Protocol::Sctp as i32,
                _ => Protocol::Tcp as i32,
            },
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}
