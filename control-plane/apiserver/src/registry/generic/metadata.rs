//! The registry's own part of an object: metadata that only the server sets.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use skep_api::{field, meta, status::StatusError};
use uuid::Uuid;

use super::{Registry, Scope};
use crate::registry::object::Object;

impl Registry {
    /// The namespace of a new object must be the request's; an empty one becomes it.
    pub(super) fn take_namespace(&self, scope: &Scope<'_>, meta: &mut ObjectMeta) -> Result<(), StatusError> {
        let given = meta.namespace.as_deref().unwrap_or_default();
        match scope.namespace {
            Some(namespace) if self.info().namespaced => {
                if !given.is_empty() && given != namespace {
                    return Err(StatusError::bad_request(
                        "the namespace of the provided object does not match the namespace sent on the request",
                    ));
                }
                meta.namespace = Some(namespace.to_owned());
            }
            _ if given.is_empty() => meta.namespace = None,
            _ => {
                return Err(StatusError::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
        }
        Ok(())
    }

    /// What is wrong with the metadata of an object about to be stored.
    pub(super) fn metadata_errors(&self, meta: &ObjectMeta) -> field::Errors {
        meta::validate(meta, self.info().namespaced, self.strategy.name_validator(), &field::Path::new("metadata"))
    }

    /// Sets what the server sets on every new object.
    pub(super) fn stamp(&self, scope: &Scope<'_>, meta: &mut ObjectMeta) {
        omit_empty(meta);
        meta.uid = Some(Uuid::new_v4().to_string());
        meta.creation_timestamp = Some(Time(scope.now));
        meta.deletion_timestamp = None;
        meta.deletion_grace_period_seconds = None;
        meta.self_link = None;
        meta.resource_version = None;
        meta.generation = self.strategy.has_generation().then_some(1);
    }
}

/// Leaves out what holds nothing, as upstream's encoding does: a patch may have removed the last label or owner.
fn omit_empty(meta: &mut ObjectMeta) {
    meta.labels.take_if(|labels| labels.is_empty());
    meta.annotations.take_if(|annotations| annotations.is_empty());
    meta.finalizers.take_if(|finalizers| finalizers.is_empty());
    meta.owner_references.take_if(|owners| owners.is_empty());
}

/// Carries over what an update may not change but a client may leave out, and what it cannot set at all. What it tries
/// to change beyond that is left for validation to refuse.
pub(super) fn carry_over(object: &mut dyn Object, old: &ObjectMeta) {
    let meta = object.meta_mut();
    omit_empty(meta);
    if meta.uid.as_deref().unwrap_or_default().is_empty() {
        meta.uid.clone_from(&old.uid);
    }
    meta.creation_timestamp.clone_from(&old.creation_timestamp);
    meta.deletion_timestamp.clone_from(&old.deletion_timestamp);
    meta.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
    meta.generate_name.clone_from(&old.generate_name);
    meta.generation = old.generation;
    meta.self_link = None;
}

/// When owners are looked at: what admission adds twice is told in other words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Sent,
    Admitted,
}

/// Drops owners that are there twice, with a warning.
pub(super) fn drop_twin_owners(scope: &Scope<'_>, stage: Stage, meta: &mut ObjectMeta) {
    let Some(owners) = meta.owner_references.as_mut().filter(|owners| owners.len() > 1) else { return };
    let mut seen: Vec<OwnerReference> = Vec::with_capacity(owners.len());
    let mut twins = Vec::new();
    owners.retain(|owner| {
        let twin = seen.contains(owner);
        if twin {
            twins.push(owner.uid.clone());
        } else {
            seen.push(owner.clone());
        }
        !twin
    });
    if !twins.is_empty() {
        let when = if stage == Stage::Admitted { " after mutating admission happens" } else { "" };
        scope.warn(format!(
            ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and \
             may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            twins.join(", ")
        ));
    }
}

/// A resource version an object carries: none when it is empty or zero.
pub(super) fn resource_version(meta: &ObjectMeta) -> Result<Option<i64>, StatusError> {
    match meta.resource_version.as_deref() {
        None | Some("" | "0") => Ok(None),
        Some(text) => match text.parse::<i64>() {
            Ok(version) if version > 0 => Ok(Some(version)),
            _ => Err(StatusError::bad_request(format!(
                "metadata.resourceVersion: Invalid value: {text:?}: must be a positive number in decimal"
            ))),
        },
    }
}

/// Whether something in metadata keeps the object from going.
pub(super) fn has_finalizers(meta: &ObjectMeta) -> bool {
    meta.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty())
}
