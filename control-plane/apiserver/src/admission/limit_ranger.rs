//! LimitRanger: what a namespace's LimitRanges fill in and demand of pods and claims.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, LimitRange, LimitRangeItem, PersistentVolumeClaim, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as WireQuantity,
};
use skep_api::{
    Quantity,
    amounts::{self, Amounts},
    status::StatusError,
};

use super::{Admission, Attributes, Operation};
use crate::registry::object::Object;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Whether ranges have a say. Containers of pods change only by a resize.
pub(super) fn handles(attributes: &Attributes<'_>) -> bool {
    if !attributes.info.group.is_empty() {
        return false;
    }
    matches!(
        (&*attributes.info.plural, attributes.subresource, attributes.operation),
        ("pods", "", Operation::Create)
            | ("pods", "resize", Operation::Update)
            | ("persistentvolumeclaims", "", Operation::Create | Operation::Update)
    )
}

impl Admission {
    /// The ranges of the request's namespace.
    fn limit_ranges(&self, attributes: &Attributes<'_>) -> Vec<LimitRange> {
        let (Some(ranges), Some(namespace)) = (&self.limit_ranges, attributes.scope.namespace) else {
            return Vec::new();
        };
        let snapshot = ranges.snapshot();
        if snapshot.is_empty() {
            return Vec::new();
        }
        let prefix = format!("/registry/limitranges/{namespace}/");
        snapshot.range(&prefix, "").filter_map(|cached| serde_json::from_slice(cached.json()).ok()).collect()
    }

    /// Fills in what containers leave out.
    pub(super) fn limit_defaults(&self, attributes: &Attributes<'_>, object: &mut dyn Object) {
        if !handles(attributes) {
            return;
        }
        let Some(pod) = object.as_any_mut().downcast_mut::<Pod>() else { return };
        for range in self.limit_ranges(attributes) {
            fill_in(&range, pod);
        }
    }

    /// Refuses what goes beyond the limits.
    pub(super) fn limits(&self, attributes: &Attributes<'_>, object: &dyn Object) -> Result<(), StatusError> {
        if !handles(attributes) {
            return Ok(());
        }
        for range in self.limit_ranges(attributes) {
            let mut complaints = Vec::new();
            for item in range.spec.iter().flat_map(|spec| &spec.limits) {
                if let Some(pod) = object.as_any().downcast_ref::<Pod>() {
                    check_pod(item, pod, &mut complaints);
                } else if let Some(claim) = object.as_any().downcast_ref::<PersistentVolumeClaim>() {
                    check_claim(item, claim, &mut complaints);
                }
            }
            if !complaints.is_empty() {
                return Err(attributes.forbidden(object, together(complaints)));
            }
        }
        Ok(())
    }
}

/// As upstream prints several errors at once.
fn together(complaints: Vec<String>) -> String {
    let mut unique: Vec<String> = Vec::with_capacity(complaints.len());
    for complaint in complaints {
        if !unique.contains(&complaint) {
            unique.push(complaint);
        }
    }
    if unique.len() == 1 { unique.concat() } else { format!("[{}]", unique.join(", ")) }
}

// --- defaults ---

fn fill_in(range: &LimitRange, pod: &mut Pod) {
    let mut requests = BTreeMap::new();
    let mut limits = BTreeMap::new();
    for item in range.spec.iter().flat_map(|spec| &spec.limits).filter(|item| item.type_ == "Container") {
        requests.extend(item.default_request.clone().unwrap_or_default());
        limits.extend(item.default.clone().unwrap_or_default());
    }
    if requests.is_empty() && limits.is_empty() {
        return;
    }
    let Some(spec) = &mut pod.spec else { return };
    let mut notes = Vec::new();
    for container in &mut spec.containers {
        fill_container(container, "container", &requests, &limits, &mut notes);
    }
    for container in spec.init_containers.iter_mut().flatten() {
        fill_container(container, "init container", &requests, &limits, &mut notes);
    }
    if !notes.is_empty() {
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        pod.metadata.annotations.get_or_insert_default().insert(ANNOTATION.to_owned(), note);
    }
}

