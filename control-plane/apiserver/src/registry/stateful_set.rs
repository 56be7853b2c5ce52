//! StatefulSets.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus, StatefulSetUpdateStrategy};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::name::{self, Validator};
use skep_api::resource::ResourceInfo;

use super::checks::{self, not_negative, or, text};
use super::strategy::{Column, Context, Scale, Strategy};
use super::table_info::info;
use super::{cell, persistent_volume_claim, workload};

/// The strategy of stateful sets.
#[derive(Debug)]
pub(crate) struct StatefulSets;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Ready", "string", "Number of the pod with ready state"),
    Column::AGE,
    Column::wide("Containers", "string", "Names of each container in the template."),
    Column::wide("Images", "string", "Images referenced by each container in the template."),
];

impl Strategy for StatefulSets {
    type Object = StatefulSet;

    fn info(&self) -> &'static ResourceInfo {
        info("apps", "statefulsets")
    }

    fn prefix(&self) -> &'static str {
        "/registry/statefulsets/"
    }

    fn name_validator(&self) -> Validator {
        name::dns1123_label
    }

    fn default(&self, set: &mut StatefulSet) {
        let spec = set.spec.get_or_insert_default();
        workload::set_defaults(&mut spec.template);
        or(&mut spec.pod_management_policy, "OrderedReady");
        let strategy = spec.update_strategy.get_or_insert_default();
        if text(&strategy.type_).is_empty() {
            strategy.type_ = Some("RollingUpdate".to_owned());
            strategy.rolling_update.get_or_insert_default();
        }
        if let Some(rolling) = strategy.rolling_update.as_mut().filter(|_| text(&strategy.type_) == "RollingUpdate") {
            rolling.partition.get_or_insert(0);
            rolling.max_unavailable.get_or_insert(IntOrString::Int(1));
        }
        let retention = spec.persistent_volume_claim_retention_policy.get_or_insert_default();
        or(&mut retention.when_deleted, "Retain");
        or(&mut retention.when_scaled, "Retain");
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(10);
        spec.volume_claim_templates.iter_mut().flatten().for_each(persistent_volume_claim::set_defaults);
    }

    fn prepare_for_create(&self, _ctx: &Context<'_>, set: &mut StatefulSet) {
        set.status = Some(StatefulSetStatus::default());
    }

    fn validate(&self, set: &StatefulSet) -> Errors {
        let Some(spec) = &set.spec else { return vec![Error::required(&Path::new("spec"), "")] };
        let mut errors = Errors::new();
        let path = Path::new("spec");
        match text(&spec.pod_management_policy) {
            "" => errors.push(Error::required(&path.child("podManagementPolicy"), "")),
            "OrderedReady" | "Parallel" => {}
            other => {
                let why = "must be 'OrderedReady' or 'Parallel'";
                errors.push(Error::invalid(&path.child("podManagementPolicy"), other, why));
            }
        }
        if let Some(strategy) = &spec.update_strategy {
            validate_strategy(strategy, &path.child("updateStrategy"), &mut errors);
        }
        if let Some(retention) = &spec.persistent_volume_claim_retention_policy {
            let path = path.child("persistentVolumeClaimRetentionPolicy");
            for (field, value) in [("whenDeleted", &retention.when_deleted), ("whenScaled", &retention.when_scaled)] {
                if !["Retain", "Delete"].contains(&text(value)) {
                    errors.push(Error::not_supported(&path.child(field), text(value), &["Retain", "Delete"]));
                }
            }
        }
        not_negative(&mut errors, &path.child("replicas"), spec.replicas);
        not_negative(&mut errors, &path.child("minReadySeconds"), spec.min_ready_seconds);
        if let Some(ordinals) = &spec.ordinals {
            not_negative(&mut errors, &path.child("ordinals.start"), ordinals.start);
        }
        not_negative(&mut errors, &path.child("revisionHistoryLimit"), spec.revision_history_limit);
        workload::validate_selector("statefulset", &spec.selector, &spec.template, &mut errors);
        workload::validate_template("StatefulSet", &spec.template, &path.child("template"), &mut errors);
        errors
    }

    fn prepare_for_update(&self, _ctx: &Context<'_>, set: &mut StatefulSet, old: &StatefulSet) {
        set.status.clone_from(&old.status);
    }

    fn validate_update(&self, set: &StatefulSet, old: &StatefulSet) -> Errors {
        if fixed(set) == fixed(old) {
            return Errors::new();
        }
        let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                   'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                   'minReadySeconds' are forbidden";
        vec![Error::forbidden(&Path::new("spec"), why)]
    }

    fn bumps_generation(&self, set: &StatefulSet, old: &StatefulSet) -> bool {
        set.spec != old.spec
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn prepare_for_status_update(&self, _ctx: &Context<'_>, set: &mut StatefulSet, old: &StatefulSet) {
        set.spec.clone_from(&old.spec);
    }

    fn validate_status_update(&self, set: &StatefulSet, old: &StatefulSet) -> Errors {
        let mut errors = Errors::new();
        let status = set.status.clone().unwrap_or_default();
        let path = Path::new("status");
        let parts = [
            ("readyReplicas", status.ready_replicas),
            ("currentReplicas", status.current_replicas),
            ("updatedReplicas", status.updated_replicas),
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
            let why = "cannot be greater than status.readyReplicas";
            errors.push(Error::invalid(&path.child("availableReplicas"), status.available_replicas, why));
        }
        not_negative(&mut errors, &path.child("observedGeneration"), status.observed_generation);
        let before = old.status.as_ref().and_then(|s| s.collision_count);
        if status.collision_count < before {
            let why = "cannot be decremented";
            errors.push(Error::invalid(&path.child("collisionCount"), status.collision_count, why));
        }
        errors
    }

    fn scale(&self, set: &StatefulSet) -> Option<Scale> {
        let spec = set.spec.as_ref()?;
        Some(workload::scale(spec.replicas, set.status.as_ref().map(|s| s.replicas), &spec.selector))
    }

    fn set_scale(&self, set: &mut StatefulSet, replicas: i32) {
        set.spec.get_or_insert_default().replicas = Some(replicas);
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, set: &StatefulSet, now: Timestamp) -> Vec<Value> {
        let (no_spec, no_status) = (StatefulSetSpec::default(), StatefulSetStatus::default());
        let (spec, status) = (set.spec.as_ref().unwrap_or(&no_spec), set.status.as_ref().unwrap_or(&no_status));
        let (containers, images) = workload::container_cells(Some(&spec.template));
        vec![
            cell::name(&set.metadata),
            json!(format!("{}/{}", status.ready_replicas.unwrap_or(0), spec.replicas.unwrap_or(0))),
            cell::age(&set.metadata, now),
            json!(containers),
            json!(images),
        ]
    }
}

