//! Which pods go first when there are too many.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use crate::{meta, pod};

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Chooses `excess` of `pods`. `related` are the pods whose crowding on a node counts.
pub(crate) fn pods_to_delete(pods: &[Arc<Pod>], related: &[Arc<Pod>], excess: usize, now: Timestamp) -> Vec<Arc<Pod>> {
    if excess >= pods.len() {
        return pods.to_vec();
    }
    let mut crowd: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|pod| pod::is_active(pod)) {
        *crowd.entry(pod::node_name(pod)).or_default() += 1;
    }
    let mut ranked: Vec<_> =
        pods.iter().map(|pod| (pod, crowd.get(pod::node_name(pod)).copied().unwrap_or(0))).collect();
    ranked.sort_by(|(a, a_crowd), (b, b_crowd)| compare(a, *a_crowd, b, *b_crowd, now));
    ranked.into_iter().take(excess).map(|(pod, _)| pod.clone()).collect()
}

/// Less means deleted earlier. The order of upstream's ActivePodsWithRanks.
fn compare(a: &Pod, a_crowd: usize, b: &Pod, b_crowd: usize, now: Timestamp) -> Ordering {
    let assigned = |pod: &Pod| !pod::node_name(pod).is_empty();
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase_order(a).cmp(&phase_order(b)))
        .then_with(|| pod::is_ready(a).cmp(&pod::is_ready(b)))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| b_crowd.cmp(&a_crowd))
        .then_with(|| match (pod::is_ready(a), pod::is_ready(b)) {
            (true, true) => youngest_first(pod::ready_since(a), pod::ready_since(b), a, b, now),
            _ => Ordering::Equal,
        })
        .then_with(|| pod::max_restarts(b).cmp(&pod::max_restarts(a)))
        .then_with(|| {
            let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
            youngest_first(created(a), created(b), a, b, now)
        })
}

fn phase_order(pod: &Pod) -> u8 {
    match pod::phase(pod) {
        "Pending" | "" => 0,
        "Unknown" => 1,
        _ => 2,
    }
}

/// An annotation that is no number counts as zero.
fn deletion_cost(pod: &Pod) -> i32 {
    meta::annotation(&pod.metadata, DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

/// Younger first, compared by the logarithm of the age so that among pods of about the same age chance (the uid) decides
/// and not the order of creation. KEP-2185.
fn youngest_first(a_time: Option<Timestamp>, b_time: Option<Timestamp>, a: &Pod, b: &Pod, now: Timestamp) -> Ordering {
    match (a_time, b_time) {
        (a_time, b_time) if a_time == b_time => Ordering::Equal,
        (None, _) => Ordering::Less,
        (_, None) => Ordering::Greater,
        (Some(a_time), Some(b_time)) => {
            let age = |time: Timestamp| match now.duration_since(time).as_nanos() {
                nanos if nanos <= 0 => -1,
                nanos => i64::from(nanos.ilog2()),
            };
            age(a_time).cmp(&age(b_time)).then_with(|| meta::uid(&a.metadata).cmp(meta::uid(&b.metadata)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodCondition, PodSpec, PodStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    struct Make {
        name: &'static str,
        node: &'static str,
        phase: &'static str,
        ready_for: Option<i64>,
        cost: Option<&'static str>,
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_000_000).unwrap()
    }

    fn make(m: Make) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.name = Some(m.name.into());
        pod.metadata.uid = Some(m.name.into());
        pod.metadata.creation_timestamp = Some(Time(Timestamp::from_second(900_000).unwrap()));
        pod.metadata.annotations = m.cost.map(|cost| [(DELETION_COST.to_owned(), cost.to_owned())].into());
        pod.spec = Some(PodSpec { node_name: Some(m.node.into()), ..Default::default() });
        let ready = m.ready_for.map(|seconds| PodCondition {
            type_: "Ready".into(),
            status: "True".into(),
            last_transition_time: Some(Time(Timestamp::from_second(1_000_000 - seconds).unwrap())),
            ..Default::default()
        });
        pod.status = Some(PodStatus {
            phase: Some(m.phase.into()),
            conditions: Some(ready.into_iter().collect()),
            ..Default::default()
        });
        Arc::new(pod)
    }

    fn running(name: &'static str, node: &'static str, ready_for: Option<i64>) -> Arc<Pod> {
        make(Make { name, node, phase: "Running", ready_for, cost: None })
    }

    fn order(pods: &[Arc<Pod>]) -> Vec<String> {
        let sorted = pods_to_delete(pods, pods, pods.len() - 1, now());
        sorted.iter().map(|pod| meta::name(&pod.metadata).to_owned()).collect()
    }

    #[test]
    fn unassigned_pending_and_unready_pods_go_first() {
        let pods = [
            running("ready", "n1", Some(100)),
            running("unready", "n2", None),
            make(Make { name: "pending", node: "n3", phase: "Pending", ready_for: None, cost: None }),
            make(Make { name: "unassigned", node: "", phase: "Pending", ready_for: None, cost: None }),
        ];
        assert_eq!(order(&pods), ["unassigned", "pending", "unready"]);
    }

    #[test]
    fn a_lower_deletion_cost_goes_before_crowding() {
        let pods = [
            running("crowded-1", "n1", Some(100)),
            running("crowded-2", "n1", Some(100)),
            make(Make { name: "cheap", node: "n2", phase: "Running", ready_for: Some(100), cost: Some("-10") }),
        ];
        assert_eq!(order(&pods)[0], "cheap");
    }

    #[test]
    fn pods_on_a_crowded_node_go_before_lone_ones() {
        let pods = [
            running("lone", "n1", Some(1)),
            running("crowded-1", "n2", Some(1000)),
            running("crowded-2", "n2", Some(1000)),
        ];
        assert_eq!(order(&pods), ["crowded-1", "crowded-2"]);
    }

    #[test]
    fn the_shortest_ready_goes_first() {
        let pods =
            [running("old", "n1", Some(100_000)), running("new", "n2", Some(10)), running("mid", "n3", Some(1000))];
        assert_eq!(order(&pods), ["new", "mid"]);
    }
}
