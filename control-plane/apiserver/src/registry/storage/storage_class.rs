//! StorageClasses.

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;

use super::{GROUP, validate_provisioner};
use crate::registry::cell;
use crate::registry::checks::{immutable, one_of, text};
use crate::registry::strategy::{Column, Strategy};
use crate::registry::table_info::info;

/// The strategy of storage classes.
#[derive(Debug)]
pub(crate) struct StorageClasses;

const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
const OLD_DEFAULT: &str = "storageclass.beta.kubernetes.io/is-default-class";

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Provisioner", "string", "provisioner indicates the type of the provisioner."),
    Column::new(
        "ReclaimPolicy",
        "string",
        "reclaimPolicy controls the reclaimPolicy for dynamically provisioned PersistentVolumes of this storage class. \
         Defaults to Delete.",
    ),
    Column::new(
        "VolumeBindingMode",
        "string",
        "volumeBindingMode indicates how PersistentVolumeClaims should be provisioned and bound. When unset, \
         VolumeBindingImmediate is used. This field is only honored by servers that enable the VolumeScheduling feature.",
    ),
    Column::new(
        "AllowVolumeExpansion",
        "string",
        "allowVolumeExpansion shows whether the storage class allow volume expand.",
    ),
    Column::AGE,
];

impl Strategy for StorageClasses {
    type Object = StorageClass;

    fn info(&self) -> &'static ResourceInfo {
        info(GROUP, "storageclasses")
    }

    fn prefix(&self) -> &'static str {
        "/registry/storageclasses/"
    }

    fn default(&self, class: &mut StorageClass) {
        class.reclaim_policy.get_or_insert_with(|| "Delete".to_owned());
        class.volume_binding_mode.get_or_insert_with(|| "Immediate".to_owned());
    }

    fn validate(&self, class: &StorageClass) -> Errors {
        let mut errors = Errors::new();
        validate_provisioner(&class.provisioner, &Path::new("provisioner"), &mut errors);
        if class.parameters.iter().flatten().any(|(key, _)| key.is_empty()) {
            errors.push(Error::invalid(&Path::new("parameters"), "", "field can not be empty."));
        }
        let policy = text(&class.reclaim_policy);
        if !policy.is_empty() && !["Delete", "Retain"].contains(&policy) {
            errors.push(Error::not_supported(&Path::new("reclaimPolicy"), policy, &["Delete", "Retain"]));
        }
        let modes = ["Immediate", "WaitForFirstConsumer"];
        one_of(&mut errors, &Path::new("volumeBindingMode"), text(&class.volume_binding_mode), &modes);
        errors
    }

    fn validate_update(&self, class: &StorageClass, old: &StorageClass) -> Errors {
        let mut errors = Errors::new();
        if class.parameters != old.parameters {
            errors.push(Error::forbidden(&Path::new("parameters"), "updates to parameters are forbidden."));
        }
        if class.provisioner != old.provisioner {
            errors.push(Error::forbidden(&Path::new("provisioner"), "updates to provisioner are forbidden."));
        }
        if class.reclaim_policy != old.reclaim_policy {
            errors.push(Error::forbidden(&Path::new("reclaimPolicy"), "updates to reclaimPolicy are forbidden."));
        }
        let path = Path::new("volumeBindingMode");
        immutable(&mut errors, &path, &class.volume_binding_mode, &old.volume_binding_mode);
        errors
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, class: &StorageClass, now: Timestamp) -> Vec<Value> {
        let notes = class.metadata.annotations.as_ref();
        let is = |note: &str| notes.and_then(|n| n.get(note)).is_some_and(|value| value == "true");
        let default = if is(DEFAULT) || is(OLD_DEFAULT) { " (default)" } else { "" };
        vec![
            json!(format!("{}{default}", text(&class.metadata.name))),
            json!(class.provisioner),
            cell::text_or(&class.reclaim_policy, "Delete"),
            cell::text_or(&class.volume_binding_mode, "Immediate"),
            json!(class.allow_volume_expansion.unwrap_or(false)),
            cell::age(&class.metadata, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_defaulted_and_stays() {
        let mut class: StorageClass = serde_json::from_value(json!({"provisioner": "acme.io/disk"})).unwrap();
        StorageClasses.default(&mut class);
        assert_eq!(text(&class.reclaim_policy), "Delete");
        assert_eq!(StorageClasses.validate(&class), []);
        let mut new = class.clone();
        new.provisioner = "other".to_owned();
        assert_eq!(
            StorageClasses.validate_update(&new, &class)[0].to_string(),
            "provisioner: Forbidden: updates to provisioner are forbidden."
        );
    }
}
