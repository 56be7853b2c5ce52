//! DaemonSets.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus, DaemonSetUpdateStrategy};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;

use super::checks::{self, amount_number, labels_text, not_negative, text};
use super::strategy::{Column, Context, Strategy};
use super::table_info::info;
use super::{cell, workload};

/// The strategy of daemon sets.
#[derive(Debug)]
pub(crate) struct DaemonSets;

/// Counts changes of the template, as `apps/v1` shows it.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new(
        "Desired",
        "integer",
        "The total number of nodes that should be running the daemon pod (including nodes correctly running the daemon \
         pod).",
    ),
    Column::new(
        "Current",
        "integer",
        "The number of nodes that are running at least 1 daemon pod and are supposed to run the daemon pod.",
    ),
    Column::new(
        "Ready",
        "integer",
        "numberReady is the number of nodes that should be running the daemon pod and have one or more of the daemon pod \
         running with a Ready Condition.",
    ),
    Column::new("Up-to-date", "integer", "The total number of nodes that are running updated daemon pod"),
    Column::new(
        "Available",
        "integer",
        "The number of nodes that should be running the daemon pod and have one or more of the daemon pod running and \
         available (ready for at least spec.minReadySeconds)",
    ),
    Column::new(
        "Node Selector",
        "string",
        "NodeSelector is a selector which must be true for the pod to fit on a node. Selector which must match a node's \
         labels for the pod to be scheduled on that node.",
    ),
    Column::AGE,
    Column::wide("Containers", "string", "Names of each container in the template."),
    Column::wide("Images", "string", "Images referenced by each container in the template."),
    Column::wide(
        "Selector",
        "string",
        "A label query over pods that are managed by the daemon set. Must match in order to be controlled. It must match \
         the pod template's labels.",
    ),
];

impl Strategy for DaemonSets {
    type Object = DaemonSet;

