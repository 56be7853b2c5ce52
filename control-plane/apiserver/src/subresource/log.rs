//! `pods/log`: passed through from the kubelet.

use std::{fmt::Write as _, sync::Arc};

use http::{Response, StatusCode};
use k8s_openapi::api::core::v1::{Node, Pod};
use skep_api::{
    field,
    options::GetOptions,
    request::{Query, Verb},
    status::StatusError,
};

use crate::{
    dispatch::Call,
    http::{body::Body, response},
    kubelet_proxy::{Endpoint, nothing},
    registry::generic::Registry,
};

pub(crate) async fn answer(call: Call<'_>, registry: &Arc<Registry>) -> Result<Response<Body>, StatusError> {
    let (Verb::Get, Some(name)) = (call.request.verb, call.request.name.as_deref()) else {
        return Err(call.wrong_method());
    };
    let query = &call.request.query;
    let parameters = parameters(query, name)?;
    let namespace = call.namespace(registry);
    let object = registry.get_object(namespace, name).await?;
    let pod = object.as_any().downcast_ref::<Pod>().ok_or_else(StatusError::generic_not_found)?;
    let container = container(pod, query.get("container").unwrap_or_default())?;
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    let body = if node.is_empty() {
        nothing()
    } else {
        let nodes = call.registries.get("", "v1", "nodes").ok_or_else(StatusError::generic_not_found)?;
        let cached = nodes.get(None, node, &GetOptions { resource_version: Some(0) }).await?;
        let node: Node = serde_json::from_slice(cached.json()).map_err(StatusError::internal_error)?;
        let namespace = namespace.unwrap_or_default();
        let path = format!("/containerLogs/{namespace}/{name}/{container}{parameters}");
        call.kubelet.stream(&endpoint(&node)?, &path).await?
    };
    Ok(response::with_type(StatusCode::OK, "text/plain", body))
}

/// The container whose log is meant; 400 with upstream's texts when that is not clear.
fn container(pod: &Pod, asked: &str) -> Result<String, StatusError> {
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

/// The options a kubelet takes, checked, as a query.
fn parameters(query: &Query, name: &str) -> Result<String, StatusError> {
    let mut errors = field::Errors::new();
    let mut out = String::new();
    let mut push = |key: &str, value: &str| {
        let separator = if out.is_empty() { '?' } else { '&' };
        let _ = write!(out, "{separator}{key}={value}");
    };
    for key in ["follow", "previous", "timestamps"] {
        match query.get(key) {
            Some("" | "true" | "1") => push(key, "true"),
            Some("false" | "0") | None => {}
            Some(other) => {
                return Err(StatusError::bad_request(format!("strconv.ParseBool: parsing {other:?}: invalid syntax")));
            }
        }
    }
    for (key, least) in [("sinceSeconds", 1), ("tailLines", 0), ("limitBytes", 1)] {
        let Some(text) = query.get(key).filter(|text| !text.is_empty()) else { continue };
        let number: i64 = text
            .parse()
            .map_err(|_| StatusError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))?;
        if number < least {
            let why = if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
            errors.push(field::Error::invalid(&field::Path::new(key), number, why));
        }
        push(key, &number.to_string());
    }
    if let Some(text) = query.get("sinceTime").filter(|text| !text.is_empty()) {
        let time: jiff::Timestamp = text
            .parse()
            .map_err(|error| StatusError::bad_request(format!("sinceTime: Invalid value: {text:?}: {error}")))?;
        if query.get("sinceSeconds").is_some_and(|text| !text.is_empty()) {
            let path = field::Path::new("sinceSeconds");
            errors
                .push(field::Error::forbidden(&path, "at most one of `sinceTime` or `sinceSeconds` may be specified"));
        }
        push("sinceTime", &time.to_string());
    }
    if errors.is_empty() { Ok(out) } else { Err(StatusError::invalid("", "PodLogOptions", name, &errors)) }
}

/// Where the node's kubelet serves.
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