fn fill_container(
    container: &mut Container,
    what: &str,
    requests: &BTreeMap<String, WireQuantity>,
    limits: &BTreeMap<String, WireQuantity>,
    notes: &mut Vec<String>,
) {
    let resources = container.resources.get_or_insert_default();
    let fill = |list: &mut Option<BTreeMap<String, WireQuantity>>, defaults: &BTreeMap<String, WireQuantity>| {
        let mut set = Vec::new();
        for (name, amount) in defaults {
            let list = list.get_or_insert_default();
            if !list.contains_key(name) {
                list.insert(name.clone(), amount.clone());
                set.push(name.as_str());
            }
        }
        set.join(", ")
    };
    let set_limits = fill(&mut resources.limits, limits);
    let set_requests = fill(&mut resources.requests, requests);
    for (set, side) in [(set_requests, "request"), (set_limits, "limit")] {
        if !set.is_empty() {
            notes.push(format!("{set} {side} for {what} {}", container.name));
        }
    }
}

// --- limits ---

/// One thing that is limited: a container, a pod, a claim.
struct Limited<'a> {
    kind: &'a str,
    requests: Amounts,
    limits: Amounts,
}

fn check_pod(item: &LimitRangeItem, pod: &Pod, complaints: &mut Vec<String>) {
    let Some(spec) = &pod.spec else { return };
    match item.type_.as_str() {
        kind @ "Container" => {
            for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
                let empty = ResourceRequirements::default();
                let resources = container.resources.as_ref().unwrap_or(&empty);
                let requests = amounts::read(resources.requests.as_ref());
                let limits = amounts::read(resources.limits.as_ref());
                Limited { kind, requests, limits }.check(item, complaints);
            }
        }
        kind @ "Pod" => {
            // What the pod wants counts, not what its node gave it so far, and not the overhead.
            let mut wanted = Pod { spec: pod.spec.clone(), ..Pod::default() };
            if let Some(spec) = &mut wanted.spec {
                spec.overhead = None;
            }
            let (requests, limits) = (amounts::pod_requests(&wanted), amounts::pod_limits(&wanted));
            Limited { kind, requests, limits }.check(item, complaints);
        }
        _ => {}
    }
}

fn check_claim(item: &LimitRangeItem, claim: &PersistentVolumeClaim, complaints: &mut Vec<String>) {
    if item.type_ != "PersistentVolumeClaim" {
        return;
    }
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let requests = amounts::read(resources.and_then(|resources| resources.requests.as_ref()));
    let limited = Limited { kind: "PersistentVolumeClaim", requests, limits: Amounts::new() };
    for (name, min) in amounts::read(item.min.as_ref()) {
        complaints.extend(limited.min(&name, min));
    }
    for (name, max) in amounts::read(item.max.as_ref()) {
        complaints.extend(limited.max_request(&name, max));
    }
}

