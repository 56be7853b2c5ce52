//! `apps`.

use super::ResourceInfo;
use super::row::{ALL, ROW, Row, SCALE, resource, status, strs};

pub(super) static ROWS: &[ResourceInfo] = &[
    resource(Row {
        group: "apps",
        kind: "ControllerRevision",
        plural: "controllerrevisions",
        singular: "controllerrevision",
        ..ROW
    }),
    resource(Row {
        group: "apps",
        kind: "DaemonSet",
        plural: "daemonsets",
        singular: "daemonset",
        short_names: strs!["ds"],
        categories: ALL,
        subresources: const { &[status("DaemonSet")] },
        ..ROW
    }),
    resource(Row {
        group: "apps",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: strs!["deploy"],
        categories: ALL,
        subresources: const { &[SCALE, status("Deployment")] },
        ..ROW
    }),
    resource(Row {
        group: "apps",
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short_names: strs!["rs"],
        categories: ALL,
        subresources: const { &[SCALE, status("ReplicaSet")] },
        ..ROW
    }),
    resource(Row {
        group: "apps",
        kind: "StatefulSet",
        plural: "statefulsets",
        singular: "statefulset",
        short_names: strs!["sts"],
        categories: ALL,
        subresources: const { &[SCALE, status("StatefulSet")] },
        ..ROW
    }),
];
