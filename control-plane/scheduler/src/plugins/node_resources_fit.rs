//! NodeResourcesFit: what the pod requests must be free; less allocated nodes score higher.

use std::{borrow::Cow, sync::Arc};

use crate::{
    framework::{
        ClusterEvent, Code, CycleState, Filter, MAX_NODE_SCORE, Plugin, QueueingHint, Registrar, Score, Status,
    },
    node_info::NodeInfo,
    pod_info::PodInfo,
    resource::Resource,
};

pub(super) const NAME: &str = "NodeResourcesFit";

pub(super) fn register(registrar: &mut Registrar<'_>) {
    let plugin = Arc::new(NodeResourcesFit);
    registrar.filter(plugin.clone());
    registrar.score(plugin.clone());
    registrar.hints(plugin);
}

struct NodeResourcesFit;

/// Calls `each` with name, wanted and free amount, and capacity of every resource the pod requests.
fn each_request(pod: &Resource, used: &Resource, allocatable: &Resource, mut each: impl FnMut(&str, i64, i64, i64)) {
    let mut check = |name: &str, wanted: i64, used: i64, capacity: i64| {
        if wanted > 0 {
            each(name, wanted, capacity.saturating_sub(used), capacity);
        }
    };
    check("cpu", pod.milli_cpu, used.milli_cpu, allocatable.milli_cpu);
    check("memory", pod.memory, used.memory, allocatable.memory);
    check("ephemeral-storage", pod.ephemeral_storage, used.ephemeral_storage, allocatable.ephemeral_storage);
    for (name, wanted) in &pod.scalars {
        check(name, *wanted, used.get(name), allocatable.get(name));
    }
}

fn insufficient(name: &str) -> Cow<'static, str> {
    match name {
        "cpu" => Cow::Borrowed("Insufficient cpu"),
        "memory" => Cow::Borrowed("Insufficient memory"),
        "ephemeral-storage" => Cow::Borrowed("Insufficient ephemeral-storage"),
        name => Cow::Owned(format!("Insufficient {name}")),
    }
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queueing_hint(&self, event: &ClusterEvent, pod: &PodInfo) -> QueueingHint {
        match event {
            // Any pod that goes frees at least a place in the number of pods.
            ClusterEvent::AssignedPodDelete { .. } => QueueingHint::Queue,
            ClusterEvent::PodUpdate { new, .. } if new.uid != pod.uid => QueueingHint::Skip,
            ClusterEvent::AssignedPodUpdate { old, new } | ClusterEvent::PodUpdate { old, new } => {
                let mut shrinks = false;
                let (old, new) = (&old.requests, &new.requests);
                each_request(old, new, old, |_, _, freed, _| shrinks |= freed > 0);
                shrinks.into()
            }
            ClusterEvent::NodeAdd { .. } | ClusterEvent::NodeUpdate { .. } => {
                let Some(node) = event.node() else { return QueueingHint::Skip };
                if let ClusterEvent::NodeUpdate { old, new } = event
                    && old.allocatable == new.allocatable
                {
                    return QueueingHint::Skip;
                }
                let mut fits = node.allocatable.pods > 0;
                let used = Resource::default();
                each_request(&pod.requests, &used, &node.allocatable, |_, wanted, free, _| fits &= wanted <= free);
                fits.into()
            }
            ClusterEvent::AssignedPodAdd { .. } => QueueingHint::Skip,
        }
    }
}

impl Filter for NodeResourcesFit {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        let allocatable = &node.facts.allocatable;
        let mut reasons = Vec::new();
        let mut never = false;
        if i64::try_from(node.pods.len()).unwrap_or(i64::MAX) >= allocatable.pods {
            reasons.push(Cow::Borrowed("Too many pods"));
        }
        each_request(&pod.requests, &node.requested, allocatable, |name, wanted, free, capacity| {
            if wanted > free {
                reasons.push(insufficient(name));
                // Not even an empty node would do: preemption cannot help.
                never |= wanted > capacity;
            }
        });
        if reasons.is_empty() {
            return Status::success();
        }
        let code = if never { Code::UnschedulableAndUnresolvable } else { Code::Unschedulable };
        Status::with_reasons(code, reasons)
    }
}

impl Score for NodeResourcesFit {
    /// LeastAllocated over cpu and memory, weight one each.
    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<i64, Status> {
        let allocatable = &node.facts.allocatable;
        let resources = [
            (allocatable.milli_cpu, node.non_zero.milli_cpu.saturating_add(pod.non_zero.milli_cpu)),
            (allocatable.memory, node.non_zero.memory.saturating_add(pod.non_zero.memory)),
        ];
        let (mut sum, mut weights) = (0, 0);
        for (capacity, requested) in resources.into_iter().filter(|(capacity, _)| *capacity > 0) {
            sum += least_requested(requested, capacity);
            weights += 1;
        }
        Ok(if weights == 0 { 0 } else { sum / weights })
    }
}

