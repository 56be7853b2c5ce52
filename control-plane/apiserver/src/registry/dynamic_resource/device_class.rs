//! DeviceClasses.

use jiff::Timestamp;
use k8s_openapi::api::resource::v1::DeviceClass;
use serde_json::Value;
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;

use super::{GROUP, claim_spec};
use crate::registry::cell;
use crate::registry::checks::required;
use crate::registry::strategy::{Column, Strategy};
use crate::registry::table_info::info;

/// The strategy of DeviceClasses.
#[derive(Debug)]
pub(crate) struct DeviceClasses;

const COLUMNS: &[Column] = &[Column::NAME, Column::AGE];

impl Strategy for DeviceClasses {
    type Object = DeviceClass;

    fn info(&self) -> &'static ResourceInfo {
        info(GROUP, "deviceclasses")
    }

    fn prefix(&self) -> &'static str {
        "/registry/deviceclasses/"
    }

    fn validate(&self, object: &DeviceClass) -> Errors {
        let mut errors = Errors::new();
        let path = Path::new("spec");
        claim_spec::validate_selectors(&object.spec.selectors, &path, &mut errors);
        let list = path.child("config");
        for (i, config) in object.spec.config.iter().flatten().enumerate() {
            let item = list.index(i);
            let path = item.child("opaque");
            match &config.opaque {
                None => errors.push(Error::required(&path, "")),
                Some(opaque) => required(&mut errors, &path.child("driver"), &opaque.driver),
            }
        }
        errors
    }

    fn bumps_generation(&self, object: &DeviceClass, old: &DeviceClass) -> bool {
        object.spec != old.spec
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &DeviceClass, now: Timestamp) -> Vec<Value> {
        vec![cell::name(&object.metadata), cell::age(&object.metadata, now)]
    }
}
