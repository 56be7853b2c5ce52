//! Who owns which field of what is written: `metadata.managedFields` (see `skep-apply`).
//!
//! Owners are noted before admission and the strategy change the object: what the server sets belongs to nobody. Only
//! members of an object whose bytes differ are parsed and compared.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, StatusCause};
use serde_json::Value;
use skep_api::status::StatusError;
use skep_apply::{
    Changes, Comparison, Error, Managed, Manager, Operation, Type, compare,
    reset::{self, Ignored},
};

use super::{Registry, Scope};
use crate::{
    admission::Codec,
    registry::{erased::UpdateKind, object::Object},
    scan,
};

/// Who is to own what a write changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// The manager of the request owns what it changes.
    Tracked,
    /// The object says it already, or it stays as it was.
    Settled,
}

/// Objects are looked into so deep before they are parsed.
const DEPTH: usize = 2;

impl Registry {
    /// The type of its objects, as far as owners are concerned.
    pub(crate) fn field_type(&self) -> Type<'_> {
        self.strategy.field_type(self.info())
    }

    /// Fields that cannot be changed through a subresource.
    pub(crate) fn ignored_fields(&self, subresource: &str) -> Ignored {
        let info = self.info();
        reset::ignored(&info.group, &info.plural, subresource, info.subresource("status").is_some())
    }

    /// The manager of a request that is no apply.
    pub(crate) fn updater(&self, scope: &Scope<'_>, subresource: &str) -> Manager {
        Manager {
            name: if scope.manager.is_empty() { "unknown".to_owned() } else { scope.manager.to_owned() },
            operation: Operation::Update,
            api_version: self.info().api_version().into_owned(),
            subresource: subresource.to_owned(),
        }
    }

    /// Notes who owns a new object.
    pub(super) fn own_created(&self, scope: &Scope<'_>, object: &mut dyn Object) -> Result<(), StatusError> {
        let given = object.meta_mut().managed_fields.take();
        let mut managed = Managed::of_update(&[], given);
        let value = match &self.version {
            None => object.to_value(),
            Some(version) => {
                object.to_json().and_then(|json| version.present(&json)).and_then(|json| serde_json::from_slice(&json))
            }
        }
        .map_err(StatusError::internal_error)?;
        let change = compare::created(self.field_type(), &value);
        managed.update(&Changes::new(change, self.ignored_fields("")), &self.updater(scope, ""), scope.now);
        object.meta_mut().managed_fields = managed.encode();
        Ok(())
    }

    /// Notes who owns what an update changes. `shown` is the JSON of `old` in the version of the request.
    pub(super) async fn own_updated(
        &self,
        scope: &Scope<'_>,
        kind: UpdateKind,
        shown: &[u8],
        old: &dyn Object,
        object: &mut dyn Object,
    ) -> Result<(), StatusError> {
        let given = object.meta_mut().managed_fields.take();
        let stored = old.meta().managed_fields.as_deref().unwrap_or_default();
        let subresource = kind.subresource();
        let mut managed = if subresource.is_empty() {
            Managed::of_update(stored, given)
        } else {
            Managed::of_part(stored, given.unwrap_or_default())
        };
        // What nobody's fields were managed of begins to be managed with the first apply.
        if managed.is_empty() {
            return Ok(());
        }
        let json = self.to_json(object)?;
        let of = self.field_type();
        let change = if of.is_struct() {
            differences(of, "", shown, &json, DEPTH)?
        } else {
            compare(of, &without_owners(shown)?, &parsed(&json)?)
        };
        let changes = self.changes(change, (shown, &json), &managed, self.ignored_fields(subresource)).await?;
        managed.update(&changes, &self.updater(scope, subresource), scope.now);
        object.meta_mut().managed_fields = managed.encode();
        Ok(())
    }
}

/// What differs between two states of a struct, of which only what differs is parsed. `parent` is the name of the member
/// they are; empty for whole objects. Structs have few members, so that these are looked for one after the other.
fn differences(of: Type<'_>, parent: &str, old: &[u8], new: &[u8], depth: usize) -> Result<Comparison, StatusError> {
    let members =
        |json: &[u8]| scan::members(json).ok_or_else(|| StatusError::internal_error("an object is no JSON object"));
    let (before, after) = (members(old)?, members(new)?);
    let mut change = Comparison::default();
    let find = |list: &[scan::Member], json: &[u8], name: &[u8]| {
        list.iter().find(|member| &json[member.name.clone()] == name).map(|member| member.value.clone())
    };
    for member in &after {
        let name = &new[member.name.clone()];
        let value = &new[member.value.clone()];
        let was = find(&before, old, name).map(|range| &old[range]);
        if was == Some(value) || is_server_set(parent, name) {
            continue;
        }
        let name = text(name)?;
        match was {
            Some(was)
                if depth > 1 && was.starts_with(b"{") && value.starts_with(b"{") && of.field(&name).is_struct() =>
            {
                change.add_below(&name, differences(of.field(&name), &name, was, value, depth - 1)?);
            }
            _ => change.add_field(&name, of, was.map(parsed).transpose()?.as_ref(), Some(&parsed(value)?)),
        }
    }
    for member in &before {
        let name = &old[member.name.clone()];
        if find(&after, new, name).is_none() && !is_server_set(parent, name) {
            change.add_field(&text(name)?, of, Some(&parsed(&old[member.value.clone()])?), None);
        }
    }
    Ok(change)
}

/// Members of metadata that nobody owns and that may be long or differ always.
fn is_server_set(parent: &str, name: &[u8]) -> bool {
    parent == "metadata" && matches!(name, b"managedFields" | b"resourceVersion")
}

/// An object, and nothing about who owns its fields.
pub(super) fn without_owners(json: &[u8]) -> Result<Value, StatusError> {
    let mut object = parsed(json)?;
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
    Ok(object)
}

fn parsed(json: &[u8]) -> Result<Value, StatusError> {
    serde_json::from_slice(json).map_err(StatusError::internal_error)
}

/// A member's name, which JSON may write with escapes.
fn text(raw: &[u8]) -> Result<Cow<'_, str>, StatusError> {
    if raw.contains(&b'\\') {
        let quoted = [b"\"", raw, b"\""].concat();
        return serde_json::from_slice(&quoted).map(Cow::Owned).map_err(StatusError::internal_error);
    }
    std::str::from_utf8(raw).map(Cow::Borrowed).map_err(StatusError::internal_error)
}

/// What an error of an apply tells the client.
pub(crate) fn apply_error(error: Error) -> StatusError {
    match &error {
        Error::Conflicts(conflicts) => {
            let status = StatusError::new(409, "Conflict", error.to_string());
            conflicts.iter().fold(status, |status, conflict| {
                status.with_cause(StatusCause {
                    reason: Some("FieldManagerConflict".to_owned()),
                    message: Some(format!("conflict with {}", conflict.owner())),
                    field: Some(conflict.path.to_string()),
                })
            })
        }
        Error::BadRequest(text) => StatusError::bad_request(text.clone()),
        // Upstream gives these no reason.
        Error::Untyped { .. } | Error::ManagedFields(_) | Error::Unconverted { .. } => {
            StatusError::new(500, "", error.to_string())
        }
    }
}

/// The same object but for the times of its owners: whether a write would change nothing else.
pub(super) fn with_times_of(object: &mut dyn Object, old: &dyn Object) -> Option<Vec<ManagedFieldsEntry>> {
    let before = old.meta().managed_fields.as_deref()?;
    let now = object.meta_mut().managed_fields.as_mut()?;
    let new = now.clone();
    skep_apply::managers::keep_times(before, now).then_some(new)
}
