//! Jobs.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as WireSelector;
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::meta;
use skep_api::resource::ResourceInfo;
use skep_storage::SelectableField;

use crate::registry::checks::{immutable, not_negative, text};
use crate::registry::strategy::{Column, Context, Strategy, human_duration};
use crate::registry::table_info::info;
use crate::registry::{cell, pod_template, workload};

/// The strategy of jobs.
#[derive(Debug)]
pub(crate) struct Jobs;

const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
const LEGACY_CONTROLLER_UID: &str = "controller-uid";
const LEGACY_JOB_NAME: &str = "job-name";
const MAX_PARALLEL_INDEXES: i32 = 100_000;
const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Status", "string", "Status of the job."),
    Column::new(
        "Completions",
        "string",
        "The number of pods which reached phase Succeeded. The value increases monotonically for a given spec.",
    ),
    Column::new("Duration", "string", "Time required to complete the job."),
    Column::AGE,
    Column::wide("Containers", "string", "Names of each container in the template."),
    Column::wide("Images", "string", "Images referenced by each container in the template."),
    Column::wide("Selector", "string", "A label query over pods that should match the pod count."),
];

impl Strategy for Jobs {
    type Object = Job;

    fn info(&self) -> &'static ResourceInfo {
        info("batch", "jobs")
    }

    fn prefix(&self) -> &'static str {
        "/registry/jobs/"
    }

    fn selectable_fields(&self) -> Vec<SelectableField> {
        let path = vec!["status".into(), "succeeded".into()];
        vec![SelectableField::at("status.successful", path).or_default("0")]
    }

    fn default(&self, job: &mut Job) {
        let spec = job.spec.get_or_insert_default();
        workload::set_defaults(&mut spec.template);
        if spec.completions.is_none() && spec.parallelism.is_none() {
            spec.completions = Some(1);
        }
        spec.parallelism.get_or_insert(1);
        let retries = if spec.backoff_limit_per_index.is_some() { i32::MAX } else { 6 };
        spec.backoff_limit.get_or_insert(retries);
        spec.completion_mode.get_or_insert_with(|| "NonIndexed".to_owned());
        spec.suspend.get_or_insert(false);
        spec.manual_selector.get_or_insert(false);
        for pattern in spec
            .pod_failure_policy
            .iter_mut()
            .flat_map(|p| &mut p.rules)
            .flat_map(|r| r.on_pod_conditions.iter_mut().flatten())
        {
            crate::registry::checks::or(&mut pattern.status, "True");
        }
        let replaced = if spec.pod_failure_policy.is_some() { "Failed" } else { "TerminatingOrFailed" };
        spec.pod_replacement_policy.get_or_insert_with(|| replaced.to_owned());
        if job.metadata.labels.as_ref().is_none_or(|labels| labels.is_empty()) {
            let labels = spec.template.metadata.as_ref().and_then(|m| m.labels.clone());
            job.metadata.labels = labels.filter(|labels| !labels.is_empty());
        }
    }

    fn prepare_for_create(&self, _ctx: &Context<'_>, job: &mut Job) {
        job.status = Some(JobStatus::default());
        let (name, uid) = (job.metadata.name.clone().unwrap_or_default(), job.metadata.uid.clone().unwrap_or_default());
        let spec = job.spec.get_or_insert_default();
        if spec.manual_selector != Some(true) {
            generate_selector(spec, &name, &uid);
        }
    }

    fn validate(&self, job: &Job) -> Errors {
        let empty = JobSpec::default();
        let spec = job.spec.as_ref().unwrap_or(&empty);
        let mut errors = Errors::new();
        validate_generated(job, spec, &mut errors);
        let path = Path::new("spec");
        errors.extend(validate_spec(spec, &path));
        let selector = spec.selector.clone().unwrap_or_default();
        if spec.selector.is_none() {
            errors.push(Error::required(&path.child("selector"), ""));
        } else {
            errors.extend(meta::validate_label_selector(&selector, &path.child("selector")));
        }
        workload::validate_match(&selector, &spec.template, &path.child("template"), &mut errors);
        errors
    }

    fn prepare_for_update(&self, _ctx: &Context<'_>, job: &mut Job, old: &Job) {
        job.status.clone_from(&old.status);
    }

    fn validate_update(&self, job: &Job, old: &Job) -> Errors {
        let mut errors = Errors::new();
        let empty = JobSpec::default();
        let (new, before) = (job.spec.as_ref().unwrap_or(&empty), old.spec.as_ref().unwrap_or(&empty));
        let path = Path::new("spec");
        if new.completions != before.completions {
            let at = path.child("completions");
            if text(&new.completion_mode) != "Indexed" {
                immutable(&mut errors, &at, &new.completions, &before.completions);
            } else if new.completions != new.parallelism || before.completions != before.parallelism {
                let why = "can only be modified in tandem with spec.parallelism";
                errors.push(Error::invalid(&at, new.completions, why));
            }
        }
        immutable(&mut errors, &path.child("selector"), &new.selector, &before.selector);
        let suspended = before.suspend == Some(true) && old.status.as_ref().is_none_or(|s| s.start_time.is_none());
        let template =
            if suspended { with_schedule_of(&before.template, &new.template) } else { before.template.clone() };
        immutable(&mut errors, &path.child("template"), &new.template, &template);
        immutable(&mut errors, &path.child("completionMode"), &new.completion_mode, &before.completion_mode);
        immutable(&mut errors, &path.child("podFailurePolicy"), &new.pod_failure_policy, &before.pod_failure_policy);
        let at = path.child("backoffLimitPerIndex");
        immutable(&mut errors, &at, &new.backoff_limit_per_index, &before.backoff_limit_per_index);
        immutable(&mut errors, &path.child("managedBy"), &new.managed_by, &before.managed_by);
        immutable(&mut errors, &path.child("successPolicy"), &new.success_policy, &before.success_policy);
        errors
    }

    fn bumps_generation(&self, job: &Job, old: &Job) -> bool {
        job.spec != old.spec
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn orphans_by_default(&self) -> bool {
        true
    }

    fn prepare_for_status_update(&self, _ctx: &Context<'_>, job: &mut Job, old: &Job) {
        job.spec.clone_from(&old.spec);
    }

    fn validate_status_update(&self, job: &Job, _old: &Job) -> Errors {
        let mut errors = Errors::new();
        let status = job.status.clone().unwrap_or_default();
        let path = Path::new("status");
        let numbers = [
            ("active", status.active),
            ("succeeded", status.succeeded),
            ("failed", status.failed),
            ("ready", status.ready),
            ("terminating", status.terminating),
        ];
        for (field, number) in numbers {
            not_negative(&mut errors, &path.child(field), number);
        }
        let is = |kind: &str| status.conditions.iter().flatten().any(|c| c.type_ == kind && c.status == "True");
        if is("Complete") && is("Failed") {
            let why = "cannot set Complete=True and Failed=true conditions";
            errors.push(Error::invalid(&path.child("conditions"), &status.conditions, why));
        }
        if status.completion_time.is_some() && !is("Complete") {
            let why = "cannot set completionTime when there is no Complete=True condition";
            errors.push(Error::invalid(&path.child("completionTime"), &status.completion_time, why));
        }
        if is("Complete") && status.completion_time.is_none() {
            errors.push(Error::required(&path.child("completionTime"), "completionTime is required for Complete jobs"));
        }
        if let (Some(start), Some(end)) = (&status.start_time, &status.completion_time)
            && end.0 < start.0
        {
            let why = "completionTime cannot be set before startTime";
            errors.push(Error::invalid(&path.child("completionTime"), end, why));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, job: &Job, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (job.spec.clone().unwrap_or_default(), job.status.clone().unwrap_or_default());
        let (containers, images) = workload::container_cells(Some(&spec.template));
        let succeeded = status.succeeded.unwrap_or(0);
        let completions = match (spec.completions, spec.parallelism.unwrap_or(0)) {
            (Some(completions), _) => format!("{succeeded}/{completions}"),
            (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
            (None, _) => format!("{succeeded}/1"),
        };
        let duration = status.start_time.as_ref().map(|start| {
            let end = status.completion_time.as_ref().map_or(now, |end| end.0);
            human_duration(end.as_second() - start.0.as_second())
        });
        vec![
            cell::name(&job.metadata),
            json!(status_cell(job, &status)),
            json!(completions),
            json!(duration.unwrap_or_default()),
            cell::age(&job.metadata, now),
            json!(containers),
            json!(images),
            json!(workload::selector_cell(&spec.selector.unwrap_or_default())),
        ]
    }
}

fn status_cell(job: &Job, status: &JobStatus) -> &'static str {
    let is = |kind: &str| status.conditions.iter().flatten().any(|c| c.type_ == kind && c.status == "True");
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if job.metadata.deletion_timestamp.is_some() {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

/// Labels the pods with the job's name and uid, and selects them by the uid. What the user said stays, for validation
/// to compare.
fn generate_selector(spec: &mut JobSpec, name: &str, uid: &str) {
    let labels = spec.template.metadata.get_or_insert_default().labels.get_or_insert_default();
    for (label, value) in
        [(JOB_NAME, name), (LEGACY_JOB_NAME, name), (CONTROLLER_UID, uid), (LEGACY_CONTROLLER_UID, uid)]
    {
        labels.entry(label.to_owned()).or_insert_with(|| value.to_owned());
    }
    let selector = spec.selector.get_or_insert_with(WireSelector::default);
    selector.match_labels.get_or_insert_default().entry(CONTROLLER_UID.to_owned()).or_insert_with(|| uid.to_owned());
}

/// Labels that were generated, or should have been, lead to this job.
fn validate_generated(job: &Job, spec: &JobSpec, errors: &mut Errors) {
    if spec.manual_selector == Some(true) {
        return;
    }
    let (name, uid) = (text(&job.metadata.name), text(&job.metadata.uid));
    let path = Path::new("spec.template.metadata.labels");
    let labels = spec.template.metadata.as_ref().and_then(|m| m.labels.as_ref());
    for (label, want) in
        [(LEGACY_CONTROLLER_UID, uid), (LEGACY_JOB_NAME, name), (CONTROLLER_UID, uid), (JOB_NAME, name)]
    {
        match labels.and_then(|l| l.get(label)) {
            Some(value) if value == want => {}
            Some(_) => errors.push(Error::invalid(&path, labels, format!("must be {want:?}"))),
            None => errors.push(Error::required(&path, format!("must be {want:?}"))),
        }
    }
    let selected = spec.selector.as_ref().and_then(|s| s.match_labels.as_ref());
    let by = |label: &str| selected.and_then(|l| l.get(label)).is_some_and(|value| value == uid);
    if !by(CONTROLLER_UID) && !by(LEGACY_CONTROLLER_UID) {
        errors.push(Error::invalid(&Path::new("spec.selector"), &spec.selector, "`selector` not auto-generated"));
    }
}

/// The old template with what the new one says about scheduling, which may change while a job is suspended.
fn with_schedule_of(old: &PodTemplateSpec, new: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = old.clone();
    if let (Some(to), Some(from)) = (&mut template.spec, &new.spec) {
        to.affinity.clone_from(&from.affinity);
        to.node_selector.clone_from(&from.node_selector);
        to.tolerations.clone_from(&from.tolerations);
        to.scheduling_gates.clone_from(&from.scheduling_gates);
        if to.containers.len() == from.containers.len() {
            // Since v1.35 resources of a suspended job may change, too.
            for (to, from) in to.containers.iter_mut().zip(&from.containers) {
                to.resources.clone_from(&from.resources);
            }
        }
    }
    let from = new.metadata.clone().unwrap_or_default();
    let to = template.metadata.get_or_insert_default();
    to.annotations = from.annotations;
    to.labels = from.labels;
    template
}

/// Checks a job's spec, selector aside: that of a cron job's template is generated later.
pub(super) fn validate_spec(spec: &JobSpec, path: &Path<'_>) -> Errors {
    let mut errors = Errors::new();
    let numbers =
        [("parallelism", spec.parallelism), ("completions", spec.completions), ("backoffLimit", spec.backoff_limit)];
    for (field, number) in numbers {
        not_negative(&mut errors, &path.child(field), number);
    }
    not_negative(&mut errors, &path.child("activeDeadlineSeconds"), spec.active_deadline_seconds);
    not_negative(&mut errors, &path.child("ttlSecondsAfterFinished"), spec.ttl_seconds_after_finished);
    not_negative(&mut errors, &path.child("backoffLimitPerIndex"), spec.backoff_limit_per_index);
    not_negative(&mut errors, &path.child("maxFailedIndexes"), spec.max_failed_indexes);
    validate_indexes(spec, path, &mut errors);
    if let Some(manager) = spec.managed_by.as_deref()
        && (!manager.contains('/') || !skep_api::name::qualified_name(manager).is_empty())
    {
        let why = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        errors.push(Error::invalid(&path.child("managedBy"), manager, why));
    }
    let replacement = text(&spec.pod_replacement_policy);
    let failure_policy = spec.pod_failure_policy.as_ref();
    let supported: &[&str] = if failure_policy.is_some() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    if !replacement.is_empty() && !supported.contains(&replacement) {
        errors.push(Error::not_supported(&path.child("podReplacementPolicy"), replacement, supported));
    }
    let rules = path.child("podFailurePolicy.rules");
    for (i, rule) in failure_policy.iter().flat_map(|p| &p.rules).enumerate() {
        let path = rules.index(i);
        if rule.action.is_empty() {
            errors.push(Error::required(&path.child("action"), format!("valid values: {ACTIONS:?}")));
        } else if !ACTIONS.contains(&rule.action.as_str()) {
            errors.push(Error::not_supported(&path.child("action"), &rule.action, &ACTIONS));
        }
        let conditions = rule.on_pod_conditions.as_ref().is_some_and(|c| !c.is_empty());
        match (&rule.on_exit_codes, conditions) {
            (Some(_), true) => {
                let why = "specifying both OnExitCodes and OnPodConditions is not supported";
                errors.push(Error::invalid(&path, rule, why));
            }
            (None, false) => {
                let why = "specifying one of OnExitCodes and OnPodConditions is required";
                errors.push(Error::invalid(&path, rule, why));
            }
            (Some(codes), false) => {
                let at = path.child("onExitCodes");
                if !["In", "NotIn"].contains(&codes.operator.as_str()) {
                    errors.push(Error::not_supported(&at.child("operator"), &codes.operator, &["In", "NotIn"]));
                }
                if codes.values.is_empty() {
                    let why = "at least one value is required";
                    errors.push(Error::invalid(&at.child("values"), &codes.values, why));
                }
                if codes.operator == "In" && codes.values.contains(&0) {
                    let why = "must not be 0 for the In operator";
                    errors.push(Error::invalid(&at.child("values"), 0, why));
                }
            }
            (None, true) => {}
        }
    }
    errors.extend(pod_template::validate_template(&spec.template, &path.child("template")));
    let at = path.child("template.spec.restartPolicy");
    match text(&spec.template.spec.clone().unwrap_or_default().restart_policy) {
        // `Always` is what pods get by default, so nobody may have asked for it.
        "" | "Always" => errors.push(Error::required(&at, "valid values: \"OnFailure\", \"Never\"")),
        "OnFailure" if failure_policy.is_some() => {
            let why = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.push(Error::invalid(&at, "OnFailure", why));
        }
        "OnFailure" | "Never" => {}
        other => errors.push(Error::not_supported(&at, other, &["OnFailure", "Never"])),
    }
    errors
}

fn validate_indexes(spec: &JobSpec, path: &Path<'_>, errors: &mut Errors) {
    let mode = text(&spec.completion_mode);
    if !["", "NonIndexed", "Indexed"].contains(&mode) {
        errors.push(Error::not_supported(&path.child("completionMode"), mode, &["NonIndexed", "Indexed"]));
    }
    if mode == "Indexed" {
        if spec.completions.is_none() {
            let why = "when completion mode is Indexed";
            errors.push(Error::required(&path.child("completions"), why));
        }
        if let Some(parallelism) = spec.parallelism.filter(|p| *p > MAX_PARALLEL_INDEXES) {
            let why = format!("must be less than or equal to {MAX_PARALLEL_INDEXES} when completion mode is Indexed");
            errors.push(Error::invalid(&path.child("parallelism"), parallelism, why));
        }
        return;
    }
    let why = "requires indexed completion mode";
    if spec.backoff_limit_per_index.is_some() {
        errors.push(Error::invalid(&path.child("backoffLimitPerIndex"), spec.backoff_limit_per_index, why));
    }
    if spec.max_failed_indexes.is_some() {
        errors.push(Error::invalid(&path.child("maxFailedIndexes"), spec.max_failed_indexes, why));
    }
    if spec.success_policy.is_some() {
        errors.push(Error::invalid(&path.child("successPolicy"), &spec.success_policy, why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::UserInfo;

    fn job(mut spec: Value) -> Job {
        let restart = spec.as_object_mut().and_then(|s| s.remove("restartPolicy")).unwrap_or(json!("Never"));
        spec["template"] = json!({"metadata": {"labels": {"app": "a"}},
            "spec": {"restartPolicy": restart, "containers": [{"name": "c", "image": "i:1"}]}});
        let mut job = serde_json::from_value(json!({"metadata": {"name": "j", "uid": "u"}, "spec": spec})).unwrap();
        let user = UserInfo::master("test");
        let ctx = Context { user: &user, namespace: None, now: Timestamp::UNIX_EPOCH, dry_run: false };
        Jobs.default(&mut job);
        Jobs.prepare_for_create(&ctx, &mut job);
        job
    }

    #[test]
    fn a_job_selects_its_pods_by_its_uid() {
        let made = job(json!({}));
        assert_eq!(Jobs.validate(&made), []);
        let made = serde_json::to_value(made).unwrap();
        assert_eq!(made["spec"]["selector"]["matchLabels"], json!({"batch.kubernetes.io/controller-uid": "u"}));
        let labels = &made["spec"]["template"]["metadata"]["labels"];
        assert_eq!((&labels["job-name"], &labels["batch.kubernetes.io/job-name"]), (&json!("j"), &json!("j")));
        assert_eq!((&made["spec"]["completions"], &made["spec"]["backoffLimit"]), (&json!(1), &json!(6)));
        assert_eq!(made["metadata"]["labels"], json!({"app": "a"}));
    }

    #[test]
    fn pods_of_a_job_end() {
        assert_eq!(
            Jobs.validate(&job(json!({"restartPolicy": "Always"})))[0].to_string(),
            "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""
        );
    }

    #[test]
    fn an_elastic_job_changes_in_tandem() {
        let spec = |n: i32, p: i32| json!({"completionMode": "Indexed", "completions": n, "parallelism": p});
        assert_eq!(Jobs.validate_update(&job(spec(3, 3)), &job(spec(2, 2))), []);
        assert_eq!(
            Jobs.validate_update(&job(spec(3, 2)), &job(spec(2, 2)))[0].to_string(),
            "spec.completions: Invalid value: 3: can only be modified in tandem with spec.parallelism"
        );
    }

    #[test]
    fn rows_tell_progress() {
        let mut one = job(json!({"completions": 3}));
        one.status = serde_json::from_value(json!({"succeeded": 1, "startTime": "1970-01-01T00:00:00Z"})).unwrap();
        let row = Jobs.row(&one, Timestamp::from_second(30).unwrap());
        assert_eq!(row[1..4], [json!("Running"), json!("1/3"), json!("30s")]);
    }
}
