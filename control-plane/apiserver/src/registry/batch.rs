//! `batch`: jobs and cron jobs.

mod cron_job;
mod job;
mod schedule;

pub(crate) use cron_job::CronJobs;
pub(crate) use job::Jobs;
