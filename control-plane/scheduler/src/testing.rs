//! Small objects for unit tests.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    framework::{Status, events::ClusterEvent},
    node_info::{NodeFacts, NodeInfo},
    pod_info::PodInfo,
};

/// A pod from its JSON.
pub(crate) fn pod(value: Value) -> Arc<PodInfo> {
    Arc::new(PodInfo::new(Arc::new(serde_json::from_value(value).unwrap())))
}

/// A pod of namespace `ns` with this spec; containers may be left out.
pub(crate) fn pod_with(name: &str, mut spec: Value) -> Arc<PodInfo> {
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{ "name": "c" }]);
    }
    pod(json!({ "metadata": { "namespace": "ns", "name": name, "uid": name }, "spec": spec }))
}

/// The facts of a node from its JSON.
pub(crate) fn facts(value: Value) -> Arc<NodeFacts> {
    Arc::new(NodeFacts::from(&serde_json::from_value(value).unwrap()))
}

/// A node without pods from the JSON of its Node object.
pub(crate) fn node(value: Value) -> NodeInfo {
    NodeInfo::new(facts(value))
}

/// A node of 2 CPUs, 4Gi and 110 pods.
pub(crate) fn plain_node(name: &str) -> NodeInfo {
    node(json!({
        "metadata": { "name": name },
        "status": { "allocatable": { "cpu": "2", "memory": "4Gi", "pods": "110" } },
    }))
}

/// The event of a node's arrival.
pub(crate) fn arrival(node: &NodeInfo) -> ClusterEvent {
    ClusterEvent::NodeAdd { node: node.facts.clone() }
}

/// The message of a rejection.
pub(crate) fn message(status: &Status) -> String {
    assert!(status.is_rejected(), "expected a rejection, got {status:?}");
    status.message()
}