    fn info(&self) -> &'static ResourceInfo {
        info("apps", "daemonsets")
    }

    fn prefix(&self) -> &'static str {
        "/registry/daemonsets/"
    }

    fn default(&self, set: &mut DaemonSet) {
        let spec = set.spec.get_or_insert_default();
        workload::set_defaults(&mut spec.template);
        spec.revision_history_limit.get_or_insert(10);
        let strategy = spec.update_strategy.get_or_insert_default();
        checks::or(&mut strategy.type_, "RollingUpdate");
        if text(&strategy.type_) == "RollingUpdate" {
            let rolling = strategy.rolling_update.get_or_insert_default();
            rolling.max_unavailable.get_or_insert(IntOrString::Int(1));
            rolling.max_surge.get_or_insert(IntOrString::Int(0));
        }
    }

    fn prepare_for_create(&self, _ctx: &Context<'_>, set: &mut DaemonSet) {
        set.status = Some(DaemonSetStatus::default());
        let generation = template_generation(&set.metadata).max(1);
        set_template_generation(&mut set.metadata, generation);
    }

    fn validate(&self, set: &DaemonSet) -> Errors {
        let Some(spec) = &set.spec else { return vec![Error::required(&Path::new("spec"), "")] };
        let mut errors = Errors::new();
        let path = Path::new("spec");
        workload::validate_selector("daemonset", &spec.selector, &spec.template, &mut errors);
        workload::validate_template("DaemonSet", &spec.template, &path.child("template"), &mut errors);
        not_negative(&mut errors, &path.child("minReadySeconds"), spec.min_ready_seconds);
        if let Some(strategy) = &spec.update_strategy {
            validate_strategy(strategy, &path.child("updateStrategy"), &mut errors);
        }
        not_negative(&mut errors, &path.child("revisionHistoryLimit"), spec.revision_history_limit);
        errors
    }

    fn prepare_for_update(&self, _ctx: &Context<'_>, set: &mut DaemonSet, old: &DaemonSet) {
        set.status.clone_from(&old.status);
        let template = |set: &DaemonSet| set.spec.as_ref().map(|s| s.template.clone());
        let generation = template_generation(&old.metadata) + i64::from(template(set) != template(old));
        set_template_generation(&mut set.metadata, generation);
    }

    fn validate_update(&self, set: &DaemonSet, old: &DaemonSet) -> Errors {
        match (&set.spec, &old.spec) {
            (Some(new), Some(old)) => workload::validate_same_selector(&new.selector, &old.selector),
            _ => Errors::new(),
        }
    }

    fn bumps_generation(&self, set: &DaemonSet, old: &DaemonSet) -> bool {
        set.spec != old.spec
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn prepare_for_status_update(&self, _ctx: &Context<'_>, set: &mut DaemonSet, old: &DaemonSet) {
        set.spec.clone_from(&old.spec);
    }

    fn validate_status_update(&self, set: &DaemonSet, old: &DaemonSet) -> Errors {
        let mut errors = Errors::new();
        let empty = DaemonSetStatus::default();
        let status = set.status.as_ref().unwrap_or(&empty);
        let path = Path::new("status");
        let numbers = [
            ("currentNumberScheduled", Some(status.current_number_scheduled)),
            ("numberMisscheduled", Some(status.number_misscheduled)),
            ("desiredNumberScheduled", Some(status.desired_number_scheduled)),
            ("numberReady", Some(status.number_ready)),
            ("updatedNumberScheduled", status.updated_number_scheduled),
            ("numberAvailable", status.number_available),
            ("numberUnavailable", status.number_unavailable),
            ("collisionCount", status.collision_count),
        ];
        for (field, number) in numbers {
            not_negative(&mut errors, &path.child(field), number);
        }
        not_negative(&mut errors, &path.child("observedGeneration"), status.observed_generation);
        let collisions = |set: &DaemonSet| set.status.as_ref().and_then(|s| s.collision_count);
        if collisions(set) < collisions(old) {
            let why = "cannot be decremented";
            errors.push(Error::invalid(&path.child("collisionCount"), collisions(set), why));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, set: &DaemonSet, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (set.spec.clone().unwrap_or_default(), set.status.clone().unwrap_or_default());
        let (containers, images) = workload::container_cells(Some(&spec.template));
        vec![
            cell::name(&set.metadata),
            json!(status.desired_number_scheduled),
            json!(status.current_number_scheduled),
            json!(status.number_ready),
            json!(status.updated_number_scheduled.unwrap_or(0)),
            json!(status.number_available.unwrap_or(0)),
            json!(labels_text(spec.template.spec.as_ref().and_then(|s| s.node_selector.as_ref()))),
            cell::age(&set.metadata, now),
            json!(containers),
            json!(images),
            json!(workload::selector_cell(&spec.selector)),
        ]
    }
}

fn template_generation(meta: &ObjectMeta) -> i64 {
    let annotation = meta.annotations.as_ref().and_then(|a| a.get(TEMPLATE_GENERATION));
    annotation.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn set_template_generation(meta: &mut ObjectMeta, generation: i64) {
    meta.annotations.get_or_insert_default().insert(TEMPLATE_GENERATION.to_owned(), generation.to_string());
}

fn validate_strategy(strategy: &DaemonSetUpdateStrategy, path: &Path<'_>, errors: &mut Errors) {
    match text(&strategy.type_) {
        "OnDelete" => {}
        "RollingUpdate" => {
            let at = path.child("rollingUpdate");
            let Some(rolling) = &strategy.rolling_update else {
                errors.push(Error::required(&at, ""));
                return;
            };
            let (surge_path, unavailable_path) = (at.child("maxSurge"), at.child("maxUnavailable"));
            let unavailable = rolling.max_unavailable.clone().unwrap_or_default();
            let surge = rolling.max_surge.clone().unwrap_or_default();
            checks::amount(errors, &unavailable_path, &unavailable);
            checks::amount(errors, &surge_path, &surge);
            checks::not_more_than_all(errors, &unavailable_path, &unavailable);
            checks::not_more_than_all(errors, &surge_path, &surge);
            match (amount_number(&unavailable) != 0, amount_number(&surge) != 0) {
                (true, true) => {
                    let why = "may not be set when maxUnavailable is non-zero";
                    errors.push(Error::invalid(&surge_path, &surge, why));
                }
                (false, false) => {
                    errors.push(Error::required(&unavailable_path, "cannot be 0 when maxSurge is 0"));
                }
                _ => {}
            }
        }
        other => errors.push(Error::not_supported(&path.child("type"), other, &["RollingUpdate", "OnDelete"])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::UserInfo;

    fn set(spec: Value) -> DaemonSet {
        let mut set = serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": spec})).unwrap();
        DaemonSets.default(&mut set);
        set
    }

    fn good() -> DaemonSet {
        set(json!({"selector": {"matchLabels": {"app": "a"}}, "template": {"metadata": {"labels": {"app": "a"}},
            "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}))
    }

    #[test]
    fn one_pod_at_a_time_is_replaced_by_default() {
        let made = serde_json::to_value(good()).unwrap();
        let want = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}});
        assert_eq!(made["spec"]["updateStrategy"], want);
        assert_eq!(DaemonSets.validate(&good()), []);
    }

    #[test]
    fn the_template_is_counted() {
        let user = UserInfo::master("test");
        let ctx = Context { user: &user, namespace: None, now: Timestamp::UNIX_EPOCH, dry_run: false };
        let mut old = good();
        DaemonSets.prepare_for_create(&ctx, &mut old);
        assert_eq!(template_generation(&old.metadata), 1);
        let mut new = old.clone();
        new.spec.as_mut().unwrap().min_ready_seconds = Some(1);
        DaemonSets.prepare_for_update(&ctx, &mut new, &old);
        assert_eq!(template_generation(&new.metadata), 1);
        new.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers[0].image = Some("i:2".to_owned());
        DaemonSets.prepare_for_update(&ctx, &mut new, &old);
        assert_eq!(template_generation(&new.metadata), 2);
    }

    #[test]
    fn an_empty_selector_is_refused() {
        let bad = set(json!({"selector": {}, "template": {"spec": {"containers": [{"name": "c", "image": "i:1"}]}}}));
        assert_eq!(
            DaemonSets.validate(&bad)[0].to_string(),
            "spec.selector: Invalid value: {}: empty selector is invalid for daemonset"
        );
    }
}
