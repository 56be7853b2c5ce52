//! `rbac.authorization.k8s.io`.

use super::ResourceInfo;
use super::row::{ROW, Row, resource};

pub(super) static ROWS: &[ResourceInfo] = &[
    resource(Row {
        group: "rbac.authorization.k8s.io",
        kind: "ClusterRoleBinding",
        plural: "clusterrolebindings",
        singular: "clusterrolebinding",
        namespaced: false,
        ..ROW
    }),
    resource(Row {
        group: "rbac.authorization.k8s.io",
        kind: "ClusterRole",
        plural: "clusterroles",
        singular: "clusterrole",
        namespaced: false,
        ..ROW
    }),
    resource(Row {
        group: "rbac.authorization.k8s.io",
        kind: "RoleBinding",
        plural: "rolebindings",
        singular: "rolebinding",
        ..ROW
    }),
    resource(Row { group: "rbac.authorization.k8s.io", kind: "Role", plural: "roles", singular: "role", ..ROW }),
];
