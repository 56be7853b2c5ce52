//! ControllerRevisions.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;

use super::cell;
use super::checks::{immutable, not_negative};
use super::strategy::{Column, Strategy};
use super::table_info::info;

/// The strategy of controller revisions.
#[derive(Debug)]
pub(crate) struct ControllerRevisions;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Controller", "string", "Controller of the object"),
    Column::new("Revision", "string", "Revision indicates the revision of the state represented by Data."),
    Column::AGE,
];

impl Strategy for ControllerRevisions {
    type Object = ControllerRevision;

    fn info(&self) -> &'static ResourceInfo {
        info("apps", "controllerrevisions")
    }

    fn prefix(&self) -> &'static str {
        "/registry/controllerrevisions/"
    }

    fn validate(&self, revision: &ControllerRevision) -> Errors {
        let mut errors = Errors::new();
        if revision.data.as_ref().is_none_or(|data| data.0.is_null()) {
            errors.push(Error::required(&Path::new("data"), "data is mandatory"));
        }
        not_negative(&mut errors, &Path::new("revision"), Some(revision.revision));
        errors
    }

    fn validate_update(&self, revision: &ControllerRevision, old: &ControllerRevision) -> Errors {
        let mut errors = Errors::new();
        immutable(&mut errors, &Path::new("data"), &revision.data, &old.data);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, revision: &ControllerRevision, now: Timestamp) -> Vec<Value> {
        let owners = revision.metadata.owner_references.as_deref().unwrap_or_default();
        let controller = owners.iter().find(|owner| owner.controller == Some(true));
        let controller = controller.map_or_else(
            || "<none>".to_owned(),
            |owner| {
                let kind = owner.kind.to_lowercase();
                match owner.api_version.split_once('/') {
                    Some((group, _)) => format!("{kind}.{group}/{}", owner.name),
                    None => format!("{kind}/{}", owner.name),
                }
            },
        );
        vec![
            cell::name(&revision.metadata),
            json!(controller),
            json!(revision.revision),
            cell::age(&revision.metadata, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_stays_and_the_owner_is_shown() {
        let old: ControllerRevision = serde_json::from_value(json!({"metadata": {"name": "r", "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "u", "controller": true}]},
            "data": {"spec": 1}, "revision": 2}))
        .unwrap();
        assert_eq!(ControllerRevisions.validate(&old), []);
        let row = ControllerRevisions.row(&old, Timestamp::UNIX_EPOCH);
        assert_eq!(row[1..3], [json!("statefulset.apps/db"), json!(2)]);
        let mut new = old.clone();
        new.data = None;
        assert_eq!(ControllerRevisions.validate_update(&new, &old).len(), 1);
        assert_eq!(ControllerRevisions.validate(&new)[0].to_string(), "data: Required value: data is mandatory");
    }
}
