//! `pods/log`: passed through from the kubelet.

use std::{fmt::Write as _, sync::Arc};

use http::{Response, StatusCode};
use k8s_openapi::api::core::v1::Pod;
use skep_api::{
    field,
    request::{Query, Verb},
    status::StatusError,
};

use super::location;
use crate::{
    dispatch::Call,
    http::{body::Body, response},
    kubelet_proxy::nothing,
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
    let container = location::container(pod, query.get("container").unwrap_or_default())?;
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    let body = if node.is_empty() {
        nothing()
    } else {
        let endpoint = location::kubelet(call.registries, node).await?;
        let namespace = namespace.unwrap_or_default();
        let path = format!("/containerLogs/{namespace}/{name}/{container}{parameters}");
        call.reach.kubelet.stream(&endpoint, &path).await?
    };
    Ok(response::with_type(StatusCode::OK, "text/plain", body))
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
        if query.is_set(key) {
            push(key, "true");
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
