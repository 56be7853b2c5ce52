//! `discovery.k8s.io`.

use super::ResourceInfo;
use super::row::{ROW, Row, resource};

pub(super) static ROWS: &[ResourceInfo] = &[resource(Row {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    ..ROW
})];
