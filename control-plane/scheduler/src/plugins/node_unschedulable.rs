//! NodeUnschedulable: cordoned nodes take only pods that tolerate it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Taint;

use super::toleration::{NO_SCHEDULE, hint_of_taints, tolerates};
use crate::{
    framework::{ClusterEvent, CycleState, Filter, Plugin, QueueingHint, Registrar, Status},
    node_info::{NodeFacts, NodeInfo},
    pod_info::PodInfo,
};

pub(super) const NAME: &str = "NodeUnschedulable";
const REASON: &str = "node(s) were unschedulable";
const TAINT: &str = "node.kubernetes.io/unschedulable";

pub(super) fn register(registrar: &mut Registrar<'_>) {
    registrar.filter(Arc::new(NodeUnschedulable));
    registrar.hints(Arc::new(NodeUnschedulable));
}

struct NodeUnschedulable;

fn fits(pod: &PodInfo, node: &NodeFacts) -> bool {
    if !node.unschedulable {
        return true;
    }
    let taint = Taint { key: TAINT.to_owned(), effect: NO_SCHEDULE.to_owned(), ..Taint::default() };
    tolerates(pod.tolerations(), &taint)
}

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queueing_hint(&self, event: &ClusterEvent, pod: &PodInfo) -> QueueingHint {
        hint_of_taints(event, pod, |node| fits(pod, node))
    }
}

impl Filter for NodeUnschedulable {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        if fits(pod, &node.facts) { Status::success() } else { Status::unresolvable(REASON) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{message, node, pod_with};

    #[test]
    fn a_cordoned_node_takes_only_pods_that_tolerate_it() {
        let cordoned = node(json!({ "metadata": { "name": "n" }, "spec": { "unschedulable": true } }));
        let state = CycleState::default();
        let plain = pod_with("a", json!({}));
        assert_eq!(message(&NodeUnschedulable.filter(&state, &plain, &cordoned)), REASON);
        let daemon = pod_with("b", json!({ "tolerations": [{ "key": TAINT, "operator": "Exists" }] }));
        assert!(NodeUnschedulable.filter(&state, &daemon, &cordoned).is_success());
    }

    #[test]
    fn uncordoning_is_worth_another_attempt() {
        let facts = |unschedulable| {
            node(json!({ "metadata": { "name": "n" }, "spec": { "unschedulable": unschedulable } })).facts
        };
        let pod = pod_with("a", json!({}));
        let hint = |old, new| {
            NodeUnschedulable.queueing_hint(&ClusterEvent::NodeUpdate { old: facts(old), new: facts(new) }, &pod)
        };
        assert_eq!(hint(true, false), QueueingHint::Queue);
        assert_eq!(hint(false, true), QueueingHint::Skip);
        assert_eq!(hint(false, false), QueueingHint::Skip);
    }
}
