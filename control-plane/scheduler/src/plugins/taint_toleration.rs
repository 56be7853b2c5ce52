//! TaintToleration: NoSchedule and NoExecute taints must be tolerated, PreferNoSchedule taints cost score.

use std::sync::Arc;

use super::toleration::{NO_EXECUTE, NO_SCHEDULE, PREFER_NO_SCHEDULE, hint_of_taints, tolerates};
use crate::{
    framework::{
        ClusterEvent, CycleState, Filter, Plugin, PreScore, QueueingHint, Registrar, Score, Status,
        default_normalize_score,
    },
    node_info::{NodeFacts, NodeInfo},
    pod_info::PodInfo,
    snapshot::Snapshot,
};

pub(super) const NAME: &str = "TaintToleration";
/// Upstream stopped naming the taint in v1.35: keys and values may be nobody else's business.
const REASON: &str = "node(s) had untolerated taint(s)";

pub(super) fn register(registrar: &mut Registrar<'_>) {
    let plugin = Arc::new(TaintToleration);
    registrar.filter(plugin.clone());
    registrar.pre_score(plugin.clone());
    registrar.score(plugin.clone());
    registrar.hints(plugin);
}

struct TaintToleration;

fn fits(pod: &PodInfo, node: &NodeFacts) -> bool {
    let mut hard = node.taints.iter().filter(|taint| taint.effect == NO_SCHEDULE || taint.effect == NO_EXECUTE);
    hard.all(|taint| tolerates(pod.tolerations(), taint))
}

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queueing_hint(&self, event: &ClusterEvent, pod: &PodInfo) -> QueueingHint {
        hint_of_taints(event, pod, |node| fits(pod, node))
    }
}

impl Filter for TaintToleration {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        if fits(pod, &node.facts) { Status::success() } else { Status::unresolvable(REASON) }
    }
}

impl PreScore for TaintToleration {
    fn pre_score(&self, _: &mut CycleState, _: &PodInfo, nodes: &[Arc<NodeInfo>], _: &Snapshot) -> Status {
        // Without such a taint every node would get the same score.
        let mut taints = nodes.iter().flat_map(|node| &node.facts.taints);
        if taints.any(|taint| taint.effect == PREFER_NO_SCHEDULE) { Status::success() } else { Status::skip() }
    }
}

impl Score for TaintToleration {
    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<i64, Status> {
        let soft = node.facts.taints.iter().filter(|taint| taint.effect == PREFER_NO_SCHEDULE);
        let intolerable = soft.filter(|taint| !tolerates(pod.tolerations(), taint)).count();
        Ok(i64::try_from(intolerable).unwrap_or(i64::MAX))
    }

    fn normalize_score(&self, _: &CycleState, _: &PodInfo, scores: &mut [i64]) {
        default_normalize_score(scores, true);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{message, node, pod_with};

    fn tainted(taints: Value) -> NodeInfo {
        node(json!({ "metadata": { "name": "n" }, "spec": { "taints": taints } }))
    }

    fn tolerating(tolerations: Value) -> Arc<PodInfo> {
        pod_with("a", json!({ "tolerations": tolerations }))
    }

    fn filter(tolerations: Value, taints: Value) -> Status {
        TaintToleration.filter(&CycleState::default(), &tolerating(tolerations), &tainted(taints))
    }

    #[test]
    fn hard_taints_must_be_tolerated() {
        let taint = json!([{ "key": "k", "value": "v", "effect": "NoSchedule" }]);
        assert_eq!(message(&filter(json!([]), taint.clone())), REASON);
        assert!(filter(json!([{ "key": "k", "value": "v" }]), taint.clone()).is_success());
        assert!(!filter(json!([{ "key": "k", "value": "other" }]), taint.clone()).is_success());
        assert!(filter(json!([{ "key": "k", "operator": "Exists" }]), taint.clone()).is_success());
        assert!(filter(json!([{ "operator": "Exists" }]), taint.clone()).is_success());
        assert!(!filter(json!([{ "operator": "Exists", "effect": "NoExecute" }]), taint).is_success());
        assert!(!filter(json!([]), json!([{ "key": "k", "effect": "NoExecute" }])).is_success());
        assert!(filter(json!([]), json!([{ "key": "k", "effect": "PreferNoSchedule" }])).is_success());
    }

    #[test]
    fn the_node_with_fewer_intolerable_soft_taints_scores_higher() {
        let soft = |keys: &[&str]| {
            tainted(keys.iter().map(|key| json!({ "key": key, "effect": "PreferNoSchedule" })).collect())
        };
        let pod = tolerating(json!([{ "key": "fine", "operator": "Exists" }]));
        let state = CycleState::default();
        let nodes = [soft(&["a", "b"]), soft(&["a", "fine"]), soft(&["fine"])];
        let mut scores = nodes.map(|node| TaintToleration.score(&state, &pod, &node).unwrap());
        assert_eq!(scores, [2, 1, 0]);
        TaintToleration.normalize_score(&state, &pod, &mut scores);
        assert_eq!(scores, [0, 50, 100]);
    }

    #[test]
    fn losing_the_taint_is_worth_another_attempt() {
        let old = tainted(json!([{ "key": "k", "effect": "NoSchedule" }])).facts;
        let new = tainted(json!([])).facts;
        let event = ClusterEvent::NodeUpdate { old: old.clone(), new };
        assert_eq!(TaintToleration.queueing_hint(&event, &tolerating(json!([]))), QueueingHint::Queue);
        let event = ClusterEvent::NodeAdd { node: old };
        assert_eq!(TaintToleration.queueing_hint(&event, &tolerating(json!([]))), QueueingHint::Skip);
    }
}
