//! NodeName: `spec.nodeName`, where set, is the only node that will do.

use std::sync::Arc;

use crate::{
    framework::{ClusterEvent, CycleState, Filter, Plugin, QueueingHint, Registrar, Status},
    node_info::NodeInfo,
    pod_info::PodInfo,
};

pub(super) const NAME: &str = "NodeName";
const REASON: &str = "node(s) didn't match the requested node name";

pub(super) fn register(registrar: &mut Registrar<'_>) {
    registrar.filter(Arc::new(NodeName));
    registrar.hints(Arc::new(NodeName));
}

struct NodeName;

fn fits(pod: &PodInfo, node: &str) -> bool {
    pod.node_name().is_none_or(|wanted| wanted == node)
}

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queueing_hint(&self, event: &ClusterEvent, pod: &PodInfo) -> QueueingHint {
        event.node_now_fits(|node| fits(pod, &node.name)).into()
    }
}

impl Filter for NodeName {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        if fits(pod, node.name()) { Status::success() } else { Status::unresolvable(REASON) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{message, plain_node, pod_with};

    #[test]
    fn only_the_named_node_fits() {
        let pod = pod_with("a", json!({ "nodeName": "here" }));
        let state = CycleState::default();
        assert!(NodeName.filter(&state, &pod, &plain_node("here")).is_success());
        assert_eq!(message(&NodeName.filter(&state, &pod, &plain_node("there"))), REASON);
        assert!(NodeName.filter(&state, &pod_with("b", json!({})), &plain_node("there")).is_success());
    }
}
