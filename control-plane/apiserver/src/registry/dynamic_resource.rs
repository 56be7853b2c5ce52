//! `resource.k8s.io`: devices, and claims for them.

mod claim_spec;
mod device_class;
mod resource_claim;
mod resource_claim_template;
mod resource_slice;

pub(crate) use device_class::DeviceClasses;
pub(crate) use resource_claim::ResourceClaims;
pub(crate) use resource_claim_template::ResourceClaimTemplates;
pub(crate) use resource_slice::ResourceSlices;

/// The group's name.
const GROUP: &str = "resource.k8s.io";
