//! Who owns which fields survives webhooks that do not understand it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use skep_apply::Managed;

use super::Attributes;

/// Puts back the `owners` there were, with a warning, if what webhooks made of them cannot be read.
pub(super) fn restore(attributes: &Attributes<'_>, meta: &mut ObjectMeta, owners: Option<Vec<ManagedFieldsEntry>>) {
    if meta.managed_fields == owners {
        return;
    }
    if let Err(error) = Managed::decode_all(meta.managed_fields.clone().unwrap_or_default()) {
        attributes.scope.warn(format!(
            ".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating \
             admission controller; please fix your requests: {error}"
        ));
        meta.managed_fields = owners;
    }
}
