//! Object metadata: generated names, and what upstream demands of it on create and update.

use std::collections::BTreeMap;
use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ManagedFieldsEntry, ObjectMeta, OwnerReference};
use rand::Rng;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::field::{Error, Errors, Path};
use crate::name::{self, Validator};
use crate::options::validate_field_manager;

/// A typed API object with metadata.
pub trait ApiObject:
    k8s_openapi::Resource
    + k8s_openapi::Metadata<Ty = ObjectMeta>
    + Serialize
    + DeserializeOwned
    + Clone
    + Debug
    + Send
    + Sync
    + 'static
{
}

impl<T> ApiObject for T where
    T: k8s_openapi::Resource
        + k8s_openapi::Metadata<Ty = ObjectMeta>
        + Serialize
        + DeserializeOwned
        + Clone
        + Debug
        + Send
        + Sync
        + 'static
{
}

/// Said of every field that may not change.
pub const IMMUTABLE: &str = "field is immutable";

const TOTAL_ANNOTATIONS: usize = 256 * 1024;
const MAX_SUBRESOURCE: usize = 256;
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
const MAX_GENERATED_BASE: usize = 63 - SUFFIX_LENGTH;

/// A name made of `base` (cut to 58 bytes) and five random characters that spell no words.
pub fn generate_name(base: &str) -> String {
    let mut end = base.len().min(MAX_GENERATED_BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base[..end].to_owned();
    let mut rng = rand::rng();
    for _ in 0..SUFFIX_LENGTH {
        name.push(char::from(SUFFIX_ALPHABET[rng.random_range(0..SUFFIX_ALPHABET.len())]));
    }
    name
}

/// Checks the metadata of an object about to be stored. `valid_name` judges `name` and, as a prefix, `generateName`.
pub fn validate(meta: &ObjectMeta, namespaced: bool, valid_name: Validator, path: &Path<'_>) -> Errors {
    let mut errors = Errors::new();
    if let Some(base) = meta.generate_name.as_deref().filter(|b| !b.is_empty()) {
        let path = path.child("generateName");
        errors.extend(name::prefix(valid_name, base).into_iter().map(|m| Error::invalid(&path, base, m)));
    }
    let own = meta.name.as_deref().unwrap_or_default();
    if own.is_empty() {
        errors.push(Error::required(&path.child("name"), "name or generateName is required"));
    } else {
        let path = path.child("name");
        errors.extend(valid_name(own).into_iter().map(|m| Error::invalid(&path, own, m)));
    }
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let at = path.child("namespace");
    match (namespaced, namespace) {
        (true, "") => errors.push(Error::required(&at, "")),
        (true, ns) => errors.extend(name::dns1123_label(ns).into_iter().map(|m| Error::invalid(&at, ns, m))),
        (false, "") => {}
        (false, _) => errors.push(Error::forbidden(&at, "not allowed on this type")),
    }
    if let Some(generation) = meta.generation.filter(|g| *g < 0) {
        errors.push(Error::invalid(&path.child("generation"), generation, "must be greater than or equal to 0"));
    }
    if let Some(labels) = &meta.labels {
        validate_labels(labels, &path.child("labels"), &mut errors);
    }
    if let Some(annotations) = &meta.annotations {
        validate_annotations(annotations, &path.child("annotations"), &mut errors);
    }
    validate_owners(meta.owner_references.as_deref().unwrap_or_default(), path, &mut errors);
    validate_finalizers(meta.finalizers.as_deref().unwrap_or_default(), path, &mut errors);
    let managed = meta.managed_fields.as_deref().unwrap_or_default();
    validate_managed_fields(managed, &path.child("managedFields"), &mut errors);
    errors
}

/// Checks who is said to own fields. Which fields, is not looked at: what cannot be read never gets here.
fn validate_managed_fields(managed: &[ManagedFieldsEntry], path: &Path<'_>, errors: &mut Errors) {
    for (i, entry) in managed.iter().enumerate() {
        let at = path.index(i);
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let (operation, fields_type) = (text(&entry.operation), text(&entry.fields_type));
        if operation != "Apply" && operation != "Update" {
            errors.push(Error::invalid(&at.child("operation"), operation, "must be `Apply` or `Update`"));
        }
        if !fields_type.is_empty() && fields_type != "FieldsV1" {
            errors.push(Error::invalid(&at.child("fieldsType"), fields_type, "must be `FieldsV1`"));
        }
        let manager = entry.manager.as_deref().unwrap_or_default();
        validate_field_manager(manager, &at.child("manager"), errors);
        if entry.subresource.as_ref().is_some_and(|subresource| subresource.len() > MAX_SUBRESOURCE) {
            errors.push(Error::too_long(&at.child("subresource"), MAX_SUBRESOURCE));
        }
    }
}

/// Checks what an update may change in metadata. Uid, creation and deletion times left out by the client are
/// expected to have been filled in from the stored object before.
pub fn validate_update(new: &ObjectMeta, old: &ObjectMeta, path: &Path<'_>) -> Errors {
    let mut errors = Errors::new();
    let mut same = |field: &str, a: &dyn Fn(&ObjectMeta) -> serde_json::Value| {
        let value = a(new);
        if value != a(old) {
            errors.push(Error::invalid(&path.child(field), value, IMMUTABLE));
        }
    };
    same("name", &|m| json(&m.name));
    same("namespace", &|m| json(&m.namespace));
    same("uid", &|m| json(&m.uid));
    same("creationTimestamp", &|m| json(&m.creation_timestamp));
    same("deletionTimestamp", &|m| json(&m.deletion_timestamp));
    same("deletionGracePeriodSeconds", &|m| json(&m.deletion_grace_period_seconds));
    if new.generation.unwrap_or(0) < old.generation.unwrap_or(0) {
        errors.push(Error::invalid(&path.child("generation"), new.generation, "must not be decremented"));
    }
    if new.resource_version.as_deref().unwrap_or_default().is_empty() {
        let value = new.resource_version.as_deref().unwrap_or_default();
        errors.push(Error::invalid(&path.child("resourceVersion"), value, "must be specified for an update"));
    }
    let had: &[String] = old.finalizers.as_deref().unwrap_or_default();
    let has: &[String] = new.finalizers.as_deref().unwrap_or_default();
    let added: Vec<&String> = has.iter().filter(|f| !had.contains(f)).collect();
    if old.deletion_timestamp.is_some() && !added.is_empty() {
        let shown = added.iter().map(|f| format!("{f:?}")).collect::<Vec<_>>().join(", ");
        let why = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{shown}}}"
        );
        errors.push(Error::forbidden(&path.child("finalizers"), why));
    }
    errors
}

