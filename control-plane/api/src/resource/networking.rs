//! `networking.k8s.io`.

use super::ResourceInfo;
use super::row::{ROW, Row, resource, strs};

pub(super) static ROWS: &[ResourceInfo] = &[resource(Row {
    group: "networking.k8s.io",
    kind: "IPAddress",
    plural: "ipaddresses",
    singular: "ipaddress",
    short_names: strs!["ip"],
    namespaced: false,
    ..ROW
})];
