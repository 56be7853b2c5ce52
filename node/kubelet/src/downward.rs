//! What a pod may learn about itself: fieldRef and resourceFieldRef of environment variables and volumes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use crate::Error;
use crate::podext::PodExt;
use crate::quantity;

/// Facts that are not in the Pod object yet when its containers start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) host_ips: Vec<String>,
    pub(crate) pod_ips: Vec<String>,
    /// What a container without a limit could use at most: milli CPUs and bytes.
    pub(crate) allocatable: (i64, i64),
}

/// The value of a field path.
pub(crate) fn field(pod: &Pod, path: &str, facts: &Facts) -> Result<String, Error> {
    let metadata = &pod.metadata;
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        let map = match map {
            "metadata.labels" => &metadata.labels,
            "metadata.annotations" => &metadata.annotations,
            _ => return Err(unsupported(path)),
        };
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let spec = pod.pod_spec();
    Ok(match path {
        "metadata.name" => pod.pod_name().to_owned(),
        "metadata.namespace" => pod.ns().to_owned(),
        "metadata.uid" => pod.uid().to_owned(),
        "metadata.labels" => format_map(&metadata.labels),
        "metadata.annotations" => format_map(&metadata.annotations),
        "spec.nodeName" => spec.node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => facts.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return Err(unsupported(path)),
    })
}

fn unsupported(path: &str) -> Error {
    Error::pod(format!("unsupported fieldPath: {path}"))
}

/// `key="value"` lines in key order.
fn format_map(map: &Option<BTreeMap<String, String>>) -> String {
    let lines = map.iter().flatten().map(|(key, value)| format!("{key}={}", quote(value)));
    lines.collect::<Vec<_>>().join("\n")
}

/// Go's `%q`, for the characters that occur in labels and annotations.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The value of a container's resource, divided and rounded up as asked; without a limit the node's capacity counts.
pub(crate) fn resource(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    facts: &Facts,
) -> Result<String, Error> {
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let container = match named {
        Some(name) => pod.container(name).map(|(_, container)| container),
        None => own,
    };
    let container = container.ok_or_else(|| Error::pod("container not found for resourceFieldRef"))?;
    let resources = container.resources.clone().unwrap_or_default();
    let divisor = selector.divisor.as_ref().and_then(quantity::milli).filter(|divisor| *divisor > 0).unwrap_or(1000);
    let (cpus, memory) = facts.allocatable;
    let milli = match selector.resource.as_str() {
        "limits.cpu" => quantity::cpu_milli(&resources.limits).unwrap_or(cpus),
        "requests.cpu" => quantity::cpu_milli(&resources.requests).unwrap_or(0),
        "limits.memory" => quantity::memory(&resources.limits).unwrap_or(memory).saturating_mul(1000),
        "requests.memory" => quantity::memory(&resources.requests).unwrap_or(0).saturating_mul(1000),
        other => {
            let (list, name) = match other.split_once('.') {
                Some(("limits", name)) => (resources.limits, name),
                Some(("requests", name)) => (resources.requests, name),
                _ => return Err(Error::pod(format!("unsupported container resource : {other}"))),
            };
            list.and_then(|list| list.get(name).and_then(quantity::milli)).unwrap_or(0)
        }
    };
    Ok((milli / divisor + i64::from(milli % divisor > 0)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "d", "labels": {"b": "2", "a": "say \"1\""}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "64Mi"}}}]},
        }))
        .unwrap()
    }

    #[test]
    fn fields_read_as_upstream_writes_them() {
        let both = |first: &str, second: &str| vec![first.to_owned(), second.to_owned()];
        let (pod_ips, host_ips) = (both("10.0.0.9", "fd00::9"), both("192.0.2.1", "fd01::1"));
        let facts = Facts { pod_ips, host_ips, ..Default::default() };
        for (path, expected) in [
            ("metadata.name", "p"),
            ("metadata.labels['b']", "2"),
            ("metadata.labels", "a=\"say \\\"1\\\"\"\nb=\"2\""),
            ("status.podIP", "10.0.0.9"),
            ("status.podIPs", "10.0.0.9,fd00::9"),
            ("status.hostIP", "192.0.2.1"),
            ("status.hostIPs", "192.0.2.1,fd01::1"),
            ("metadata.annotations['x']", ""),
        ] {
            assert_eq!(field(&pod(), path, &facts).unwrap(), expected, "{path}");
        }
        assert!(field(&pod(), "spec.containers", &facts).is_err());
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        let facts = Facts { allocatable: (2000, 1 << 30), ..Default::default() };
        let pod = pod();
        let own = pod.pod_spec().containers.first();
        for (name, divisor, expected) in [
            ("limits.cpu", "1", "2"),
            ("limits.cpu", "1m", "1500"),
            ("requests.memory", "1Mi", "64"),
            ("limits.memory", "1", "1073741824"),
        ] {
            let selector: ResourceFieldSelector =
                serde_json::from_value(json!({"resource": name, "divisor": divisor})).unwrap();
            assert_eq!(resource(&pod, own, &selector, &facts).unwrap(), expected, "{name}/{divisor}");
        }
    }
}
