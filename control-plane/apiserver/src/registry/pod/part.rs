//! Subresources that change a running pod: `ephemeralcontainers` (KEP-277) and `resize` (KEP-1287).

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Pod, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as WireQuantity,
};
use skep_api::{
    amounts,
    field::{Error, Errors, Path, quote},
};

use super::{qos, update};
use crate::registry::pod_template;

/// Marks the API's image of a static pod.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Takes from `pod` only what the subresource may change; everything else is as it was.
pub(super) fn prepare(name: &str, pod: &mut Pod, old: &Pod) {
    let mut next = old.clone();
    next.metadata.resource_version.clone_from(&pod.metadata.resource_version);
    let (Some(wanted), Some(spec)) = (&mut pod.spec, &mut next.spec) else { return };
    match name {
        "ephemeralcontainers" => spec.ephemeral_containers = wanted.ephemeral_containers.take(),
        _ => {
            take_resources(&mut spec.containers, &mut wanted.containers);
            if let (Some(own), Some(wanted)) = (&mut spec.init_containers, &mut wanted.init_containers) {
                take_resources(own, wanted);
            }
            spec.resources = wanted.resources.take();
        }
    }
    *pod = next;
}

fn take_resources(own: &mut [Container], wanted: &mut [Container]) {
    for container in own {
        if let Some(wanted) = wanted.iter_mut().find(|wanted| wanted.name == container.name) {
            container.resources = wanted.resources.take();
            container.resize_policy = wanted.resize_policy.take();
        }
    }
}

pub(super) fn validate(name: &str, pod: &Pod, old: &Pod) -> Errors {
    let empty = PodSpec::default();
    let (spec, before) = (pod.spec.as_ref().unwrap_or(&empty), old.spec.as_ref().unwrap_or(&empty));
    match name {
        "ephemeralcontainers" => ephemeral(pod, spec, before),
        _ => resize(pod, spec, before),
    }
}

fn is_static(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MIRROR))
}

fn ephemeral(pod: &Pod, spec: &PodSpec, before: &PodSpec) -> Errors {
    let path = Path::new("spec");
    let mut errors = pod_template::validate_ephemeral(spec, &path);
    if is_static(pod) {
        errors.push(Error::forbidden(&Path::new(""), "static pods do not support ephemeral containers"));
    }
    let list = path.child("ephemeralContainers");
    for had in before.ephemeral_containers.iter().flatten() {
        match spec.ephemeral_containers.iter().flatten().find(|now| now.name == had.name) {
            None => {
                let why = format!("existing ephemeral containers {} may not be removed\n", quote(&had.name));
                errors.push(Error::forbidden(&list, why));
            }
            Some(now) if now != had => {
                let why = format!("existing ephemeral containers {} may not be changed\n", quote(&had.name));
                errors.push(Error::forbidden(&list, why));
            }
            Some(_) => {}
        }
    }
    errors
}

fn resize(pod: &Pod, spec: &PodSpec, before: &PodSpec) -> Errors {
    let path = Path::new("spec");
    let mut errors = Errors::new();
    if is_static(pod) {
        errors.push(Error::forbidden(&path, "static pods cannot be resized"));
        return errors;
    }
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        errors.push(Error::forbidden(&path, "windows pods cannot be resized"));
        return errors;
    }
    if spec.resources != before.resources {
        let why = "pods with pod-level resources cannot be resized";
        errors.push(Error::forbidden(&path.child("resources"), why));
    }
    errors.extend(pod_template::validate_spec(spec, &path));
    let class = qos::class(spec);
    if class != qos::class(before) {
        errors.push(Error::invalid(&path, class, "Pod QOS Class may not change as a result of resizing"));
    }
    let sidecar = |container: &Container| container.restart_policy.as_deref() == Some("Always");
    check_removals(&spec.containers, &before.containers, &path.child("containers"), &mut errors);
    let none = Vec::new();
    let inits = spec.init_containers.as_ref().unwrap_or(&none);
    let before_inits = before.init_containers.as_ref().unwrap_or(&none);
    check_removals(inits, before_inits, &path.child("initContainers"), &mut errors);
    // With cpu and memory set back, nothing may differ.
    let mut same = spec.clone();
    set_back(&mut same.containers, &before.containers, |_| true);
    if let (Some(containers), Some(before)) = (&mut same.init_containers, &before.init_containers) {
        set_back(containers, before, sidecar);
    }
    if same != *before {
        let list = path.child("initContainers");
        for (i, (now, had)) in inits.iter().zip(before_inits).enumerate() {
            if !sidecar(now) && now.resources != had.resources {
                let why = "resources for non-sidecar init containers are immutable";
                errors.push(Error::forbidden(&list.index(i).child("resources"), why));
            }
        }
        if errors.is_empty() {
            let why = format!("only cpu and memory resources are mutable\n{}", update::difference(&same, before));
            errors.push(Error::forbidden(&path, why));
        }
    }
    errors
}

type List = Option<BTreeMap<String, WireQuantity>>;

/// What a container has it may not lose altogether.
fn check_removals(now: &[Container], before: &[Container], list: &Path<'_>, errors: &mut Errors) {
    for (i, (now, had)) in now.iter().zip(before).enumerate() {
        let path = list.index(i);
        let path = path.child("resources");
        let (now, had) = (now.resources.clone().unwrap_or_default(), had.resources.clone().unwrap_or_default());
        let lost = |now: &List, had: &List| {
            let now = amounts::read(now.as_ref());
            let had = amounts::read(had.as_ref());
            had.keys().any(|name| matches!(name.as_str(), "cpu" | "memory") && !now.contains_key(name))
        };
        if lost(&now.limits, &had.limits) {
            errors.push(Error::forbidden(&path.child("limits"), "resource limits cannot be removed"));
        }
        if lost(&now.requests, &had.requests) {
            errors.push(Error::forbidden(&path.child("requests"), "resource requests cannot be removed"));
        }
    }
}

fn set_back(containers: &mut [Container], before: &[Container], may_change: impl Fn(&Container) -> bool) {
    for (container, before) in containers.iter_mut().zip(before) {
        if !may_change(container) {
            continue;
        }
        container.resize_policy.clone_from(&before.resize_policy);
        let had = before.resources.clone().unwrap_or_default();
        let resources = container.resources.get_or_insert_with(ResourceRequirements::default);
        for (list, had) in [(&mut resources.limits, &had.limits), (&mut resources.requests, &had.requests)] {
            for name in ["cpu", "memory"] {
                match had.as_ref().and_then(|had| had.get(name)) {
                    Some(amount) => {
                        list.get_or_insert_default().insert(name.to_owned(), amount.clone());
                    }
                    None => {
                        if let Some(list) = list {
                            list.remove(name);
                        }
                    }
                }
            }
            if list.as_ref().is_some_and(BTreeMap::is_empty) && had.is_none() {
                *list = None;
            }
        }
        if before.resources.is_none() && container.resources == Some(ResourceRequirements::default()) {
            container.resources = None;
        }
    }
}
