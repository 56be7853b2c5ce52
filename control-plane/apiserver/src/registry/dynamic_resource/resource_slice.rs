//! ResourceSlices.

use jiff::Timestamp;
use k8s_openapi::api::resource::v1::ResourceSlice;
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;
use skep_storage::SelectableField;

use super::GROUP;
use crate::registry::cell;
use crate::registry::checks::{self, immutable, not_negative, positive, required, text};
use crate::registry::strategy::{Column, Strategy};
use crate::registry::table_info::info;

/// The strategy of ResourceSlices.
#[derive(Debug)]
pub(crate) struct ResourceSlices;

const MAX_DEVICES: usize = 128;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Node", "string", "NodeName identifies the node which provides the resources."),
    Column::new("Driver", "string", "Driver identifies the driver that provides the devices."),
    Column::new("Pool", "string", "Pool describes the pool that this ResourceSlice belongs to."),
    Column::AGE,
];

impl Strategy for ResourceSlices {
    type Object = ResourceSlice;

    fn info(&self) -> &'static ResourceInfo {
        info(GROUP, "resourceslices")
    }

    fn prefix(&self) -> &'static str {
        "/registry/resourceslices/"
    }

    fn selectable_fields(&self) -> Vec<SelectableField> {
        vec![SelectableField::new("spec.nodeName"), SelectableField::new("spec.driver")]
    }

    fn validate(&self, object: &ResourceSlice) -> Errors {
        let mut errors = Errors::new();
        let spec = &object.spec;
        let path = Path::new("spec");
        required(&mut errors, &path.child("driver"), &spec.driver);
        required(&mut errors, &path.child("pool.name"), &spec.pool.name);
        positive(&mut errors, &path.child("pool.resourceSliceCount"), Some(spec.pool.resource_slice_count));
        not_negative(&mut errors, &path.child("pool.generation"), Some(spec.pool.generation));
        let ways = [
            !text(&spec.node_name).is_empty(),
            spec.node_selector.is_some(),
            spec.all_nodes == Some(true),
            spec.per_device_node_selection == Some(true),
        ];
        const NEEDED: &str =
            "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
        match ways.into_iter().filter(|way| *way).count() {
            0 if spec.shared_counters.is_none() => errors.push(Error::required(&path, NEEDED)),
            0 | 1 => {}
            _ => errors.push(Error::invalid(&path, "", format!("{NEEDED}, but multiple fields are set"))),
        }
        let list = path.child("devices");
        let devices = spec.devices.as_deref().unwrap_or_default();
        if devices.len() > MAX_DEVICES {
            errors.push(Error::too_many(&list, devices.len(), MAX_DEVICES));
        }
        for (i, device) in devices.iter().enumerate() {
            let path = list.index(i);
            checks::name(&mut errors, &path.child("name"), &device.name, skep_api::name::dns1123_label);
            if devices[..i].iter().any(|earlier| earlier.name == device.name) {
                errors.push(Error::duplicate(&path.child("name"), &device.name));
            }
        }
        errors
    }

    fn validate_update(&self, object: &ResourceSlice, old: &ResourceSlice) -> Errors {
        let mut errors = Errors::new();
        let (new, old) = (&object.spec, &old.spec);
        let path = Path::new("spec");
        immutable(&mut errors, &path.child("pool.name"), &new.pool.name, &old.pool.name);
        immutable(&mut errors, &path.child("driver"), &new.driver, &old.driver);
        immutable(&mut errors, &path.child("nodeName"), &new.node_name, &old.node_name);
        errors
    }

    fn bumps_generation(&self, object: &ResourceSlice, old: &ResourceSlice) -> bool {
        object.spec != old.spec
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &ResourceSlice, now: Timestamp) -> Vec<Value> {
        vec![
            cell::name(&object.metadata),
            cell::text_or(&object.spec.node_name, "<unset>"),
            json!(object.spec.driver),
            json!(object.spec.pool.name),
            cell::age(&object.metadata, now),
        ]
    }
}
