//! StorageObjectInUseProtection: volumes and claims get the finalizer that keeps them while in use.

use crate::registry::object::Object;

/// The finalizer of new objects of a resource.
pub(super) fn finalizer(group: &str, plural: &str) -> Option<&'static str> {
    match (group, plural) {
        ("", "persistentvolumes") => Some("kubernetes.io/pv-protection"),
        ("", "persistentvolumeclaims") => Some("kubernetes.io/pvc-protection"),
        _ => None,
    }
}

pub(super) fn protect(object: &mut dyn Object, finalizer: &str) {
    let finalizers = object.meta_mut().finalizers.get_or_insert_default();
    if !finalizers.iter().any(|own| own == finalizer) {
        finalizers.push(finalizer.to_owned());
    }
}
