//! `batch`.

use super::ResourceInfo;
use super::row::{ALL, ROW, Row, resource, status, strs};

pub(super) static ROWS: &[ResourceInfo] = &[
    resource(Row {
        group: "batch",
        kind: "CronJob",
        plural: "cronjobs",
        singular: "cronjob",
        short_names: strs!["cj"],
        categories: ALL,
        subresources: const { &[status("CronJob")] },
        ..ROW
    }),
    resource(Row {
        group: "batch",
        kind: "Job",
        plural: "jobs",
        singular: "job",
        categories: ALL,
        subresources: const { &[status("Job")] },
        ..ROW
    }),
];
