//! Deployments.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStatus, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;

use super::checks::{amount, amount_number, not_negative, text};
use super::strategy::{Column, Context, Scale, Strategy, age};
use super::table_info::info;
use super::workload;

/// The strategy of deployments.
#[derive(Debug)]
pub(crate) struct Deployments;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Ready", "string", "Number of the pod with ready state"),
    Column::new(
        "Up-to-date",
        "string",
        "Total number of non-terminating pods targeted by this deployment that have the desired template spec.",
    ),
    Column::new(
        "Available",
        "string",
        "Total number of available non-terminating pods (ready for at least minReadySeconds) targeted by this deployment.",
    ),
    Column::AGE,
    Column::wide("Containers", "string", "Names of each container in the template."),
    Column::wide("Images", "string", "Images referenced by each container in the template."),
    Column::wide(
        "Selector",
        "string",
        "Label selector for pods. Existing ReplicaSets whose pods are selected by this will be the ones affected by this \
         deployment. It must match the pod template's labels.",
    ),
];

impl Strategy for Deployments {
    type Object = Deployment;

    fn info(&self) -> &'static ResourceInfo {
        info("apps", "deployments")
    }

    fn prefix(&self) -> &'static str {
        "/registry/deployments/"
    }

    fn default(&self, deployment: &mut Deployment) {
        let spec = deployment.spec.get_or_insert_default();
        workload::set_defaults(&mut spec.template);
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(10);
        spec.progress_deadline_seconds.get_or_insert(600);
        let strategy = spec.strategy.get_or_insert_default();
        if text(&strategy.type_).is_empty() {
            strategy.type_ = Some("RollingUpdate".to_owned());
        }
        if text(&strategy.type_) == "RollingUpdate" {
            let rolling = strategy.rolling_update.get_or_insert_with(RollingUpdateDeployment::default);
            let quarter = || IntOrString::String("25%".to_owned());
            rolling.max_unavailable.get_or_insert_with(quarter);
            rolling.max_surge.get_or_insert_with(quarter);
        }
    }

    fn prepare_for_create(&self, _ctx: &Context<'_>, deployment: &mut Deployment) {
        deployment.status = Some(DeploymentStatus::default());
    }

    fn validate(&self, deployment: &Deployment) -> Errors {
        let Some(spec) = &deployment.spec else { return vec![Error::required(&Path::new("spec"), "")] };
        let mut errors = workload::validate(spec.replicas, spec.min_ready_seconds, &spec.selector, &spec.template);
        let path = Path::new("spec");
        if let Some(strategy) = &spec.strategy {
            validate_strategy(strategy, &path.child("strategy"), &mut errors);
        }
        not_negative(&mut errors, &path.child("revisionHistoryLimit"), spec.revision_history_limit);
        let at = path.child("progressDeadlineSeconds");
        not_negative(&mut errors, &at, spec.progress_deadline_seconds);
        if let Some(deadline) = spec.progress_deadline_seconds
            && deadline <= spec.min_ready_seconds.unwrap_or(0)
        {
            errors.push(Error::invalid(&at, deadline, "must be greater than minReadySeconds"));
        }
        errors
    }

    fn prepare_for_update(&self, _ctx: &Context<'_>, deployment: &mut Deployment, old: &Deployment) {
        deployment.status.clone_from(&old.status);
    }

    fn validate_update(&self, deployment: &Deployment, old: &Deployment) -> Errors {
        match (&deployment.spec, &old.spec) {
            (Some(new), Some(old)) => workload::validate_same_selector(&new.selector, &old.selector),
            _ => Errors::new(),
        }
    }

    fn bumps_generation(&self, deployment: &Deployment, old: &Deployment) -> bool {
        deployment.spec != old.spec || deployment.metadata.annotations != old.metadata.annotations
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn prepare_for_status_update(&self, _ctx: &Context<'_>, deployment: &mut Deployment, old: &Deployment) {
        deployment.spec.clone_from(&old.spec);
        deployment.metadata.labels.clone_from(&old.metadata.labels);
    }

    fn validate_status_update(&self, deployment: &Deployment, old: &Deployment) -> Errors {
        let mut errors = Errors::new();
        let empty = DeploymentStatus::default();
        let status = deployment.status.as_ref().unwrap_or(&empty);
        let path = Path::new("status");
        let numbers = [
            ("replicas", status.replicas),
            ("updatedReplicas", status.updated_replicas),
            ("readyReplicas", status.ready_replicas),
            ("availableReplicas", status.available_replicas),
            ("unavailableReplicas", status.unavailable_replicas),
            ("collisionCount", status.collision_count),
        ];
        for (field, number) in numbers {
            not_negative(&mut errors, &path.child(field), number);
        }
        not_negative(&mut errors, &path.child("observedGeneration"), status.observed_generation);
        let total = status.replicas.unwrap_or(0);
        let parts = [
            ("updatedReplicas", status.updated_replicas),
            ("readyReplicas", status.ready_replicas),
            ("availableReplicas", status.available_replicas),
        ];
        for (field, number) in parts {
            if let Some(number) = number.filter(|n| *n > total) {
                errors.push(Error::invalid(&path.child(field), number, "cannot be greater than status.replicas"));
            }
        }
        if status.available_replicas.unwrap_or(0) > status.ready_replicas.unwrap_or(0) {
            let why = "cannot be greater than readyReplicas";
            errors.push(Error::invalid(&path.child("availableReplicas"), status.available_replicas, why));
        }
        let collisions = |d: &Deployment| d.status.as_ref().and_then(|s| s.collision_count);
        if collisions(deployment) < collisions(old) {
            let why = "cannot be decremented";
            errors.push(Error::invalid(&path.child("collisionCount"), collisions(deployment), why));
        }
        errors
    }

    fn scale(&self, deployment: &Deployment) -> Option<Scale> {
        let spec = deployment.spec.as_ref()?;
        let have = deployment.status.as_ref().and_then(|s| s.replicas);
        Some(workload::scale(spec.replicas, have, &spec.selector))
    }

    fn set_scale(&self, deployment: &mut Deployment, replicas: i32) {
        deployment.spec.get_or_insert_default().replicas = Some(replicas);
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, deployment: &Deployment, now: Timestamp) -> Vec<Value> {
        let (no_spec, no_status) = (DeploymentSpec::default(), DeploymentStatus::default());
        let spec = deployment.spec.as_ref().unwrap_or(&no_spec);
        let status = deployment.status.as_ref().unwrap_or(&no_status);
        let (containers, images) = workload::container_cells(Some(&spec.template));
        vec![
            json!(text(&deployment.metadata.name)),
            json!(format!("{}/{}", status.ready_replicas.unwrap_or(0), spec.replicas.unwrap_or(0))),
            json!(status.updated_replicas.unwrap_or(0)),
            json!(status.available_replicas.unwrap_or(0)),
            json!(age(deployment.metadata.creation_timestamp.as_ref().map(|t| t.0), now)),
            json!(containers),
            json!(images),
            json!(workload::selector_cell(&spec.selector)),
        ]
    }
}

