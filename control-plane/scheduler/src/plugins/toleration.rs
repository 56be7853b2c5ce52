//! Which tolerations tolerate which taints.

use k8s_openapi::api::core::v1::{Taint, Toleration};

pub(super) const NO_SCHEDULE: &str = "NoSchedule";
pub(super) const NO_EXECUTE: &str = "NoExecute";
pub(super) const PREFER_NO_SCHEDULE: &str = "PreferNoSchedule";

/// Whether any of `tolerations` tolerates `taint`.
pub(super) fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| tolerates_one(toleration, taint))
}

fn tolerates_one(toleration: &Toleration, taint: &Taint) -> bool {
    let is = |given: &Option<String>, actual: &str| match given.as_deref() {
        None | Some("") => true,
        Some(given) => given == actual,
    };
    if !is(&toleration.effect, &taint.effect) || !is(&toleration.key, &taint.key) {
        return false;
    }
    match toleration.operator.as_deref() {
        None | Some("" | "Equal") => {
            toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        Some("Exists") => true,
        Some(_) => false,
    }
}
