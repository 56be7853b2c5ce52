//! `apiextensions.k8s.io`.

use super::ResourceInfo;
use super::row::{ROW, Row, resource, status, strs};

pub(super) static ROWS: &[ResourceInfo] = &[resource(Row {
    group: "apiextensions.k8s.io",
    kind: "CustomResourceDefinition",
    plural: "customresourcedefinitions",
    singular: "customresourcedefinition",
    short_names: strs!["crd", "crds"],
    categories: strs!["api-extensions"],
    namespaced: false,
    subresources: const { &[status("CustomResourceDefinition")] },
    ..ROW
})];
