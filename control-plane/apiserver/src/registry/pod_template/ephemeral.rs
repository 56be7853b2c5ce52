//! Validation of ephemeral containers.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, PodSpec};
use skep_api::field::{Error, Errors, Path};

use super::container;
use crate::registry::checks::text;

/// Checks the ephemeral containers of a pod.
pub(crate) fn validate_ephemeral(spec: &PodSpec, path: &Path<'_>) -> Errors {
    let mut errors = Errors::new();
    let volumes: HashSet<&str> = spec.volumes.iter().flatten().map(|volume| volume.name.as_str()).collect();
    let others = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut names: HashSet<&str> = others.clone().map(|container| container.name.as_str()).collect();
    let host_network = spec.host_network == Some(true);
    let list = path.child("ephemeralContainers");
    for (i, ephemeral) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let path = list.index(i);
        match plain(ephemeral) {
            Ok(container) => container::validate_common(&container, &volumes, host_network, &path, &mut errors),
            Err(error) => errors.push(Error::invalid(&path, &ephemeral.name, error.to_string())),
        }
        if !names.insert(&ephemeral.name) {
            errors.push(Error::duplicate(&path.child("name"), &ephemeral.name));
        }
        let target = text(&ephemeral.target_container_name);
        if !target.is_empty() && !others.clone().any(|container| container.name == target) {
            errors.push(Error::not_found(&path.child("targetContainerName"), target));
        }
        forbid(ephemeral, &path, &mut errors);
    }
    errors
}

/// An ephemeral container as the container it otherwise is.
fn plain(ephemeral: &EphemeralContainer) -> serde_json::Result<Container> {
    serde_json::from_value(serde_json::to_value(ephemeral)?)
}

/// What asks for something the pod was not scheduled with.
fn forbid(container: &EphemeralContainer, path: &Path<'_>, errors: &mut Errors) {
    const WHY: &str = "cannot be set for an Ephemeral Container";
    let resources = container.resources.as_ref().is_some_and(|resources| {
        resources.limits.as_ref().is_some_and(|list| !list.is_empty())
            || resources.requests.as_ref().is_some_and(|list| !list.is_empty())
            || resources.claims.as_ref().is_some_and(|list| !list.is_empty())
    });
    let set = [
        ("ports", container.ports.as_ref().is_some_and(|ports| !ports.is_empty())),
        ("resources", resources),
        ("lifecycle", container.lifecycle.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
        ("resizePolicy", container.resize_policy.as_ref().is_some_and(|policy| !policy.is_empty())),
        ("restartPolicy", container.restart_policy.is_some()),
    ];
    for (field, _) in set.into_iter().filter(|(_, set)| *set) {
        errors.push(Error::forbidden(&path.child(field), WHY));
    }
    let list = path.child("volumeMounts");
    for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
        for (field, value) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
            if !text(value).is_empty() {
                errors.push(Error::forbidden(&list.index(i).child(field), WHY));
            }
        }
    }
}
