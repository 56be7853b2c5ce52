//! `coordination.k8s.io`.

use super::ResourceInfo;
use super::row::{ROW, Row, resource};

pub(super) static ROWS: &[ResourceInfo] =
    &[resource(Row { group: "coordination.k8s.io", kind: "Lease", plural: "leases", singular: "lease", ..ROW })];