impl Limited<'_> {
    fn check(&self, item: &LimitRangeItem, complaints: &mut Vec<String>) {
        for (name, min) in amounts::read(item.min.as_ref()) {
            complaints.extend(self.min(&name, min));
        }
        for (name, max) in amounts::read(item.max.as_ref()) {
            complaints.extend(self.max(&name, max));
        }
        for (name, ratio) in amounts::read(item.max_limit_request_ratio.as_ref()) {
            complaints.extend(self.ratio(&name, ratio));
        }
    }

    fn min(&self, name: &str, min: Quantity) -> Option<String> {
        let rule = format!("minimum {name} usage per {} is {min}", self.kind);
        let Some(request) = self.requests.get(name) else { return Some(format!("{rule}.  No request is specified")) };
        if *request < min {
            return Some(format!("{rule}, but request is {request}"));
        }
        let limit = self.limits.get(name).filter(|limit| **limit < min)?;
        Some(format!("{rule}, but limit is {limit}"))
    }

    fn max(&self, name: &str, max: Quantity) -> Option<String> {
        let rule = format!("maximum {name} usage per {} is {max}", self.kind);
        let Some(limit) = self.limits.get(name) else { return Some(format!("{rule}.  No limit is specified")) };
        if *limit > max {
            return Some(format!("{rule}, but limit is {limit}"));
        }
        let request = self.requests.get(name).filter(|request| **request > max)?;
        Some(format!("{rule}, but request is {request}"))
    }

    fn max_request(&self, name: &str, max: Quantity) -> Option<String> {
        let rule = format!("maximum {name} usage per {} is {max}", self.kind);
        let Some(request) = self.requests.get(name) else { return Some(format!("{rule}.  No request is specified")) };
        (*request > max).then(|| format!("{rule}, but request is {request}"))
    }

    fn ratio(&self, name: &str, most: Quantity) -> Option<String> {
        let rule = format!("{name} max limit to request ratio per {} is {most}", self.kind);
        let given = |list: &Amounts| list.get(name).copied().filter(|amount| !amount.is_zero());
        let Some(request) = given(&self.requests) else {
            return Some(format!("{rule}, but no request is specified or request is 0"));
        };
        let Some(limit) = given(&self.limits) else {
            return Some(format!("{rule}, but no limit is specified or limit is 0"));
        };
        let ratio = as_float(limit) / as_float(request);
        (ratio > as_float(most)).then(|| format!("{rule}, but provided ratio is {ratio:.6}"))
    }
}

#[expect(clippy::cast_precision_loss, reason = "as exact as upstream's ratio")]
fn as_float(amount: Quantity) -> f64 {
    let millis = amount.milli_value();
    if millis == i64::MAX { amount.value() as f64 } else { millis as f64 / 1000.0 }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn range(item: serde_json::Value) -> LimitRange {
        serde_json::from_value(json!({"metadata": {"name": "r"}, "spec": {"limits": [item]}})).unwrap()
    }

    fn complaints(item: serde_json::Value, spec: serde_json::Value) -> String {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": spec})).unwrap();
        let mut complaints = Vec::new();
        check_pod(&range(item).spec.unwrap().limits[0], &pod, &mut complaints);
        together(complaints)
    }

    fn container(requests: serde_json::Value, limits: serde_json::Value) -> serde_json::Value {
        json!({"containers": [{"name": "c", "resources": {"requests": requests, "limits": limits}}]})
    }

    #[test]
    fn limits_are_told_in_upstreams_words() {
        for (item, spec, text) in [
            (
                json!({"type": "Container", "min": {"cpu": "100m"}}),
                container(json!({"cpu": "50m"}), json!({})),
                "minimum cpu usage per Container is 100m, but request is 50m",
            ),
            (
                json!({"type": "Container", "min": {"cpu": "100m"}}),
                container(json!({}), json!({})),
                "minimum cpu usage per Container is 100m.  No request is specified",
            ),
            (
                json!({"type": "Pod", "max": {"memory": "1Gi", "cpu": "1"}}),
                container(json!({}), json!({"memory": "2Gi"})),
                "[maximum cpu usage per Pod is 1.  No limit is specified, maximum memory usage per Pod is 1Gi, but \
                 limit is 2Gi]",
            ),
            (
                json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}}),
                container(json!({"cpu": "1"}), json!({"cpu": "3"})),
                "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
            ),
        ] {
            assert_eq!(complaints(item, spec), text);
        }
    }

    #[test]
    fn what_was_filled_in_is_noted() {
        let item =
            json!({"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "1", "memory": "1Gi"}});
        let spec = json!({
            "containers": [{"name": "c"}],
            "initContainers": [{"name": "i", "resources": {"requests": {"memory": "2Gi"}, "limits": {"cpu": "2"}}}],
        });
        let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": spec})).unwrap();
        fill_in(&range(item), &mut pod);
        assert_eq!(
            pod.metadata.annotations.unwrap()[ANNOTATION],
            "LimitRanger plugin set: cpu, memory request for container c; cpu limit for container c; cpu request for init \
             container i"
        );
    }
}
