//! CSIStorageCapacities.

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::CSIStorageCapacity;
use serde_json::{Value, json};
use skep_api::field::{Errors, Path};
use skep_api::name;
use skep_api::quantity::canonicalize;
use skep_api::resource::ResourceInfo;

use super::GROUP;
use crate::registry::cell;
use crate::registry::checks::{self, immutable};
use crate::registry::strategy::{Column, Strategy};
use crate::registry::table_info::info;

/// The strategy of storage capacities.
#[derive(Debug)]
pub(crate) struct CsiStorageCapacities;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new(
        "StorageClassName",
        "string",
        "storageClassName represents the name of the StorageClass that the reported capacity applies to.",
    ),
    Column::new("Capacity", "string", "capacity is the value reported by the CSI driver in its GetCapacityResponse."),
];

impl Strategy for CsiStorageCapacities {
    type Object = CSIStorageCapacity;

    fn info(&self) -> &'static ResourceInfo {
        info(GROUP, "csistoragecapacities")
    }

    fn prefix(&self) -> &'static str {
        "/registry/csistoragecapacities/"
    }

    fn default(&self, capacity: &mut CSIStorageCapacity) {
        [&mut capacity.capacity, &mut capacity.maximum_volume_size].into_iter().flatten().for_each(canonicalize);
    }

    fn validate(&self, capacity: &CSIStorageCapacity) -> Errors {
        let mut errors = Errors::new();
        let path = Path::new("storageClassName");
        checks::name(&mut errors, &path, &capacity.storage_class_name, name::dns1123_subdomain);
        if let Some(topology) = &capacity.node_topology {
            checks::selector(&mut errors, &Path::new("nodeTopology"), topology);
        }
        let sizes = [("capacity", &capacity.capacity), ("maximumVolumeSize", &capacity.maximum_volume_size)];
        for (field, quantity) in sizes {
            if let Some(quantity) = quantity {
                checks::quantity(&mut errors, &Path::new(field), quantity);
            }
        }
        errors
    }

    fn validate_update(&self, capacity: &CSIStorageCapacity, old: &CSIStorageCapacity) -> Errors {
        let mut errors = Errors::new();
        immutable(&mut errors, &Path::new("nodeTopology"), &capacity.node_topology, &old.node_topology);
        let path = Path::new("storageClassName");
        immutable(&mut errors, &path, &capacity.storage_class_name, &old.storage_class_name);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, capacity: &CSIStorageCapacity, _now: Timestamp) -> Vec<Value> {
        let size = capacity.capacity.as_ref().map_or("<unset>", |q| &q.0);
        vec![cell::name(&capacity.metadata), json!(capacity.storage_class_name), json!(size)]
    }
}
