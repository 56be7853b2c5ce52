//! The core group.

use super::row::{ALL, CREATE, GET, GET_PATCH_UPDATE, ROW, Row, SCALE, UPDATE, resource, status, strs, sub, sub_of};
use super::{ResourceInfo, Str, SubresourceInfo};

/// Namespaces: a collection of them cannot be deleted.
const CRUD_ONE_BY_ONE: &[Str] = strs!["create", "delete", "get", "list", "patch", "update", "watch"];
const NAMESPACE_SUBS: &[SubresourceInfo] = &[sub("finalize", "Namespace", UPDATE), status("Namespace")];
/// What begins a stream.
const CONNECT: &[Str] = strs!["create", "get"];
/// What a request can be passed on with.
const PROXY: &[Str] = strs!["create", "delete", "get", "patch", "update"];
const POD_SUBS: &[SubresourceInfo] = &[
    sub("attach", "PodAttachOptions", CONNECT),
    sub("binding", "Binding", CREATE),
    sub("ephemeralcontainers", "Pod", GET_PATCH_UPDATE),
    sub_of("eviction", "policy", "v1", "Eviction", CREATE),
    sub("exec", "PodExecOptions", CONNECT),
    sub("log", "Pod", GET),
    sub("portforward", "PodPortForwardOptions", CONNECT),
    sub("proxy", "PodProxyOptions", PROXY),
    sub("resize", "Pod", GET_PATCH_UPDATE),
    status("Pod"),
];

pub(super) static ROWS: &[ResourceInfo] = &[
    resource(Row { kind: "ConfigMap", plural: "configmaps", singular: "configmap", short_names: strs!["cm"], ..ROW }),
    resource(Row { kind: "Endpoints", plural: "endpoints", singular: "endpoints", short_names: strs!["ep"], ..ROW }),
    resource(Row { kind: "Event", plural: "events", singular: "event", short_names: strs!["ev"], ..ROW }),
    resource(Row {
        kind: "LimitRange",
        plural: "limitranges",
        singular: "limitrange",
        short_names: strs!["limits"],
        ..ROW
    }),
    resource(Row {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: strs!["ns"],
        namespaced: false,
        verbs: CRUD_ONE_BY_ONE,
        subresources: NAMESPACE_SUBS,
        ..ROW
    }),
    resource(Row {
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: strs!["no"],
        namespaced: false,
        subresources: const { &[sub("proxy", "NodeProxyOptions", PROXY), status("Node")] },
        ..ROW
    }),
    resource(Row {
        kind: "PersistentVolumeClaim",
        plural: "persistentvolumeclaims",
        singular: "persistentvolumeclaim",
        short_names: strs!["pvc"],
        subresources: const { &[status("PersistentVolumeClaim")] },
        ..ROW
    }),
    resource(Row {
        kind: "PersistentVolume",
        plural: "persistentvolumes",
        singular: "persistentvolume",
        short_names: strs!["pv"],
        namespaced: false,
        subresources: const { &[status("PersistentVolume")] },
        ..ROW
    }),
    resource(Row {
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: strs!["po"],
        categories: ALL,
        subresources: POD_SUBS,
        ..ROW
    }),
    resource(Row { kind: "PodTemplate", plural: "podtemplates", singular: "podtemplate", ..ROW }),
    resource(Row {
        kind: "ReplicationController",
        plural: "replicationcontrollers",
        singular: "replicationcontroller",
        short_names: strs!["rc"],
        categories: ALL,
        subresources: const { &[SCALE, status("ReplicationController")] },
        ..ROW
    }),
    resource(Row {
        kind: "ResourceQuota",
        plural: "resourcequotas",
        singular: "resourcequota",
        short_names: strs!["quota"],
        subresources: const { &[status("ResourceQuota")] },
        ..ROW
    }),
    resource(Row { kind: "Secret", plural: "secrets", singular: "secret", ..ROW }),
    resource(Row {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: strs!["sa"],
        subresources: const { &[sub_of("token", "authentication.k8s.io", "v1", "TokenRequest", CREATE)] },
        ..ROW
    }),
    resource(Row {
        kind: "Service",
        plural: "services",
        singular: "service",
        short_names: strs!["svc"],
        categories: ALL,
        subresources: const { &[sub("proxy", "ServiceProxyOptions", PROXY), status("Service")] },
        ..ROW
    }),
];
