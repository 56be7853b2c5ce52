//! `apiregistration.k8s.io`.

use super::ResourceInfo;
use super::row::{ROW, Row, resource, status, strs};

pub(super) static ROWS: &[ResourceInfo] = &[resource(Row {
    group: "apiregistration.k8s.io",
    kind: "APIService",
    plural: "apiservices",
    singular: "apiservice",
    categories: strs!["api-extensions"],
    namespaced: false,
    subresources: const { &[status("APIService")] },
    ..ROW
})];
