//! Validation of environment variables.

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, EnvVarSource};
use skep_api::field::{Error, Errors, Path};
use skep_api::name;

use crate::registry::checks::{self, text};

const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// Checks `env`.
pub(super) fn validate(list: &[EnvVar], path: &Path<'_>, errors: &mut Errors) {
    for (i, env) in list.iter().enumerate() {
        let path = path.index(i);
        if env.name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        } else {
            checks::name(errors, &path.child("name"), &env.name, name::env_var_name);
        }
        if let Some(source) = &env.value_from {
            let path = path.child("valueFrom");
            validate_source(source, &path, errors);
            if !text(&env.value).is_empty() {
                errors.push(Error::invalid(&path, "", "may not be specified when `value` is not empty"));
            }
        }
    }
}

fn validate_source(source: &EnvVarSource, path: &Path<'_>, errors: &mut Errors) {
    let given = [
        source.field_ref.is_some(),
        source.resource_field_ref.is_some(),
        source.config_map_key_ref.is_some(),
        source.secret_key_ref.is_some(),
        source.file_key_ref.is_some(),
    ];
    match given.into_iter().filter(|g| *g).count() {
        0 => {
            let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
            errors.push(Error::invalid(path, "", why));
        }
        1 => {}
        _ => errors.push(Error::invalid(path, "", "may not have more than one field specified at a time")),
    }
    if let Some(field) = &source.field_ref {
        let path = path.child("fieldRef");
        validate_field_path(&field.field_path, &FIELDS, &path, errors);
    }
    if let Some(resource) = &source.resource_field_ref {
        let path = path.child("resourceFieldRef.resource");
        let huge = resource.resource.contains("hugepages-");
        if resource.resource.is_empty() {
            errors.push(Error::required(&path, ""));
        } else if !huge && !RESOURCES.contains(&resource.resource.as_str()) {
            errors.push(Error::not_supported(&path, &resource.resource, &RESOURCES));
        }
    }
    let keys = [
        ("configMapKeyRef", source.config_map_key_ref.as_ref().map(|r| (&r.name, &r.key))),
        ("secretKeyRef", source.secret_key_ref.as_ref().map(|r| (&r.name, &r.key))),
    ];
    for (field, reference) in keys {
        let Some((object, key)) = reference else { continue };
        let path = path.child(field);
        if object.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        }
        if key.is_empty() {
            errors.push(Error::required(&path.child("key"), ""));
        } else {
            checks::name(errors, &path.child("key"), key, name::config_map_key);
        }
    }
}

/// A field of the pod itself: one of `supported`, or one label or annotation.
pub(super) fn validate_field_path(field: &str, supported: &[&str], path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("fieldPath");
    if field.is_empty() {
        errors.push(Error::required(&path, ""));
        return;
    }
    let subscript = |prefix: &str| field.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']");
    if let Some(key) = subscript("metadata.labels") {
        checks::name(errors, &path, key, name::qualified_name);
    } else if let Some(key) = subscript("metadata.annotations") {
        checks::name(errors, &path, &key.to_lowercase(), name::qualified_name);
    } else if !supported.contains(&field) {
        errors.push(Error::not_supported(&path, field, supported));
    }
}

/// Checks `envFrom`.
pub(super) fn validate_from(list: &[EnvFromSource], path: &Path<'_>, errors: &mut Errors) {
    for (i, from) in list.iter().enumerate() {
        let path = path.index(i);
        let prefix = text(&from.prefix);
        if !prefix.is_empty() {
            checks::name(errors, &path.child("prefix"), prefix, name::env_var_name);
        }
        match (&from.config_map_ref, &from.secret_ref) {
            (None, None) => {
                errors.push(Error::invalid(&path, "", "must specify one of: `configMapRef` or `secretRef`"))
            }
            (Some(_), Some(_)) => {
                errors.push(Error::invalid(&path, "", "may not have more than one field specified at a time"));
            }
            (Some(map), None) if map.name.is_empty() => {
                errors.push(Error::required(&path.child("configMapRef.name"), ""));
            }
            (None, Some(secret)) if secret.name.is_empty() => {
                errors.push(Error::required(&path.child("secretRef.name"), ""));
            }
            _ => {}
        }
    }
}
