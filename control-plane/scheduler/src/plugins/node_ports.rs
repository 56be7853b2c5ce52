//! NodePorts: ports of the host can be had once.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    framework::{ClusterEvent, CycleState, Filter, Plugin, PreFilter, QueueingHint, Registrar, Status},
    host_ports::conflict,
    node_info::NodeInfo,
    pod_info::PodInfo,
    snapshot::Snapshot,
};

pub(super) const NAME: &str = "NodePorts";
const REASON: &str = "node(s) didn't have free ports for the requested pod ports";

pub(super) fn register(registrar: &mut Registrar<'_>) {
    let plugin = Arc::new(NodePorts);
    registrar.pre_filter(plugin.clone());
    registrar.filter(plugin.clone());
    registrar.hints(plugin);
}

struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queueing_hint(&self, event: &ClusterEvent, pod: &PodInfo) -> QueueingHint {
        match event {
            ClusterEvent::NodeAdd { .. } => QueueingHint::Queue,
            ClusterEvent::AssignedPodDelete { pod: gone } => conflict(&pod.host_ports, &gone.host_ports).into(),
            _ => QueueingHint::Skip,
        }
    }
}

impl PreFilter for NodePorts {
    fn pre_filter(&self, _: &mut CycleState, pod: &PodInfo, _: &Snapshot) -> (Status, Option<BTreeSet<String>>) {
        let status = if pod.host_ports.is_empty() { Status::skip() } else { Status::success() };
        (status, None)
    }
}

impl Filter for NodePorts {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        if node.used_ports.conflict(&pod.host_ports) { Status::unschedulable(REASON) } else { Status::success() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{message, plain_node, pod_with};

    fn wanting(name: &str, port: u16) -> Arc<PodInfo> {
        let ports = json!([{ "containerPort": port, "hostPort": port }]);
        pod_with(name, json!({ "containers": [{ "name": "c", "ports": ports }] }))
    }

    #[test]
    fn a_taken_port_keeps_a_pod_off_the_node_until_its_holder_goes() {
        let mut node = plain_node("n");
        let state = CycleState::default();
        assert!(NodePorts.filter(&state, &wanting("a", 80), &node).is_success());
        node.add_pod(wanting("holder", 80));
        assert_eq!(message(&NodePorts.filter(&state, &wanting("a", 80), &node)), REASON);
        assert!(NodePorts.filter(&state, &wanting("a", 81), &node).is_success());
        let gone = |port| ClusterEvent::AssignedPodDelete { pod: wanting("gone", port) };
        assert_eq!(NodePorts.queueing_hint(&gone(80), &wanting("a", 80)), QueueingHint::Queue);
        assert_eq!(NodePorts.queueing_hint(&gone(81), &wanting("a", 80)), QueueingHint::Skip);
    }

    #[test]
    fn a_pod_without_host_ports_skips_the_filter() {
        let (status, _) =
            NodePorts.pre_filter(&mut CycleState::default(), &pod_with("a", json!({})), &Snapshot::default());
        assert_eq!(status.code(), crate::framework::Code::Skip);
    }
}
