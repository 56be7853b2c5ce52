//! ReplicationControllers.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ReplicationController, ReplicationControllerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as WireSelector;
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;
use skep_storage::SelectableField;

use super::checks::not_negative;
use super::strategy::{Column, Context, Scale, Strategy};
use super::table_info::info;
use super::{cell, workload};

/// The strategy of replication controllers.
#[derive(Debug)]
pub(crate) struct ReplicationControllers;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new(
        "Desired",
        "integer",
        "Replicas is the number of desired replicas. This is a pointer to distinguish between explicit zero and \
         unspecified. Defaults to 1.",
    ),
    Column::new("Current", "integer", "Replicas is the most recently observed number of replicas."),
    Column::new("Ready", "integer", "The number of ready replicas for this replication controller."),
    Column::AGE,
    Column::wide("Containers", "string", "Names of each container in the template."),
    Column::wide("Images", "string", "Images referenced by each container in the template."),
    Column::wide("Selector", "string", "Selector is a label query over pods that should match the Replicas count."),
];

impl Strategy for ReplicationControllers {
    type Object = ReplicationController;

    fn info(&self) -> &'static ResourceInfo {
        info("", "replicationcontrollers")
    }

    fn prefix(&self) -> &'static str {
        "/registry/controllers/"
    }

    fn selectable_fields(&self) -> Vec<SelectableField> {
        vec![SelectableField::new("status.replicas").or_default("0")]
    }

    fn default(&self, controller: &mut ReplicationController) {
        let spec = controller.spec.get_or_insert_default();
        if let Some(template) = &mut spec.template {
            workload::set_defaults(template);
            let labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).filter(|l| !l.is_empty());
            if is_empty(spec.selector.as_ref()) {
                spec.selector.clone_from(&labels);
            }
            if is_empty(controller.metadata.labels.as_ref()) {
                controller.metadata.labels = labels;
            }
        }
        spec.replicas.get_or_insert(1);
    }

    fn prepare_for_create(&self, _ctx: &Context<'_>, controller: &mut ReplicationController) {
        controller.status = Some(ReplicationControllerStatus::default());
    }

    fn validate(&self, controller: &ReplicationController) -> Errors {
        let Some(spec) = &controller.spec else { return vec![Error::required(&Path::new("spec"), "")] };
        let mut errors = Errors::new();
        let path = Path::new("spec");
        not_negative(&mut errors, &path.child("minReadySeconds"), spec.min_ready_seconds);
        if is_empty(spec.selector.as_ref()) {
            errors.push(Error::required(&path.child("selector"), ""));
        }
        not_negative(&mut errors, &path.child("replicas"), spec.replicas);
        let at = path.child("template");
        let Some(template) = &spec.template else {
            errors.push(Error::required(&at, ""));
            return errors;
        };
        workload::validate_match(&selector(controller), template, &at, &mut errors);
        workload::validate_template("ReplicationController", template, &at, &mut errors);
        errors
    }

    fn prepare_for_update(&self, _ctx: &Context<'_>, new: &mut ReplicationController, old: &ReplicationController) {
        new.status.clone_from(&old.status);
    }

    fn bumps_generation(&self, controller: &ReplicationController, old: &ReplicationController) -> bool {
        controller.spec != old.spec
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn orphans_by_default(&self) -> bool {
        true
    }

    fn prepare_for_status_update(
        &self,
        _ctx: &Context<'_>,
        controller: &mut ReplicationController,
        old: &ReplicationController,
    ) {
        controller.spec.clone_from(&old.spec);
    }

    fn validate_status_update(&self, controller: &ReplicationController, _old: &ReplicationController) -> Errors {
        let mut errors = Errors::new();
        let status = controller.status.clone().unwrap_or_default();
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

    fn scale(&self, controller: &ReplicationController) -> Option<Scale> {
        let wanted = controller.spec.as_ref()?.replicas;
        Some(workload::scale(wanted, controller.status.as_ref().map(|s| s.replicas), &selector(controller)))
    }

    fn set_scale(&self, controller: &mut ReplicationController, replicas: i32) {
        controller.spec.get_or_insert_default().replicas = Some(replicas);
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, controller: &ReplicationController, now: Timestamp) -> Vec<Value> {
        let spec = controller.spec.clone().unwrap_or_default();
        let status = controller.status.clone().unwrap_or_default();
        let (containers, images) = workload::container_cells(spec.template.as_ref());
        vec![
            cell::name(&controller.metadata),
            json!(spec.replicas.unwrap_or(0)),
            json!(status.replicas),
            json!(status.ready_replicas.unwrap_or(0)),
            cell::age(&controller.metadata, now),
            json!(containers),
            json!(images),
            json!(workload::selector_cell(&selector(controller))),
        ]
    }
}

fn is_empty(labels: Option<&BTreeMap<String, String>>) -> bool {
    labels.is_none_or(BTreeMap::is_empty)
}

/// The plain labels it selects by, in the form of newer kinds.
fn selector(controller: &ReplicationController) -> WireSelector {
    let labels = controller.spec.as_ref().and_then(|s| s.selector.clone());
    WireSelector { match_labels: labels, match_expressions: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_selector_come_from_the_template() {
        let mut made: ReplicationController = serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}}))
        .unwrap();
        ReplicationControllers.default(&mut made);
        assert_eq!(ReplicationControllers.validate(&made), []);
        let made = serde_json::to_value(made).unwrap();
        assert_eq!(made["spec"]["selector"], json!({"app": "a"}));
        assert_eq!(made["metadata"]["labels"], json!({"app": "a"}));
        assert_eq!(made["spec"]["replicas"], 1);
    }

    #[test]
    fn a_selector_and_a_template_are_needed() {
        let errors = ReplicationControllers.validate(&serde_json::from_value(json!({"spec": {}})).unwrap());
        assert_eq!(
            errors.iter().map(Error::to_string).collect::<Vec<_>>(),
            ["spec.selector: Required value", "spec.template: Required value"]
        );
    }
}
