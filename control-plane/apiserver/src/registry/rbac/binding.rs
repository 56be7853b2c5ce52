//! What both kinds of bindings consist of.

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::{RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::name;

use super::GROUP;
use crate::registry::cell;
use crate::registry::checks::{self, text};
use crate::registry::strategy::Column;

pub(super) const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new(
        "Role",
        "string",
        "RoleRef can reference a Role in the current namespace or a ClusterRole in the global namespace.",
    ),
    Column::AGE,
    Column::wide("Users", "string", "Users in the roleBinding"),
    Column::wide("Groups", "string", "Groups in the roleBinding"),
    Column::wide("ServiceAccounts", "string", "ServiceAccounts in the roleBinding"),
];

/// Users and groups are of this API group, service accounts of the core group.
pub(super) fn set_defaults(role: &mut RoleRef, subjects: &mut Option<Vec<Subject>>) {
    if role.api_group.is_empty() {
        role.api_group = GROUP.to_owned();
    }
    for subject in subjects.iter_mut().flatten() {
        if matches!(subject.kind.as_str(), "User" | "Group") {
            checks::or(&mut subject.api_group, GROUP);
        }
    }
}

/// Checks whom the binding gives what; `kinds` are those of roles it may lead to.
pub(super) fn validate(role: &RoleRef, kinds: &[&str], subjects: &Option<Vec<Subject>>) -> Errors {
    let mut errors = Errors::new();
    let path = Path::new("roleRef");
    if role.api_group != GROUP {
        errors.push(Error::not_supported(&path.child("apiGroup"), &role.api_group, &[GROUP]));
    }
    if !kinds.contains(&role.kind.as_str()) {
        errors.push(Error::not_supported(&path.child("kind"), &role.kind, kinds));
    }
    if role.name.is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    } else {
        checks::name(&mut errors, &path.child("name"), &role.name, name::path_segment_name);
    }
    let list = Path::new("subjects");
    for (i, subject) in subjects.iter().flatten().enumerate() {
        validate_subject(subject, &list.index(i), &mut errors);
    }
    errors
}

fn validate_subject(subject: &Subject, path: &Path<'_>, errors: &mut Errors) {
    checks::required(errors, &path.child("name"), &subject.name);
    let group = text(&subject.api_group);
    match subject.kind.as_str() {
        "ServiceAccount" => {
            if !subject.name.is_empty() {
                checks::name(errors, &path.child("name"), &subject.name, name::dns1123_subdomain);
            }
            if !group.is_empty() {
                errors.push(Error::not_supported(&path.child("apiGroup"), group, &[""]));
            }
            checks::required(errors, &path.child("namespace"), text(&subject.namespace));
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.push(Error::not_supported(&path.child("apiGroup"), group, &[GROUP]));
            }
        }
        other => {
            let kinds = ["ServiceAccount", "User", "Group"];
            errors.push(Error::not_supported(&path.child("kind"), other, &kinds));
        }
    }
}

/// What a binding binds stays; only whom changes.
pub(super) fn validate_update(new: &RoleRef, old: &RoleRef) -> Errors {
    if new == old {
        return Errors::new();
    }
    vec![Error::invalid(&Path::new("roleRef"), new, "cannot change roleRef")]
}

pub(super) fn row(meta: &ObjectMeta, role: &RoleRef, subjects: &Option<Vec<Subject>>, now: Timestamp) -> Vec<Value> {
    let of = |kind: &str| {
        let names = subjects.iter().flatten().filter(|s| s.kind == kind).map(|s| match text(&s.namespace) {
            "" => s.name.clone(),
            namespace => format!("{namespace}/{}", s.name),
        });
        json!(names.collect::<Vec<_>>().join(", "))
    };
    vec![
        cell::name(meta),
        json!(format!("{}/{}", role.kind, role.name)),
        cell::age(meta, now),
        of("User"),
        of("Group"),
        of("ServiceAccount"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_get_their_group_and_are_checked() {
        let mut role: RoleRef = serde_json::from_value(json!({"kind": "Role", "name": "r"})).unwrap();
        let mut subjects = serde_json::from_value(json!([
            {"kind": "User", "name": "ann"}, {"kind": "ServiceAccount", "name": "sa"}, {"kind": "Robot", "name": "x"}]))
        .unwrap();
        set_defaults(&mut role, &mut subjects);
        assert_eq!(role.api_group, GROUP);
        let texts: Vec<_> = validate(&role, &["ClusterRole"], &subjects).iter().map(Error::to_string).collect();
        assert_eq!(
            texts,
            [
                "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
                "subjects[1].namespace: Required value",
                "subjects[2].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
            ]
        );
        let row = row(&ObjectMeta::default(), &role, &subjects, Timestamp::UNIX_EPOCH);
        assert_eq!((&row[1], &row[3], &row[5]), (&json!("Role/r"), &json!("ann"), &json!("sa")));
    }
}
