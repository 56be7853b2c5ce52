//! `storage.k8s.io`.

use super::ResourceInfo;
use super::row::{ROW, Row, resource, status, strs};

pub(super) static ROWS: &[ResourceInfo] = &[
    resource(Row {
        group: "storage.k8s.io",
        kind: "CSIDriver",
        plural: "csidrivers",
        singular: "csidriver",
        namespaced: false,
        ..ROW
    }),
    resource(Row {
        group: "storage.k8s.io",
        kind: "CSINode",
        plural: "csinodes",
        singular: "csinode",
        namespaced: false,
        ..ROW
    }),
    resource(Row {
        group: "storage.k8s.io",
        kind: "CSIStorageCapacity",
        plural: "csistoragecapacities",
        singular: "csistoragecapacity",
        ..ROW
    }),
    resource(Row {
        group: "storage.k8s.io",
        kind: "StorageClass",
        plural: "storageclasses",
        singular: "storageclass",
        short_names: strs!["sc"],
        namespaced: false,
        ..ROW
    }),
    resource(Row {
        group: "storage.k8s.io",
        kind: "VolumeAttachment",
        plural: "volumeattachments",
        singular: "volumeattachment",
        namespaced: false,
        subresources: const { &[status("VolumeAttachment")] },
        ..ROW
    }),
    resource(Row {
        group: "storage.k8s.io",
        kind: "VolumeAttributesClass",
        plural: "volumeattributesclasses",
        singular: "volumeattributesclass",
        short_names: strs!["vac"],
        namespaced: false,
        ..ROW
    }),
];
