//! ReplicaSets.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;
use skep_storage::SelectableField;

use super::checks::{not_negative, text};
use super::strategy::{Column, Context, Scale, Strategy, age};
use super::table_info::info;
use super::workload;

/// The strategy of replica sets.
#[derive(Debug)]
pub(crate) struct ReplicaSets;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new(
        "Desired",
        "integer",
        "Replicas is the number of desired pods. This is a pointer to distinguish between \
        explicit zero and unspecified. Defaults to 1.",
    ),
    Column::new("Current", "integer", "Replicas is the most recently observed number of non-terminating pods."),
    Column::new(
        "Ready",
        "integer",
        "The number of non-terminating pods targeted by this ReplicaSet with a Ready Condition.",
    ),
    Column::AGE,
    Column::wide("Containers", "string", "Names of each container in the template."),
    Column::wide("Images", "string", "Images referenced by each container in the template."),
    Column::wide("Selector", "string", "Selector is a label query over pods that should match the replica count."),
];

impl Strategy for ReplicaSets {
    type Object = ReplicaSet;

    fn info(&self) -> &'static ResourceInfo {
        info("apps", "replicasets")
    }

    fn prefix(&self) -> &'static str {
        "/registry/replicasets/"
    }

    fn selectable_fields(&self) -> Vec<SelectableField> {
        vec![SelectableField::new("status.replicas").or_default("0")]
    }

    fn default(&self, set: &mut ReplicaSet) {
        let spec = set.spec.get_or_insert_default();
        workload::set_defaults(spec.template.get_or_insert_default());
        spec.replicas.get_or_insert(1);
    }

    fn prepare_for_create(&self, _ctx: &Context<'_>, set: &mut ReplicaSet) {
        set.status = Some(ReplicaSetStatus::default());
    }

    fn validate(&self, set: &ReplicaSet) -> Errors {
        let Some(spec) = &set.spec else { return vec![Error::required(&Path::new("spec"), "")] };
        let empty = PodTemplateSpec::default();
        let template = spec.template.as_ref().unwrap_or(&empty);
        workload::validate(spec.replicas, spec.min_ready_seconds, &spec.selector, template)
    }

    fn prepare_for_update(&self, _ctx: &Context<'_>, set: &mut ReplicaSet, old: &ReplicaSet) {
        set.status.clone_from(&old.status);
    }

    fn validate_update(&self, set: &ReplicaSet, old: &ReplicaSet) -> Errors {
        match (&set.spec, &old.spec) {
            (Some(new), Some(old)) => workload::validate_same_selector(&new.selector, &old.selector),
            _ => Errors::new(),
        }
    }

    fn bumps_generation(&self, set: &ReplicaSet, old: &ReplicaSet) -> bool {
        set.spec != old.spec
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn prepare_for_status_update(&self, _ctx: &Context<'_>, set: &mut ReplicaSet, old: &ReplicaSet) {
        set.spec.clone_from(&old.spec);
    }

    fn validate_status_update(&self, set: &ReplicaSet, _old: &ReplicaSet) -> Errors {
        let mut errors = Errors::new();
        let empty = ReplicaSetStatus::default();
        let status = set.status.as_ref().unwrap_or(&empty);
        let path = Path::new("status");
        let parts = [
            ("fullyLabeledReplicas", status.fully_labeled_replicas),
            ("readyReplicas", status.ready_replicas),
            ("availableReplicas", status.available_replicas),
        ];
        not_negative(&mut errors, &path.child("replicas"), Some(status.replicas));
        for (field, number) in parts {
            not_negative(&mut errors, &path.child(field), number);
            if let Some(number) = number.filter(|n| *n > status.replicas) {
                errors.push(Error::invalid(&path.child(field), number, "cannot be greater than status.replicas"));
            }
        }
        if status.available_replicas.unwrap_or(0) > status.ready_replicas.unwrap_or(0) {
            let why = "cannot be greater than readyReplicas";
            errors.push(Error::invalid(&path.child("availableReplicas"), status.available_replicas, why));
        }
        not_negative(&mut errors, &path.child("observedGeneration"), status.observed_generation);
        errors
    }

    fn scale(&self, set: &ReplicaSet) -> Option<Scale> {
        let spec = set.spec.as_ref()?;
        Some(workload::scale(spec.replicas, set.status.as_ref().map(|s| s.replicas), &spec.selector))
    }

    fn set_scale(&self, set: &mut ReplicaSet, replicas: i32) {
        set.spec.get_or_insert_default().replicas = Some(replicas);
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, set: &ReplicaSet, now: Timestamp) -> Vec<Value> {
        let (no_spec, no_status) = (ReplicaSetSpec::default(), ReplicaSetStatus::default());
        let spec = set.spec.as_ref().unwrap_or(&no_spec);
        let status = set.status.as_ref().unwrap_or(&no_status);
        let (containers, images) = workload::container_cells(spec.template.as_ref());
        vec![
            json!(text(&set.metadata.name)),
            json!(spec.replicas.unwrap_or(0)),
            json!(status.replicas),
            json!(status.ready_replicas.unwrap_or(0)),
            json!(age(set.metadata.creation_timestamp.as_ref().map(|t| t.0), now)),
            json!(containers),
            json!(images),
            json!(workload::selector_cell(&spec.selector)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(status: Value) -> ReplicaSet {
        let mut set = serde_json::from_value(json!({
            "metadata": {"name": "web"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "replicas": 2, "template": {
                "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}},
            "status": status,
        }))
        .unwrap();
        ReplicaSets.default(&mut set);
        set
    }

    #[test]
    fn a_good_set_is_good() {
        assert_eq!(ReplicaSets.validate(&set(json!({"replicas": 0}))), []);
    }

    #[test]
    fn parts_are_not_more_than_the_whole() {
        let bad = set(json!({"replicas": 1, "readyReplicas": 2}));
        assert_eq!(
            ReplicaSets.validate_status_update(&bad, &bad)[0].to_string(),
            "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas"
        );
    }

    #[test]
    fn rows_count_pods() {
        let row = ReplicaSets.row(&set(json!({"replicas": 2, "readyReplicas": 1})), Timestamp::UNIX_EPOCH);
        assert_eq!(row[1..4], [json!(2), json!(2), json!(1)]);
    }
}
