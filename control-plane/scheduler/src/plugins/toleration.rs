//! Which tolerations tolerate which taints.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::{
    framework::{ClusterEvent, QueueingHint},
    node_info::NodeFacts,
    pod_info::PodInfo,
};

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

/// Whether a pod rejected for taints may fit now: it tolerates others than before, or a node `fits` that did not.
pub(super) fn hint_of_taints(event: &ClusterEvent, pod: &PodInfo, fits: impl Fn(&NodeFacts) -> bool) -> QueueingHint {
    match event {
        ClusterEvent::PodUpdate { old, new } => (new.uid == pod.uid && old.tolerations() != new.tolerations()).into(),
        _ => event.node_now_fits(fits).into(),
    }
}
