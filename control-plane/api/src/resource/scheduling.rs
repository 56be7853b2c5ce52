//! `scheduling.k8s.io`.

use super::ResourceInfo;
use super::row::{ROW, Row, resource, strs};

pub(super) static ROWS: &[ResourceInfo] = &[resource(Row {
    group: "scheduling.k8s.io",
    kind: "PriorityClass",
    plural: "priorityclasses",
    singular: "priorityclass",
    short_names: strs!["pc"],
    namespaced: false,
    ..ROW
})];
