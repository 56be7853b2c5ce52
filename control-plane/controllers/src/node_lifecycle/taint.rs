//! Which taints a node's conditions ask for. Pure functions.

use k8s_openapi::api::core::v1::{Node, Taint};

use super::health;
use crate::meta;

pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(super) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// (condition, status, taint)
const BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

fn wanted_no_schedule(node: &Node) -> Vec<&'static str> {
    let mut keys: Vec<_> = BY_CONDITION
        .iter()
        .filter(|(type_, status, _)| {
            health::condition(node, type_).is_some_and(|condition| condition.status == *status)
        })
        .map(|(_, _, key)| *key)
        .collect();
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        keys.push(UNSCHEDULABLE);
    }
    keys
}

fn wanted_no_execute(node: &Node) -> Option<&'static str> {
    match health::ready(node)?.status.as_str() {
        "False" => Some(NOT_READY),
        "Unknown" => Some(UNREACHABLE),
        _ => None,
    }
}

fn is_no_schedule_of_ours(taint: &Taint) -> bool {
    taint.effect == "NoSchedule"
        && (taint.key == UNSCHEDULABLE || BY_CONDITION.iter().any(|(_, _, key)| taint.key == *key))
}

fn is_no_execute_of_ours(taint: &Taint) -> bool {
    taint.effect == "NoExecute" && (taint.key == NOT_READY || taint.key == UNREACHABLE)
}

/// True if the node is to get its first NoExecute taint, which is subject to the zone's eviction rate.
pub(super) fn needs_new_eviction(node: &Node) -> bool {
    let known = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    wanted_no_execute(node).is_some() && !known.iter().any(is_no_execute_of_ours)
}

/// The node's whole new list of taints; None if it is right already. Without `evict` it has
/// no NoExecute taint of ours.
pub(super) fn desired(node: &Node, known: &[Taint], evict: bool) -> Option<Vec<Taint>> {
    let no_schedule = wanted_no_schedule(node);
    let no_execute = wanted_no_execute(node).filter(|_| evict);
    let mut taints: Vec<Taint> = known
        .iter()
        .filter(|taint| !is_no_schedule_of_ours(taint) || no_schedule.contains(&taint.key.as_str()))
        .filter(|taint| !is_no_execute_of_ours(taint) || no_execute == Some(taint.key.as_str()))
        .cloned()
        .collect();
    let wanted = no_schedule.iter().map(|key| (*key, "NoSchedule")).chain(no_execute.map(|key| (key, "NoExecute")));
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            taints.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                value: None,
                time_added: Some(meta::now()),
            });
        }
    }
    (taints != known).then_some(taints)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{NodeCondition, NodeSpec, NodeStatus};

    fn node(ready: &str, taints: Vec<Taint>) -> Node {
        let condition = NodeCondition { type_: "Ready".into(), status: ready.into(), ..Default::default() };
        Node {
            spec: Some(NodeSpec { taints: Some(taints), ..Default::default() }),
            status: Some(NodeStatus { conditions: Some(vec![condition]), ..Default::default() }),
            ..Default::default()
        }
    }

    fn names(taints: &[Taint]) -> Vec<(&str, &str)> {
        taints.iter().map(|taint| (taint.key.as_str(), taint.effect.as_str())).collect()
    }

    #[test]
    fn a_silent_node_is_tainted_and_a_healthy_one_freed() {
        let silent = node("Unknown", vec![]);
        assert!(needs_new_eviction(&silent));
        let taints = desired(&silent, &[], true).unwrap();
        assert_eq!(names(&taints), [(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]);
        assert!(desired(&silent, &taints, true).is_none());
        let healthy = node("True", taints.clone());
        assert_eq!(desired(&healthy, &taints, true), Some(vec![]));
    }

    #[test]
    fn without_permission_to_evict_only_scheduling_stops() {
        let taints = desired(&node("False", vec![]), &[], false).unwrap();
        assert_eq!(names(&taints), [(NOT_READY, "NoSchedule")]);
        let evicting = desired(&node("False", vec![]), &[], true).unwrap();
        let called_off = desired(&node("False", evicting.clone()), &evicting, false).unwrap();
        assert_eq!(names(&called_off), [(NOT_READY, "NoSchedule")]);
    }

    #[test]
    fn taints_of_others_stay() {
        let mine = Taint { key: "dedicated".into(), effect: "NoExecute".into(), ..Default::default() };
        assert!(desired(&node("True", vec![mine.clone()]), &[mine], true).is_none());
    }

    #[test]
    fn a_cordoned_node_gets_the_unschedulable_taint() {
        let mut node = node("True", vec![]);
        node.spec.get_or_insert_default().unschedulable = Some(true);
        assert_eq!(names(&desired(&node, &[], true).unwrap()), [(UNSCHEDULABLE, "NoSchedule")]);
    }
}
