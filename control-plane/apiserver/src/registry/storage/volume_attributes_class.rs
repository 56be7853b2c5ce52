//! VolumeAttributesClasses.

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;

use super::{GROUP, validate_provisioner};
use crate::registry::cell;
use crate::registry::strategy::{Column, Strategy};
use crate::registry::table_info::info;

/// The strategy of volume attributes classes.
#[derive(Debug)]
pub(crate) struct VolumeAttributesClasses;

const COLUMNS: &[Column] = &[Column::NAME, Column::new("DriverName", "string", "Name of the CSI driver"), Column::AGE];

impl Strategy for VolumeAttributesClasses {
    type Object = VolumeAttributesClass;

    fn info(&self) -> &'static ResourceInfo {
        info(GROUP, "volumeattributesclasses")
    }

    fn prefix(&self) -> &'static str {
        "/registry/volumeattributesclasses/"
    }

    fn validate(&self, class: &VolumeAttributesClass) -> Errors {
        let mut errors = Errors::new();
        validate_provisioner(&class.driver_name, &Path::new("driverName"), &mut errors);
        if class.parameters.as_ref().is_none_or(|p| p.is_empty()) {
            errors.push(Error::required(&Path::new("parameters"), "must contain at least one key/value pair"));
        }
        errors
    }

    fn validate_update(&self, class: &VolumeAttributesClass, old: &VolumeAttributesClass) -> Errors {
        let mut errors = Errors::new();
        if class.driver_name != old.driver_name {
            errors.push(Error::forbidden(&Path::new("driverName"), "updates to driverName are forbidden."));
        }
        if class.parameters != old.parameters {
            errors.push(Error::forbidden(&Path::new("parameters"), "updates to parameters are forbidden."));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, class: &VolumeAttributesClass, now: Timestamp) -> Vec<Value> {
        vec![cell::name(&class.metadata), json!(class.driver_name), cell::age(&class.metadata, now)]
    }
}
