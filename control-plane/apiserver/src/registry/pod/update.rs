//! What an update of a pod may change: images, an earlier deadline, more tolerations, fewer scheduling gates.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Toleration};
use serde_json::Value;
use skep_api::field::{Error, Errors, Path};

use crate::registry::checks::text;

const FORBIDDEN: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
    tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Checks what an update changes in the spec.
pub(super) fn validate(pod: &Pod, old: &Pod) -> Errors {
    let mut errors = Errors::new();
    let empty = PodSpec::default();
    let (new, old) = (pod.spec.as_ref().unwrap_or(&empty), old.spec.as_ref().unwrap_or(&empty));
    if new == old {
        return errors;
    }
    let path = Path::new("spec");
    if new.containers.len() != old.containers.len() {
        let why = "pod updates may not add or remove containers";
        errors.push(Error::forbidden(&path.child("containers"), why));
        return errors;
    }
    if count(&new.init_containers) != count(&old.init_containers) {
        let why = "pod updates may not add or remove containers";
        errors.push(Error::forbidden(&path.child("initContainers"), why));
        return errors;
    }
    validate_deadline(new, old, &path, &mut errors);
    validate_tolerations(new, old, &path.child("tolerations"), &mut errors);
    validate_gates(new, old, &path.child("schedulingGates"), &mut errors);
    // With everything that may change set back, nothing may differ.
    let mut same = new.clone();
    same.active_deadline_seconds = old.active_deadline_seconds;
    same.tolerations.clone_from(&old.tolerations);
    same.scheduling_gates.clone_from(&old.scheduling_gates);
    same_images(&mut same.containers, &old.containers);
    if let (Some(new), Some(old)) = (&mut same.init_containers, &old.init_containers) {
        same_images(new, old);
    }
    if old.termination_grace_period_seconds.is_some_and(|s| s < 0) && same.termination_grace_period_seconds == Some(1) {
        same.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    if old.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
        narrow_node_selector(&mut same, old);
    }
    if same != *old {
        errors.push(Error::forbidden(&path, format!("{FORBIDDEN}\n{}", difference(&same, old))));
    }
    errors
}

fn count(containers: &Option<Vec<Container>>) -> usize {
    containers.as_ref().map_or(0, Vec::len)
}

fn same_images(new: &mut [Container], old: &[Container]) {
    for (new, old) in new.iter_mut().zip(old) {
        new.image.clone_from(&old.image);
    }
}

/// While gated, a pod's node selector may gain labels.
fn narrow_node_selector(new: &mut PodSpec, old: &PodSpec) {
    let keeps = |(key, value): (&String, &String)| new.node_selector.as_ref().and_then(|s| s.get(key)) == Some(value);
    if old.node_selector.iter().flatten().all(keeps) {
        new.node_selector.clone_from(&old.node_selector);
    }
}

fn validate_deadline(new: &PodSpec, old: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("activeDeadlineSeconds");
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (Some(new), Some(old)) if new > old => {
            errors.push(Error::invalid(&path, new, "must be less than or equal to previous value"));
        }
        (None, Some(_)) => {
            errors.push(Error::invalid(&path, Value::Null, "must not update from a positive integer to nil value"));
        }
        _ => {}
    }
}

/// Tolerations stay, but for how long they last; new ones may come.
fn validate_tolerations(new: &PodSpec, old: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let same = |a: &Toleration, b: &Toleration| {
        (text(&a.key), text(&a.operator), text(&a.value), text(&a.effect))
            == (text(&b.key), text(&b.operator), text(&b.value), text(&b.effect))
    };
    let new: Vec<&Toleration> = new.tolerations.iter().flatten().collect();
    if !old.tolerations.iter().flatten().all(|had| new.iter().any(|has| same(had, has))) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(Error::forbidden(path, why));
    }
}

fn validate_gates(new: &PodSpec, old: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    for (i, gate) in new.scheduling_gates.iter().flatten().enumerate() {
        if !old.scheduling_gates.iter().flatten().any(|had| had.name == gate.name) {
            let why = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
            errors.push(Error::forbidden(&path.index(i), why));
        }
    }
}

/// The top-level fields that differ, one `-` and one `+` line each.
pub(super) fn difference(new: &PodSpec, old: &PodSpec) -> String {
    let fields = |spec: &PodSpec| match serde_json::to_value(spec) {
        Ok(Value::Object(map)) => map,
        _ => serde_json::Map::new(),
    };
    let (new, old) = (fields(new), fields(old));
    let mut lines = String::new();
    for key in old.keys().chain(new.keys().filter(|k| !old.contains_key(*k))) {
        if new.get(key) != old.get(key) {
            let show = |value: Option<&Value>| value.map_or_else(|| "null".to_owned(), Value::to_string);
            lines.push_str(&format!("- \"{key}\": {}\n+ \"{key}\": {}\n", show(old.get(key)), show(new.get(key))));
        }
    }
    lines
}
