//! Where a pod's node and container are, for subresources that the node answers.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{Node, Pod};
use skep_api::{options::GetOptions, status::StatusError};

use crate::{dispatch::Registries, kubelet_proxy::Endpoint};

/// Where the kubelet of a node serves.
pub(super) async fn kubelet(registries: &Registries, node: &str) -> Result<Endpoint, StatusError> {
    let nodes = registries.get("", "v1", "nodes").ok_or_else(StatusError::generic_not_found)?;
    let cached = nodes.get(None, node, &GetOptions::default()).await?;
    let node: Node = serde_json::from_slice(cached.json()).map_err(StatusError::internal_error)?;
    endpoint(&node)
}

/// The container that is meant; 400 with upstream's texts when that is not clear.
pub(super) fn container(pod: &Pod, asked: &str) -> Result<String, StatusError> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let Some(spec) = &pod.spec else { return Err(StatusError::bad_request(format!("pod {name} has no spec"))) };
    let own: Vec<&str> = spec.containers.iter().map(|container| container.name.as_str()).collect();
    let init: Vec<&str> = spec.init_containers.iter().flatten().map(|container| container.name.as_str()).collect();
    let ephemeral: Vec<&str> =
        spec.ephemeral_containers.iter().flatten().map(|container| container.name.as_str()).collect();
    if !asked.is_empty() {
        if own.iter().chain(&init).chain(&ephemeral).any(|known| *known == asked) {
            return Ok(asked.to_owned());
        }
        return Err(StatusError::bad_request(format!("container {asked} is not valid for pod {name}")));
    }
    match own.as_slice() {
        [only] => Ok((*only).to_owned()),
        [] => Err(StatusError::bad_request(format!("a container name must be specified for pod {name}"))),
        several => {
            let mut text =
                format!("a container name must be specified for pod {name}, choose one of: [{}]", several.join(" "));
            if !init.is_empty() {
                let _ = write!(text, " or one of the init containers: [{}]", init.join(" "));
            }
            if !ephemeral.is_empty() {
                let _ = write!(text, " or one of the ephemeral containers: [{}]", ephemeral.join(" "));
            }
            Err(StatusError::bad_request(text))
        }
    }
}

fn endpoint(node: &Node) -> Result<Endpoint, StatusError> {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let status = node.status.clone().unwrap_or_default();
    let addresses = status.addresses.unwrap_or_default();
    let host = ["InternalIP", "InternalDNS", "Hostname"]
        .into_iter()
        .find_map(|kind| addresses.iter().find(|address| address.type_ == kind))
        .map(|address| address.address.clone());
    let port = status
        .daemon_endpoints
        .and_then(|endpoints| endpoints.kubelet_endpoint)
        .and_then(|endpoint| u16::try_from(endpoint.port).ok())
        .filter(|port| *port != 0);
    match (host, port) {
        (Some(host), port) => Ok(Endpoint { host, port: port.unwrap_or(10250) }),
        (None, _) => Err(StatusError::internal_error(format!("no preferred addresses found for node {name:?}"))),
    }
}
