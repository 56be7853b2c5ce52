//! Validation of volume mounts and devices.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::Container;
use skep_api::field::{Error, Errors, Path};

use super::volume::validate_local_path;
use crate::registry::checks::text;

/// Checks where a container mounts the pod's volumes.
pub(super) fn validate(container: &Container, volumes: &HashSet<&str>, path: &Path<'_>, errors: &mut Errors) {
    let list = path.child("volumeMounts");
    let mut targets = HashSet::new();
    let privileged = container.security_context.as_ref().and_then(|c| c.privileged) == Some(true);
    for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = list.index(i);
        if mount.name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        } else if !volumes.contains(mount.name.as_str()) {
            errors.push(Error::not_found(&path.child("name"), &mount.name));
        }
        if mount.mount_path.is_empty() {
            errors.push(Error::required(&path.child("mountPath"), ""));
        }
        if !targets.insert(mount.mount_path.as_str()) {
            errors.push(Error::invalid(&path.child("mountPath"), &mount.mount_path, "must be unique"));
        }
        let (sub_path, expression) = (text(&mount.sub_path), text(&mount.sub_path_expr));
        if !sub_path.is_empty() {
            validate_local_path(sub_path, &path.child("subPath"), errors);
        }
        if !expression.is_empty() {
            if !sub_path.is_empty() {
                let why = "subPathExpr and subPath are mutually exclusive";
                errors.push(Error::invalid(&path.child("subPathExpr"), expression, why));
            }
            validate_local_path(expression, &path.child("subPathExpr"), errors);
        }
        let path = path.child("mountPropagation");
        match mount.mount_propagation.as_deref() {
            None | Some("None" | "HostToContainer") => {}
            Some("Bidirectional") if privileged => {}
            Some("Bidirectional") => {
                let why = "Bidirectional mount propagation is available only to privileged containers";
                errors.push(Error::forbidden(&path, why));
            }
            Some(other) => {
                let supported = ["Bidirectional", "HostToContainer", "None"];
                errors.push(Error::not_supported(&path, other, &supported));
            }
        }
    }
    let list = path.child("volumeDevices");
    for (i, device) in container.volume_devices.iter().flatten().enumerate() {
        let path = list.index(i);
        if !volumes.contains(device.name.as_str()) {
            errors.push(Error::not_found(&path.child("name"), &device.name));
        }
        if device.device_path.is_empty() {
            errors.push(Error::required(&path.child("devicePath"), ""));
        } else if !targets.insert(device.device_path.as_str()) {
            errors.push(Error::invalid(&path.child("devicePath"), &device.device_path, "must be unique"));
        }
    }
}
