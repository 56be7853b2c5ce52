//! CronJobs.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus};
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;

use super::{job, schedule};
use crate::registry::checks::{not_negative, one_of, or, text};
use crate::registry::strategy::{Column, Context, Strategy};
use crate::registry::table_info::info;
use crate::registry::{cell, workload};

/// The strategy of cron jobs.
#[derive(Debug)]
pub(crate) struct CronJobs;

/// Leaves room for the eleven characters that the names of jobs add.
const MAX_NAME: usize = 52;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Schedule", "string", "The schedule in Cron format, see https://en.wikipedia.org/wiki/Cron."),
    Column::new("Timezone", "string", "The time zone name for the given schedule."),
    Column::new("Suspend", "boolean", "This flag tells the controller to suspend subsequent executions."),
    Column::new("Active", "integer", "A list of pointers to currently running jobs."),
    Column::new("Last Schedule", "string", "Information when was the last time the job was successfully scheduled."),
    Column::AGE,
    Column::wide("Containers", "string", "Names of each container in the template."),
    Column::wide("Images", "string", "Images referenced by each container in the template."),
    Column::wide("Selector", "string", "A label query over pods that should match the pod count."),
];

impl Strategy for CronJobs {
    type Object = CronJob;

    fn info(&self) -> &'static ResourceInfo {
        info("batch", "cronjobs")
    }

    fn prefix(&self) -> &'static str {
        "/registry/cronjobs/"
    }

    fn default(&self, cron_job: &mut CronJob) {
        let spec = cron_job.spec.get_or_insert_default();
        workload::set_defaults(&mut spec.job_template.spec.get_or_insert_default().template);
        or(&mut spec.concurrency_policy, "Allow");
        spec.suspend.get_or_insert(false);
        spec.successful_jobs_history_limit.get_or_insert(3);
        spec.failed_jobs_history_limit.get_or_insert(1);
    }

    fn prepare_for_create(&self, _ctx: &Context<'_>, cron_job: &mut CronJob) {
        cron_job.status = Some(CronJobStatus::default());
    }

    fn validate(&self, cron_job: &CronJob) -> Errors {
        let mut errors = Errors::new();
        let name = text(&cron_job.metadata.name);
        if name.len() > MAX_NAME {
            let why = format!("must be no more than {MAX_NAME} characters");
            errors.push(Error::invalid(&Path::new("metadata.name"), name, why));
        }
        let empty = CronJobSpec::default();
        validate_spec(cron_job.spec.as_ref().unwrap_or(&empty), &mut errors);
        errors
    }

    fn prepare_for_update(&self, _ctx: &Context<'_>, cron_job: &mut CronJob, old: &CronJob) {
        cron_job.status.clone_from(&old.status);
    }

    fn bumps_generation(&self, cron_job: &CronJob, old: &CronJob) -> bool {
        cron_job.spec != old.spec
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn prepare_for_status_update(&self, _ctx: &Context<'_>, cron_job: &mut CronJob, old: &CronJob) {
        cron_job.spec.clone_from(&old.spec);
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, cron_job: &CronJob, now: Timestamp) -> Vec<Value> {
        let spec = cron_job.spec.clone().unwrap_or_default();
        let status = cron_job.status.clone().unwrap_or_default();
        let job = spec.job_template.spec.unwrap_or_default();
        let (containers, images) = workload::container_cells(Some(&job.template));
        let last = status.last_schedule_time.as_ref().map_or_else(|| json!("<none>"), |t| cell::since(Some(t), now));
        vec![
            cell::name(&cron_job.metadata),
            json!(spec.schedule),
            cell::text_or(&spec.time_zone, "<none>"),
            json!(match spec.suspend {
                Some(true) => "True",
                Some(false) => "False",
                None => "<unset>",
            }),
            json!(status.active.map_or(0, |active| active.len())),
            last,
            cell::age(&cron_job.metadata, now),
            json!(containers),
            json!(images),
            json!(workload::selector_cell(&job.selector.unwrap_or_default())),
        ]
    }
}

fn validate_spec(spec: &CronJobSpec, errors: &mut Errors) {
    let path = Path::new("spec");
    let at = path.child("schedule");
    if spec.schedule.is_empty() {
        errors.push(Error::required(&at, ""));
    } else if spec.schedule.contains("TZ") {
        let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.push(Error::invalid(&at, &spec.schedule, why));
    } else if let Err(why) = schedule::check(&spec.schedule) {
        errors.push(Error::invalid(&at, &spec.schedule, why));
    }
    if let Some(zone) = spec.time_zone.as_deref() {
        let at = path.child("timeZone");
        if zone.is_empty() {
            errors.push(Error::invalid(&at, zone, "timeZone must be nil or non-empty string"));
        } else if zone.eq_ignore_ascii_case("local") {
            errors.push(Error::invalid(
                &at,
                zone,
                "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
            ));
        } else if TimeZone::get(zone).is_err() {
            errors.push(Error::invalid(&at, zone, format!("unknown time zone {zone}")));
        }
    }
    not_negative(errors, &path.child("startingDeadlineSeconds"), spec.starting_deadline_seconds);
    let policies = ["Allow", "Forbid", "Replace"];
    one_of(errors, &path.child("concurrencyPolicy"), text(&spec.concurrency_policy), &policies);
    let template = path.child("jobTemplate.spec");
    let job = spec.job_template.spec.clone().unwrap_or_default();
    if job.manual_selector == Some(true) {
        errors.push(Error::not_supported(&template.child("manualSelector"), true, &["nil", "false"]));
    }
    errors.extend(job::validate_spec(&job, &template));
    not_negative(errors, &path.child("successfulJobsHistoryLimit"), spec.successful_jobs_history_limit);
    not_negative(errors, &path.child("failedJobsHistoryLimit"), spec.failed_jobs_history_limit);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cron_job(schedule: &str, zone: Option<&str>) -> CronJob {
        let mut made = serde_json::from_value(json!({"metadata": {"name": "c"}, "spec": {
            "schedule": schedule, "timeZone": zone, "jobTemplate": {"spec": {"template": {"spec": {
                "restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]}}}}}}))
        .unwrap();
        CronJobs.default(&mut made);
        made
    }

    #[test]
    fn the_schedule_is_read() {
        assert_eq!(CronJobs.validate(&cron_job("*/5 * * * *", None)), []);
        for (schedule, why) in [
            ("", "spec.schedule: Required value"),
            ("nope", "spec.schedule: Invalid value: \"nope\": expected exactly 5 fields, found 1: [nope]"),
            (
                "TZ=UTC * * * * *",
                "spec.schedule: Invalid value: \"TZ=UTC * * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone \
                 field instead",
            ),
        ] {
            assert_eq!(CronJobs.validate(&cron_job(schedule, None))[0].to_string(), why);
        }
    }

    #[test]
    fn time_zones_exist() {
        assert_eq!(CronJobs.validate(&cron_job("@daily", Some("Etc/UTC"))), []);
        assert_eq!(
            CronJobs.validate(&cron_job("@daily", Some("Mars/Olympus")))[0].to_string(),
            "spec.timeZone: Invalid value: \"Mars/Olympus\": unknown time zone Mars/Olympus"
        );
    }
}
