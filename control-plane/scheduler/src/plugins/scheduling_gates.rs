//! SchedulingGates: a pod with gates is not considered until they are gone (KEP-3521).

use std::sync::Arc;

use k8s_openapi::api::core::v1::PodSchedulingGate;

use crate::{
    framework::{ClusterEvent, Plugin, PreEnqueue, QueueingHint, Registrar, Status},
    pod_info::PodInfo,
};

pub(super) const NAME: &str = "SchedulingGates";

pub(super) fn register(registrar: &mut Registrar<'_>) {
    registrar.pre_enqueue(Arc::new(SchedulingGates));
    registrar.hints(Arc::new(SchedulingGates));
}

struct SchedulingGates;

fn gates(pod: &PodInfo) -> &[PodSchedulingGate] {
    pod.spec().and_then(|spec| spec.scheduling_gates.as_deref()).unwrap_or_default()
}

impl Plugin for SchedulingGates {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queueing_hint(&self, event: &ClusterEvent, pod: &PodInfo) -> QueueingHint {
        match event {
            ClusterEvent::PodUpdate { new, .. } => (new.uid == pod.uid && gates(new).is_empty()).into(),
            _ => QueueingHint::Skip,
        }
    }
}

impl PreEnqueue for SchedulingGates {
    fn pre_enqueue(&self, pod: &PodInfo) -> Status {
        let gates: Vec<&str> = gates(pod).iter().map(|gate| gate.name.as_str()).collect();
        if gates.is_empty() {
            return Status::success();
        }
        Status::unresolvable(format!("waiting for scheduling gates: [{}]", gates.join(" ")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{message, pod_with};

    #[test]
    fn a_gated_pod_waits_and_says_for_what() {
        let pod = pod_with("a", json!({ "schedulingGates": [{ "name": "foo" }, { "name": "bar" }] }));
        assert_eq!(message(&SchedulingGates.pre_enqueue(&pod)), "waiting for scheduling gates: [foo bar]");
        assert!(SchedulingGates.pre_enqueue(&pod_with("a", json!({}))).is_success());
    }
}
