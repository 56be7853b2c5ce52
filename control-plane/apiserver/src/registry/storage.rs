//! `storage.k8s.io`: classes of volumes, and what drivers say of themselves and of nodes.

mod csi_driver;
mod csi_node;
mod csi_storage_capacity;
mod storage_class;
mod volume_attachment;
mod volume_attributes_class;

pub(crate) use csi_driver::CsiDrivers;
pub(crate) use csi_node::CsiNodes;
pub(crate) use csi_storage_capacity::CsiStorageCapacities;
pub(crate) use storage_class::StorageClasses;
pub(crate) use volume_attachment::VolumeAttachments;
pub(crate) use volume_attributes_class::VolumeAttributesClasses;

use skep_api::field::{Error, Errors, Path};
use skep_api::name;

use super::checks;

/// The group's name.
const GROUP: &str = "storage.k8s.io";
const MAX_DRIVER_NAME: usize = 63;

/// The name of a driver.
fn validate_driver(driver: &str, path: &Path<'_>, errors: &mut Errors) {
    if driver.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    if driver.len() > MAX_DRIVER_NAME {
        errors.push(Error::too_long(path, MAX_DRIVER_NAME));
    }
    let lower = driver.to_lowercase();
    let complaints = name::dns1123_subdomain(&lower);
    errors.extend(complaints.into_iter().map(|why| Error::invalid(path, driver, why)));
}

/// A qualified name whose case does not matter.
fn validate_provisioner(provisioner: &str, path: &Path<'_>, errors: &mut Errors) {
    if provisioner.is_empty() {
        errors.push(Error::required(path, ""));
    } else {
        checks::name(errors, path, &provisioner.to_lowercase(), name::qualified_name);
    }
}
