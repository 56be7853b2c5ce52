//! `node.k8s.io`.

use super::ResourceInfo;
use super::row::{ROW, Row, resource};

pub(super) static ROWS: &[ResourceInfo] = &[resource(Row {
    group: "node.k8s.io",
    kind: "RuntimeClass",
    plural: "runtimeclasses",
    singular: "runtimeclass",
    namespaced: false,
    ..ROW
})];
