//! Validation of containers.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Container, ContainerPort, PodSpec, SecurityContext};
use skep_api::field::{Error, Errors, Path};
use skep_api::name;

use super::{env, probe, resources, spec, volume_mount};
use crate::registry::checks::{self, one_of, text};

/// Checks all containers of a pod. `volumes` are the names of its volumes.
pub(super) fn validate_all(spec: &PodSpec, volumes: &HashSet<&str>, path: &Path<'_>, errors: &mut Errors) {
    let host_network = spec.host_network == Some(true);
    let list = path.child("containers");
    if spec.containers.is_empty() {
        errors.push(Error::required(&list, ""));
    }
    let mut names = HashSet::new();
    let mut host_ports = HashSet::new();
    for (i, container) in spec.containers.iter().enumerate() {
        let path = list.index(i);
        validate_common(container, volumes, host_network, &path, errors);
        if !names.insert(container.name.as_str()) {
            errors.push(Error::duplicate(&path.child("name"), &container.name));
        }
        probe::validate_probes(container, &path, errors);
        probe::validate_lifecycle(container, &path, errors);
        validate_restart_policy(container, &path, errors);
        validate_host_ports(container, &mut host_ports, &path, errors);
    }
    let list = path.child("initContainers");
    for (i, container) in spec.init_containers.iter().flatten().enumerate() {
        let path = list.index(i);
        validate_common(container, volumes, host_network, &path, errors);
        if !names.insert(container.name.as_str()) {
            errors.push(Error::duplicate(&path.child("name"), &container.name));
        }
        validate_init(container, &path, errors);
    }
}

/// An init container that keeps running beside the others.
fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn validate_init(container: &Container, path: &Path<'_>, errors: &mut Errors) {
    if is_sidecar(container) {
        probe::validate_probes(container, path, errors);
        probe::validate_lifecycle(container, path, errors);
        return;
    }
    let why = "may not be set for init containers without restartPolicy=Always";
    let forbidden = [
        ("lifecycle", container.lifecycle.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
    ];
    for (field, _) in forbidden.into_iter().filter(|(_, set)| *set) {
        errors.push(Error::forbidden(&path.child(field), why));
    }
    validate_restart_policy(container, path, errors);
}

fn validate_restart_policy(container: &Container, path: &Path<'_>, errors: &mut Errors) {
    if let Some(policy) = container.restart_policy.as_deref()
        && !["Always", "Never", "OnFailure"].contains(&policy)
    {
        errors.push(Error::not_supported(&path.child("restartPolicy"), policy, &["Always", "Never", "OnFailure"]));
    }
}

pub(super) fn validate_common(
    container: &Container,
    volumes: &HashSet<&str>,
    host_network: bool,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if container.name.is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    } else {
        checks::name(errors, &path.child("name"), &container.name, name::dns1123_label);
    }
    let image = text(&container.image);
    if image.is_empty() {
        errors.push(Error::required(&path.child("image"), ""));
    } else if image.trim() != image {
        let why = "must not have leading or trailing whitespace";
        errors.push(Error::invalid(&path.child("image"), image, why));
    }
    one_of(
        errors,
        &path.child("terminationMessagePolicy"),
        text(&container.termination_message_policy),
        &["FallbackToLogsOnError", "File"],
    );
    let policies = ["Always", "IfNotPresent", "Never"];
    one_of(errors, &path.child("imagePullPolicy"), text(&container.image_pull_policy), &policies);
    validate_ports(container.ports.as_deref().unwrap_or_default(), host_network, &path.child("ports"), errors);
    env::validate(container.env.as_deref().unwrap_or_default(), &path.child("env"), errors);
    env::validate_from(container.env_from.as_deref().unwrap_or_default(), &path.child("envFrom"), errors);
    volume_mount::validate(container, volumes, path, errors);
    if let Some(requirements) = &container.resources {
        resources::validate(requirements, &path.child("resources"), errors);
    }
    if let Some(context) = &container.security_context {
        validate_security(context, &path.child("securityContext"), errors);
    }
}

fn validate_ports(ports: &[ContainerPort], host_network: bool, path: &Path<'_>, errors: &mut Errors) {
    let mut names = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let port_name = text(&port.name);
        if !port_name.is_empty() {
            let complaints = name::port_name(port_name);
            if complaints.is_empty() && !names.insert(port_name) {
                errors.push(Error::duplicate(&path.child("name"), port_name));
            }
            errors.extend(complaints.into_iter().map(|m| Error::invalid(&path.child("name"), port_name, m)));
        }
        if port.container_port == 0 {
            errors.push(Error::required(&path.child("containerPort"), ""));
        } else {
            checks::port_number(errors, &path.child("containerPort"), port.container_port);
        }
        if let Some(host_port) = port.host_port.filter(|p| *p != 0) {
            checks::port_number(errors, &path.child("hostPort"), host_port);
            if host_network && host_port != port.container_port {
                let why = "must match `containerPort` when `hostNetwork` is true";
                errors.push(Error::invalid(&path.child("hostPort"), host_port, why));
            }
        }
        one_of(errors, &path.child("protocol"), text(&port.protocol), &["SCTP", "TCP", "UDP"]);
        let host_ip = text(&port.host_ip);
        if !host_ip.is_empty() {
            checks::name(errors, &path.child("hostIP"), host_ip, name::ip);
        }
    }
}

fn validate_host_ports(container: &Container, seen: &mut HashSet<String>, path: &Path<'_>, errors: &mut Errors) {
    let list = path.child("ports");
    for (i, port) in container.ports.iter().flatten().enumerate() {
        let Some(host_port) = port.host_port.filter(|p| *p != 0) else { continue };
        let key = format!("{}/{}/{host_port}", text(&port.protocol), text(&port.host_ip));
        if seen.contains(&key) {
            errors.push(Error::duplicate(&list.index(i).child("hostPort"), &key));
        }
        seen.insert(key);
    }
}

fn validate_security(context: &SecurityContext, path: &Path<'_>, errors: &mut Errors) {
    spec::validate_id(context.run_as_user, &path.child("runAsUser"), errors);
    spec::validate_id(context.run_as_group, &path.child("runAsGroup"), errors);
    if let Some(mount) = context.proc_mount.as_deref()
        && !["Default", "Unmasked"].contains(&mount)
    {
        errors.push(Error::not_supported(&path.child("procMount"), mount, &["Default", "Unmasked"]));
    }
    if context.allow_privilege_escalation == Some(false) {
        let adds =
            |name: &str| context.capabilities.iter().flat_map(|c| c.add.iter().flatten()).any(|added| added == name);
        let why = if context.privileged == Some(true) {
            Some("cannot set `allowPrivilegeEscalation` to false and `privileged` to true")
        } else if adds("CAP_SYS_ADMIN") {
            Some("cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN")
        } else {
            None
        };
        if let Some(why) = why {
            errors.push(Error::invalid(path, context, why));
        }
    }
}