fn json(value: &impl Serialize) -> serde_json::Value {
    // Strings, numbers and times always serialise.
    serde_json::to_value(value).unwrap_or_default()
}

/// Checks keys and values of labels.
pub fn validate_labels(labels: &BTreeMap<String, String>, path: &Path<'_>, errors: &mut Errors) {
    for (key, value) in labels {
        errors.extend(name::qualified_name(key).into_iter().map(|m| Error::invalid(path, key, m)));
        errors.extend(name::label_value(value).into_iter().map(|m| Error::invalid(path, value, m)));
    }
}

/// Checks keys and total size of annotations.
pub fn validate_annotations(annotations: &BTreeMap<String, String>, path: &Path<'_>, errors: &mut Errors) {
    let mut total = 0;
    for (key, value) in annotations {
        let complaints = name::qualified_name(&key.to_lowercase());
        errors.extend(complaints.into_iter().map(|m| Error::invalid(path, key, m)));
        total += key.len() + value.len();
    }
    if total > TOTAL_ANNOTATIONS {
        errors.push(Error::too_long(path, TOTAL_ANNOTATIONS));
    }
}

fn validate_owners(owners: &[OwnerReference], path: &Path<'_>, errors: &mut Errors) {
    let list = path.child("ownerReferences");
    let mut controller: Option<&OwnerReference> = None;
    for (i, owner) in owners.iter().enumerate() {
        let path = list.index(i);
        let version = owner.api_version.rsplit('/').next().unwrap_or_default();
        if version.is_empty() || owner.api_version.matches('/').count() > 1 {
            let why = "version must not be empty";
            errors.push(Error::invalid(&path.child("apiVersion"), &owner.api_version, why));
        }
        for (field, value) in [("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)] {
            if value.is_empty() {
                errors.push(Error::invalid(&path.child(field), value, "must not be empty"));
            }
        }
        if owner.api_version == "v1" && owner.kind == "Event" {
            errors.push(Error::invalid(&path, owner, "/v1, Kind=Event is disallowed from being an owner"));
        }
        if owner.controller == Some(true) {
            if let Some(first) = controller {
                let why = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {} and {}",
                    first.name, owner.name
                );
                errors.push(Error::invalid(&list, owners, why));
            } else {
                controller = Some(owner);
            }
        }
    }
}

fn validate_finalizers(finalizers: &[String], path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("finalizers");
    for finalizer in finalizers {
        errors.extend(name::qualified_name(finalizer).into_iter().map(|m| Error::invalid(&path, finalizer, m)));
    }
    let has = |name: &str| finalizers.iter().any(|f| f == name);
    if has("orphan") && has("foregroundDeletion") {
        let why = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(Error::invalid(&path, finalizers, why));
    }
}

/// Checks a label selector inside an object.
pub fn validate_label_selector(selector: &LabelSelector, path: &Path<'_>) -> Errors {
    let mut errors = Errors::new();
    if let Some(labels) = &selector.match_labels {
        validate_labels(labels, &path.child("matchLabels"), &mut errors);
    }
    let list = path.child("matchExpressions");
    for (i, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let path = list.index(i);
        let values = expression.values.as_deref().unwrap_or_default();
        match expression.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => {
                let why = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(Error::required(&path.child("values"), why));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(Error::forbidden(&path.child("values"), why));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                errors.push(Error::invalid(&path.child("operator"), other, "not a valid selector operator"));
            }
        }
        let key = &expression.key;
        errors.extend(name::qualified_name(key).into_iter().map(|m| Error::invalid(&path.child("key"), key, m)));
        for (j, value) in values.iter().enumerate() {
            let list = path.child("values");
            let path = list.index(j);
            errors.extend(name::label_value(value).into_iter().map(|m| Error::invalid(&path, value, m)));
        }
    }
    errors
}

#[cfg(test)]
mod tests;