/// What of the spec may not change.
fn fixed(set: &StatefulSet) -> StatefulSetSpec {
    StatefulSetSpec {
        replicas: None,
        ordinals: None,
        template: Default::default(),
        update_strategy: None,
        revision_history_limit: None,
        persistent_volume_claim_retention_policy: None,
        min_ready_seconds: None,
        ..set.spec.clone().unwrap_or_default()
    }
}

fn validate_strategy(strategy: &StatefulSetUpdateStrategy, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("rollingUpdate");
    match (text(&strategy.type_), &strategy.rolling_update) {
        ("", _) => errors.push(Error::required(path, "")),
        ("OnDelete", None) | ("RollingUpdate", None) => {}
        ("OnDelete", Some(rolling)) => {
            errors.push(Error::invalid(&at, rolling, "only allowed for updateStrategy 'RollingUpdate'"));
        }
        ("RollingUpdate", Some(rolling)) => {
            not_negative(errors, &at.child("partition"), rolling.partition);
            if let Some(unavailable) = &rolling.max_unavailable {
                let path = at.child("maxUnavailable");
                checks::amount(errors, &path, unavailable);
                if checks::amount_number(unavailable) == 0 {
                    errors.push(Error::invalid(&path, unavailable, "cannot be 0"));
                }
                checks::not_more_than_all(errors, &path, unavailable);
            }
        }
        (other, _) => errors.push(Error::invalid(path, other, "must be 'RollingUpdate' or 'OnDelete'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> StatefulSet {
        let mut set = serde_json::from_value(json!({"metadata": {"name": "db"}, "spec": {
            "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}}}]}}))
        .unwrap();
        StatefulSets.default(&mut set);
        set
    }

    #[test]
    fn defaults_are_ordered_and_retain_volumes() {
        let made = serde_json::to_value(set()).unwrap();
        assert_eq!(made["spec"]["podManagementPolicy"], "OrderedReady");
        let want = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": 1}});
        assert_eq!(made["spec"]["updateStrategy"], want);
        let want = json!({"whenDeleted": "Retain", "whenScaled": "Retain"});
        assert_eq!(made["spec"]["persistentVolumeClaimRetentionPolicy"], want);
        assert_eq!(made["spec"]["volumeClaimTemplates"][0]["spec"]["volumeMode"], "Filesystem");
        assert_eq!(StatefulSets.validate(&set()), []);
    }

    #[test]
    fn most_of_the_spec_stays() {
        let mut new = set();
        new.spec.as_mut().unwrap().replicas = Some(3);
        assert_eq!(StatefulSets.validate_update(&new, &set()), []);
        new.spec.as_mut().unwrap().service_name = Some("other".to_owned());
        assert!(StatefulSets.validate_update(&new, &set())[0].to_string().starts_with("spec: Forbidden: updates to"));
    }
}