fn validate_strategy(strategy: &DeploymentStrategy, path: &Path<'_>, errors: &mut Errors) {
    match text(&strategy.type_) {
        "Recreate" => {
            if strategy.rolling_update.is_some() {
                let why = "may not be specified when strategy `type` is 'Recreate'";
                errors.push(Error::forbidden(&path.child("rollingUpdate"), why));
            }
        }
        "RollingUpdate" => match &strategy.rolling_update {
            Some(rolling) => validate_rolling(rolling, &path.child("rollingUpdate"), errors),
            None => {
                errors.push(Error::required(&path.child("rollingUpdate"), "this should be defaulted and never be nil"))
            }
        },
        other => {
            errors.push(Error::not_supported(&path.child("type"), other, &["Recreate", "RollingUpdate"]));
        }
    }
}

fn validate_rolling(rolling: &RollingUpdateDeployment, path: &Path<'_>, errors: &mut Errors) {
    let unavailable = rolling.max_unavailable.clone().unwrap_or_default();
    let surge = rolling.max_surge.clone().unwrap_or_default();
    let at = path.child("maxUnavailable");
    amount(errors, &at, &unavailable);
    amount(errors, &path.child("maxSurge"), &surge);
    if amount_number(&unavailable) == 0 && amount_number(&surge) == 0 {
        errors.push(Error::invalid(&at, &unavailable, "may not be 0 when `maxSurge` is 0"));
    }
    if matches!(unavailable, IntOrString::String(_)) && amount_number(&unavailable) > 100 {
        errors.push(Error::invalid(&at, &unavailable, "must not be greater than 100%"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(spec: Value) -> Deployment {
        let mut object = serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec})).unwrap();
        Deployments.default(&mut object);
        object
    }

    fn good() -> Value {
        json!({"selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}})
    }

    fn problems(spec: Value) -> Vec<String> {
        Deployments.validate(&deployment(spec)).iter().map(Error::to_string).collect()
    }

    #[test]
    fn defaults_are_upstreams() {
        let spec = serde_json::to_value(deployment(good()).spec).unwrap();
        assert_eq!(spec["replicas"], 1);
        assert_eq!(spec["revisionHistoryLimit"], 10);
        assert_eq!(spec["progressDeadlineSeconds"], 600);
        assert_eq!(
            spec["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
        );
        assert_eq!(spec["template"]["spec"]["restartPolicy"], "Always");
        assert_eq!(spec["template"]["spec"]["enableServiceLinks"], Value::Null);
        assert_eq!(problems(good()), [""; 0]);
    }

    #[test]
    fn selector_and_template_must_fit() {
        let mut spec = good();
        spec["selector"] = json!({"matchLabels": {"app": "other"}});
        assert_eq!(
            problems(spec),
            [
                "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`"
            ]
        );
        let mut spec = good();
        spec.as_object_mut().unwrap().remove("selector");
        assert_eq!(
            problems(spec),
            [
                "spec.selector: Required value",
                "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`"
            ]
        );
    }

    #[test]
    fn strategies_make_progress() {
        for (strategy, want) in [
            (
                json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}),
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
            ),
            (
                json!({"type": "Recreate", "rollingUpdate": {}}),
                "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
            ),
            (
                json!({"type": "Slow"}),
                "spec.strategy.type: Unsupported value: \"Slow\": supported values: \"Recreate\", \"RollingUpdate\"",
            ),
        ] {
            let mut spec = good();
            spec["strategy"] = strategy;
            assert_eq!(problems(spec), [want]);
        }
        let mut spec = good();
        spec["template"]["spec"]["restartPolicy"] = json!("Never");
        assert_eq!(
            problems(spec),
            ["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""]
        );
    }

    #[test]
    fn the_selector_stays() {
        let old = deployment(good());
        let mut new = old.clone();
        new.spec.as_mut().unwrap().selector.match_labels = Some([("x".to_owned(), "y".to_owned())].into());
        assert_eq!(
            Deployments.validate_update(&new, &old)[0].to_string(),
            "spec.selector: Invalid value: {\"matchLabels\":{\"x\":\"y\"}}: field is immutable"
        );
    }

    #[test]
    fn scale_shows_selector_and_replicas() {
        let mut object = deployment(good());
        Deployments.set_scale(&mut object, 5);
        let scale = serde_json::to_value(Deployments.scale(&object)).unwrap();
        assert_eq!(scale["spec"], json!({"replicas": 5}));
        assert_eq!(scale["status"], json!({"replicas": 0, "selector": "app=web"}));
    }

    #[test]
    fn rows_show_what_is_ready() {
        let row = Deployments.row(&deployment(good()), Timestamp::UNIX_EPOCH);
        assert_eq!(row[1..4], [json!("0/1"), json!(0), json!(0)]);
        assert_eq!(row[5..], [json!("c"), json!("i:1"), json!("app=web")]);
    }
}
