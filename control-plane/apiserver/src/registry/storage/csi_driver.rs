//! CSIDrivers.

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::CSIDriver;
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;

use super::{GROUP, validate_driver};
use crate::registry::cell;
use crate::registry::checks::{immutable, text};
use crate::registry::strategy::{Column, Strategy};
use crate::registry::table_info::info;

/// The strategy of CSI drivers.
#[derive(Debug)]
pub(crate) struct CsiDrivers;

const POLICIES: [&str; 3] = ["File", "None", "ReadWriteOnceWithFSType"];
const MODES: [&str; 2] = ["Ephemeral", "Persistent"];

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new(
        "AttachRequired",
        "boolean",
        "attachRequired indicates this CSI volume driver requires an attach operation.",
    ),
    Column::new(
        "PodInfoOnMount",
        "boolean",
        "podInfoOnMount indicates this CSI volume driver requires additional pod information during mount operations.",
    ),
    Column::new(
        "StorageCapacity",
        "boolean",
        "storageCapacity indicates that the CSI volume driver wants pod scheduling to consider the storage capacity that \
         the driver deployment will report.",
    ),
    Column::new(
        "TokenRequests",
        "string",
        "tokenRequests indicates the CSI driver needs pods' service account tokens it is mounting volume for to do \
         necessary authentication.",
    ),
    Column::new(
        "RequiresRepublish",
        "boolean",
        "requiresRepublish indicates the CSI driver wants `NodePublishVolume` being periodically called to reflect any \
         possible change in the mounted volume.",
    ),
    Column::new(
        "Modes",
        "string",
        "volumeLifecycleModes defines what kind of volumes this CSI volume driver supports.",
    ),
    Column::AGE,
];

impl Strategy for CsiDrivers {
    type Object = CSIDriver;

    fn info(&self) -> &'static ResourceInfo {
        info(GROUP, "csidrivers")
    }

    fn prefix(&self) -> &'static str {
        "/registry/csidrivers/"
    }

    fn default(&self, driver: &mut CSIDriver) {
        let spec = &mut driver.spec;
        spec.attach_required.get_or_insert(true);
        spec.pod_info_on_mount.get_or_insert(false);
        spec.storage_capacity.get_or_insert(false);
        spec.fs_group_policy.get_or_insert_with(|| "ReadWriteOnceWithFSType".to_owned());
        if spec.volume_lifecycle_modes.as_ref().is_none_or(Vec::is_empty) {
            spec.volume_lifecycle_modes = Some(vec!["Persistent".to_owned()]);
        }
        spec.requires_republish.get_or_insert(false);
        spec.se_linux_mount.get_or_insert(false);
    }

    fn validate(&self, driver: &CSIDriver) -> Errors {
        let mut errors = Errors::new();
        validate_driver(text(&driver.metadata.name), &Path::new("metadata.name"), &mut errors);
        let policy = text(&driver.spec.fs_group_policy);
        if !policy.is_empty() && !POLICIES.contains(&policy) {
            errors.push(Error::not_supported(&Path::new("spec.fsGroupPolicy"), policy, &POLICIES));
        }
        for mode in driver.spec.volume_lifecycle_modes.iter().flatten() {
            if !MODES.contains(&mode.as_str()) {
                errors.push(Error::not_supported(&Path::new("spec.volumeLifecycleModes"), mode, &MODES));
            }
        }
        let list = Path::new("spec.tokenRequests");
        let mut seen = Vec::new();
        for (i, request) in driver.spec.token_requests.iter().flatten().enumerate() {
            let path = list.index(i);
            if seen.contains(&&request.audience) {
                errors.push(Error::duplicate(&path.child("audience"), &request.audience));
            }
            seen.push(&request.audience);
            if let Some(seconds) = request.expiration_seconds.filter(|s| *s < 600) {
                let why = "may not specify a duration less than 10 minutes";
                errors.push(Error::invalid(&path.child("expirationSeconds"), seconds, why));
            }
        }
        errors
    }

    fn validate_update(&self, driver: &CSIDriver, old: &CSIDriver) -> Errors {
        let mut errors = Errors::new();
        let (new, old) = (&driver.spec, &old.spec);
        immutable(&mut errors, &Path::new("spec.attachedRequired"), &new.attach_required, &old.attach_required);
        let path = Path::new("spec.volumeLifecycleModes");
        immutable(&mut errors, &path, &new.volume_lifecycle_modes, &old.volume_lifecycle_modes);
        errors
    }

    fn bumps_generation(&self, driver: &CSIDriver, old: &CSIDriver) -> bool {
        driver.spec.token_requests != old.spec.token_requests
            || driver.spec.requires_republish != old.spec.requires_republish
            || driver.spec.se_linux_mount != old.spec.se_linux_mount
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, driver: &CSIDriver, now: Timestamp) -> Vec<Value> {
        let spec = &driver.spec;
        let audiences: Vec<&str> = spec.token_requests.iter().flatten().map(|r| r.audience.as_str()).collect();
        let modes = spec.volume_lifecycle_modes.as_deref().unwrap_or_default();
        vec![
            cell::name(&driver.metadata),
            json!(spec.attach_required.unwrap_or(true)),
            json!(spec.pod_info_on_mount.unwrap_or(false)),
            json!(spec.storage_capacity.unwrap_or(false)),
            json!(if spec.token_requests.is_some() { audiences.join(",") } else { "<unset>".to_owned() }),
            json!(spec.requires_republish.unwrap_or(false)),
            json!(if modes.is_empty() { "<none>".to_owned() } else { modes.join(",") }),
            cell::age(&driver.metadata, now),
        ]
    }
}
