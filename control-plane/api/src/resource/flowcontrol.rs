//! `flowcontrol.apiserver.k8s.io`.

use super::ResourceInfo;
use super::row::{ROW, Row, resource, status};

pub(super) static ROWS: &[ResourceInfo] = &[
    resource(Row {
        group: "flowcontrol.apiserver.k8s.io",
        kind: "FlowSchema",
        plural: "flowschemas",
        singular: "flowschema",
        namespaced: false,
        subresources: const { &[status("FlowSchema")] },
        ..ROW
    }),
    resource(Row {
        group: "flowcontrol.apiserver.k8s.io",
        kind: "PriorityLevelConfiguration",
        plural: "prioritylevelconfigurations",
        singular: "prioritylevelconfiguration",
        namespaced: false,
        subresources: const { &[status("PriorityLevelConfiguration")] },
        ..ROW
    }),
];
