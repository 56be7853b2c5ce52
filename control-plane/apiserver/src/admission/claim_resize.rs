//! PersistentVolumeClaimResize: a claim grows only when it is bound and its class allows it.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use skep_api::{Quantity, quota::storage_class, status::StatusError};

use super::{Admission, Attributes};
use crate::registry::object::Object;

impl Admission {
    pub(super) async fn claim_resize(
        &self,
        attributes: &Attributes<'_>,
        object: &dyn Object,
    ) -> Result<(), StatusError> {
        let claim = object.as_any().downcast_ref::<PersistentVolumeClaim>();
        let old = attributes.old.and_then(|old| old.as_any().downcast_ref::<PersistentVolumeClaim>());
        let (Some(claim), Some(old)) = (claim, old) else { return Ok(()) };
        if size(claim) <= size(old) {
            return Ok(());
        }
        if old.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Bound") {
            return Err(attributes.forbidden(object, "Only bound persistent volume claims can be expanded"));
        }
        let class = storage_class(claim).filter(|class| !class.is_empty() && storage_class(old) == Some(class));
        let allowed = match class {
            Some(class) => {
                let allows = self.storage_classes.find(&self.storage, class, |class| class.allow_volume_expansion);
                allows.await?.flatten() == Some(true)
            }
            None => false,
        };
        if allowed {
            return Ok(());
        }
        let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must \
                   support resize";
        Err(attributes.forbidden(object, why))
    }
}

fn size(claim: &PersistentVolumeClaim) -> Quantity {
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    let storage = requests.and_then(|requests| requests.get("storage"));
    storage.and_then(|wire| Quantity::parse(&wire.0).ok()).unwrap_or_default()
}
