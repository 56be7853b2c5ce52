//! NodeResourcesBalancedAllocation: prefers nodes whose cpu and memory would be used in like proportion.

use std::sync::Arc;

use crate::{
    framework::{CycleState, MAX_NODE_SCORE, Plugin, PreScore, Registrar, Score, Status},
    node_info::NodeInfo,
    pod_info::PodInfo,
    snapshot::Snapshot,
};

pub(super) const NAME: &str = "NodeResourcesBalancedAllocation";

pub(super) fn register(registrar: &mut Registrar<'_>) {
    let plugin = Arc::new(BalancedAllocation);
    registrar.pre_score(plugin.clone());
    registrar.score(plugin);
}

struct BalancedAllocation;

impl Plugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        NAME
    }
}

impl PreScore for BalancedAllocation {
    fn pre_score(&self, _: &mut CycleState, pod: &PodInfo, _: &[Arc<NodeInfo>], _: &Snapshot) -> Status {
        // A pod that asks for nothing changes no proportion; scoring it would heap such pods on one node.
        let best_effort = pod.requests.milli_cpu == 0 && pod.requests.memory == 0;
        if best_effort { Status::skip() } else { Status::success() }
    }
}

impl Score for BalancedAllocation {
    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<i64, Status> {
        let allocatable = &node.facts.allocatable;
        let cpu = fraction(node.requested.milli_cpu.saturating_add(pod.requests.milli_cpu), allocatable.milli_cpu);
        let memory = fraction(node.requested.memory.saturating_add(pod.requests.memory), allocatable.memory);
        let deviation = match (cpu, memory) {
            (Some(cpu), Some(memory)) => (cpu - memory).abs() / 2.0,
            _ => 0.0,
        };
        #[expect(clippy::cast_possible_truncation, reason = "within 0 and 100")]
        Ok(((1.0 - deviation) * MAX_NODE_SCORE as f64) as i64)
    }
}

fn fraction(requested: i64, capacity: i64) -> Option<f64> {
    (capacity > 0).then(|| (requested as f64 / capacity as f64).min(1.0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        framework::Code,
        testing::{node, pod_with},
    };

    #[test]
    fn even_use_scores_best() {
        let node = node(json!({
            "metadata": { "name": "n" }, "status": { "allocatable": { "cpu": "10", "memory": "10Gi" } },
        }));
        let score = |cpu: &str, memory: &str| {
            let requests = json!({ "requests": { "cpu": cpu, "memory": memory } });
            let pod = pod_with("a", json!({ "containers": [{ "name": "c", "resources": requests }] }));
            BalancedAllocation.score(&CycleState::default(), &pod, &node).unwrap()
        };
        assert_eq!(score("5", "5Gi"), 100);
        assert_eq!(score("10", "5Gi"), 75);
        assert_eq!(score("20", "0"), 50);
    }

    #[test]
    fn pods_that_ask_for_nothing_are_not_scored() {
        let pod = pod_with("a", json!({}));
        let status = BalancedAllocation.pre_score(&mut CycleState::default(), &pod, &[], &Snapshot::default());
        assert_eq!(status.code(), Code::Skip);
    }
}
