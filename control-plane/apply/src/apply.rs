//! Applying a configuration.

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    compare::{compare, created},
    error::{Conflict, Error},
    field_set::field_set,
    last_applied,
    managers::{Managed, Manager, Operation, whole_seconds},
    merge::merge,
    prune::prune,
    reset::{Ignored, STRIPPED},
    schema::{EMPTY, Type},
    validate::validate,
    versions::{Changes, Versions},
};

/// The manager kubectl applies as, which may take over what it applied from the client before.
const KUBECTL: &str = "kubectl";
/// Who owns what was there before anyone's fields were managed.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// One apply.
#[derive(Clone, Copy, Debug)]
pub struct Apply<'a> {
    /// The type of the object.
    pub of: Type<'a>,
    /// `apiVersion` of the version applied.
    pub api_version: &'a str,
    /// Its kind.
    pub kind: &'a str,
    /// The object as it is; none if it is to be created. Its managed fields are not looked at.
    pub live: Option<&'a Value>,
    /// What is applied.
    pub config: &'a Value,
    /// Who applies.
    pub manager: &'a str,
    /// Through what; empty for the object itself.
    pub subresource: &'a str,
    /// Whether to take fields that others own.
    pub force: bool,
    /// Fields that cannot be changed through this resource.
    pub ignored: Ignored,
    /// The other versions managers know it in.
    pub versions: &'a dyn Versions,
    /// The time of the request.
    pub now: Timestamp,
}

/// Merges a configuration into the live object and notes in `managed` who owns what then. None if the object stays as it
/// is; managers may have changed all the same.
///
/// # Errors
/// [`Error::Conflicts`] when others own a field with another value and `force` is not given, others when the
/// configuration is no object of that kind. `managed` is then not to be used.
pub fn apply(request: &Apply<'_>, managed: &mut Managed) -> Result<Option<Value>, Error> {
    check(request)?;
    let before = (request.manager == KUBECTL).then(|| managed.clone());
    let applied = match (once(request, managed), before) {
        (Err(Error::Conflicts(conflicts)), Some(before)) => {
            let rest = last_applied::forbidden(request, conflicts);
            if !rest.is_empty() {
                return Err(Error::Conflicts(rest));
            }
            *managed = before;
            once(&Apply { force: true, ..*request }, managed)
        }
        (other, _) => other,
    }?;
    if request.manager != KUBECTL {
        return Ok(applied);
    }
    let present = applied.as_ref().or(request.live);
    let Some(mut object) = present.filter(|object| last_applied::annotation(object).is_some()).cloned() else {
        return Ok(applied);
    };
    last_applied::annotate(&mut object, request.config);
    Ok(Some(object))
}

/// Refuses what is no object of the kind.
fn check(request: &Apply<'_>) -> Result<(), Error> {
    let Apply { of, api_version, kind, config, .. } = request;
    let text = |name: &str| config.get(name).and_then(Value::as_str).unwrap_or_default();
    let (given_version, given_kind) = (text("apiVersion"), text("kind"));
    if given_version != *api_version || given_kind != *kind {
        return Err(Error::BadRequest(format!("invalid object type: {}", shown_kind(given_version, given_kind))));
    }
    let meta = config.get("metadata");
    if meta.and_then(|meta| meta.get("managedFields")).is_some_and(|given| !given.is_null()) {
        return Err(Error::BadRequest("metadata.managedFields must be nil".to_owned()));
    }
    if let Some(errors) = validate(*of, config) {
        let text = |name: &str| meta.and_then(|meta| meta.get(name)).and_then(Value::as_str).unwrap_or_default();
        let object = format!("{}/{}; {}", text("namespace"), text("name"), shown_kind(given_version, given_kind));
        return Err(Error::Untyped { object, errors });
    }
    Ok(())
}

/// A kind, as upstream prints it: `apps/v1, Kind=Deployment`.
fn shown_kind(api_version: &str, kind: &str) -> String {
    let slash = if api_version.contains('/') { "" } else { "/" };
    format!("{slash}{api_version}, Kind={kind}")
}

fn once(request: &Apply<'_>, managed: &mut Managed) -> Result<Option<Value>, Error> {
    let Apply { of, config, ignored, now, .. } = *request;
    let live = request.live.unwrap_or(&EMPTY);
    let manager = |name: &str, operation| Manager {
        name: name.to_owned(),
        operation,
        api_version: request.api_version.to_owned(),
        subresource: request.subresource.to_owned(),
    };
    if managed.is_empty() {
        let changes = Changes::new(created(of, live), ignored);
        managed.update(&changes, &manager(BEFORE_FIRST_APPLY, Operation::Update), now);
    }
    let applier = manager(request.manager, Operation::Apply);
    let others = managed.versions_beside(request.api_version);
    let last = managed.find(&applier);
    let last = last.map(|entry| (entry.manager.api_version.clone(), std::mem::take(entry.set())));
    let set = ignored.strip(field_set(of, config));
    // What the applier still says stays: mostly that is all it ever said.
    let drops =
        last.filter(|(version, last)| !last.is_empty() && (version != request.api_version || !last.is_within(&set)));
    managed.replace(&applier, set);

    let merged = merge(of, live, config);
    let merged = match drops {
        Some((version, last)) => prune(request, merged, (&version, &last), managed.by_version())?,
        None => merged,
    };
    let change = compare(of, live, &merged);
    let same = change.is_same();
    settle(managed, &request.changes(live, &merged, change, others)?, &applier, request.force)?;
    if let Some(entry) = managed.find(&applier) {
        let left = std::mem::take(entry.set()).difference(&STRIPPED);
        if !left.is_empty() && !same {
            entry.time = Some(whole_seconds(now));
        }
        *entry.set() = left;
    }
    managed.entries.retain_mut(|entry| !entry.set_is_empty());
    Ok((!same).then_some(merged))
}

/// Settles who owns what changed.
fn settle(managed: &mut Managed, changes: &Changes, applier: &Manager, force: bool) -> Result<(), Error> {
    if !force {
        let conflicts = managed.conflicts(changes, applier);
        if !conflicts.is_empty() {
            let conflicts = conflicts.into_iter().map(|(manager, path)| Conflict { manager, path });
            return Err(Error::Conflicts(conflicts.collect()));
        }
    }
    managed.release_others(changes, applier);
    Ok(())
}
