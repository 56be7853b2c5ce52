//! `resource.k8s.io`.

use super::ResourceInfo;
use super::row::{ROW, Row, resource, status};

pub(super) static ROWS: &[ResourceInfo] = &[
    resource(Row {
        group: "resource.k8s.io",
        kind: "DeviceClass",
        plural: "deviceclasses",
        singular: "deviceclass",
        namespaced: false,
        ..ROW
    }),
    resource(Row {
        group: "resource.k8s.io",
        kind: "ResourceClaim",
        plural: "resourceclaims",
        singular: "resourceclaim",
        subresources: const { &[status("ResourceClaim")] },
        ..ROW
    }),
    resource(Row {
        group: "resource.k8s.io",
        kind: "ResourceClaimTemplate",
        plural: "resourceclaimtemplates",
        singular: "resourceclaimtemplate",
        ..ROW
    }),
    resource(Row {
        group: "resource.k8s.io",
        kind: "ResourceSlice",
        plural: "resourceslices",
        singular: "resourceslice",
        namespaced: false,
        ..ROW
    }),
];