fn least_requested(requested: i64, capacity: i64) -> i64 {
    if requested > capacity {
        return 0;
    }
    let free = i128::from(capacity - requested);
    i64::try_from(free * i128::from(MAX_NODE_SCORE) / i128::from(capacity)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{arrival, message, node, pod_with};

    fn requesting(name: &str, requests: Value) -> Arc<PodInfo> {
        pod_with(name, json!({ "containers": [{ "name": "c", "resources": { "requests": requests } }] }))
    }

    fn with(allocatable: Value, pods: &[Value]) -> NodeInfo {
        let mut node = node(json!({ "metadata": { "name": "n" }, "status": { "allocatable": allocatable } }));
        for (index, requests) in pods.iter().enumerate() {
            node.add_pod(requesting(&format!("on-{index}"), requests.clone()));
        }
        node
    }

    fn filter(pod: Value, node: &NodeInfo) -> Status {
        NodeResourcesFit.filter(&CycleState::default(), &requesting("a", pod), node)
    }

    #[test]
    fn what_is_free_fits_to_the_last_unit() {
        let node = with(json!({ "cpu": "2", "memory": "1Gi", "pods": "10" }), &[json!({ "cpu": "1500m" })]);
        assert!(filter(json!({ "cpu": "500m", "memory": "1Gi" }), &node).is_success());
        let status = filter(json!({ "cpu": "501m" }), &node);
        assert_eq!((status.code(), message(&status)), (Code::Unschedulable, "Insufficient cpu".to_owned()));
    }

    #[test]
    fn every_shortage_is_named_in_upstreams_order() {
        let node = with(json!({ "cpu": "1", "memory": "1", "ephemeral-storage": "1", "pods": "0" }), &[]);
        let status =
            filter(json!({ "cpu": "2", "memory": "2", "ephemeral-storage": "2", "example.com/gpu": "1" }), &node);
        assert_eq!(
            status.reasons(),
            [
                "Too many pods",
                "Insufficient cpu",
                "Insufficient memory",
                "Insufficient ephemeral-storage",
                "Insufficient example.com/gpu"
            ]
        );
    }

    #[test]
    fn a_request_beyond_the_whole_node_is_unresolvable() {
        let node = with(json!({ "cpu": "1", "pods": "10" }), &[]);
        assert_eq!(filter(json!({ "cpu": "2" }), &node).code(), Code::UnschedulableAndUnresolvable);
    }

    #[test]
    fn a_pod_that_asks_for_nothing_fits_on_an_overcommitted_node() {
        let node = with(json!({ "cpu": "1", "pods": "10" }), &[json!({ "cpu": "3" })]);
        assert!(filter(json!({}), &node).is_success());
    }

    #[test]
    fn the_emptier_node_scores_higher() {
        let allocatable = json!({ "cpu": "4", "memory": "10000Mi", "pods": "10" });
        let score = |pods: &[Value]| {
            let pod = requesting("a", json!({ "cpu": "1", "memory": "2500Mi" }));
            NodeResourcesFit.score(&CycleState::default(), &pod, &with(allocatable.clone(), pods)).unwrap()
        };
        assert_eq!(score(&[]), 75);
        assert_eq!(score(&[json!({ "cpu": "1", "memory": "5000Mi" })]), (50 + 25) / 2);
        assert_eq!(score(&[json!({ "cpu": "4", "memory": "10000Mi" })]), 0);
    }

    #[test]
    fn a_node_large_enough_and_a_pod_gone_are_worth_another_attempt() {
        let pod = requesting("a", json!({ "cpu": "2" }));
        let hint = |event: &ClusterEvent| NodeResourcesFit.queueing_hint(event, &pod);
        assert_eq!(hint(&arrival(&with(json!({ "cpu": "2", "pods": "1" }), &[]))), QueueingHint::Queue);
        assert_eq!(hint(&arrival(&with(json!({ "cpu": "1", "pods": "1" }), &[]))), QueueingHint::Skip);
        let gone = requesting("gone", json!({}));
        assert_eq!(hint(&ClusterEvent::AssignedPodDelete { pod: gone.clone() }), QueueingHint::Queue);
        assert_eq!(hint(&ClusterEvent::AssignedPodAdd { pod: gone.clone() }), QueueingHint::Skip);
        let shrunk = ClusterEvent::PodUpdate { old: pod.clone(), new: requesting("a", json!({ "cpu": "1" })) };
        assert_eq!(hint(&shrunk), QueueingHint::Queue);
    }
}
