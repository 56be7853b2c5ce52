//! `events.k8s.io`.

use super::ResourceInfo;
use super::row::{ROW, Row, resource, strs};

pub(super) static ROWS: &[ResourceInfo] = &[resource(Row {
    group: "events.k8s.io",
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: strs!["ev"],
    ..ROW
})];
