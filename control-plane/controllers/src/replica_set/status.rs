//! What a ReplicaSet's status says about its pods.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::pod_control::has_labels;
use crate::{meta, pod};

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Numbers that are zero are left out, as upstream's `omitempty` does.
fn optional(number: usize) -> Option<i32> {
    (number > 0).then(|| count(number))
}

/// The status for the active pods; `failure` is reason and message of the ReplicaFailure condition.
pub(super) fn calculate(
    set: &ReplicaSet,
    active: &[Arc<Pod>],
    terminating: usize,
    failure: Option<(&'static str, String)>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let spec = set.spec.clone().unwrap_or_default();
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let template =
        spec.template.and_then(|template| template.metadata).and_then(|meta| meta.labels).unwrap_or_default();
    let old = set.status.clone().unwrap_or_default();
    let labelled = active.iter().filter(|pod| has_labels(meta::labels(&pod.metadata), &template)).count();
    let ready = active.iter().filter(|pod| pod::is_ready(pod)).count();
    let available = active.iter().filter(|pod| pod::is_available(pod, min_ready, now)).count();

    let mut conditions = old.conditions.unwrap_or_default();
    let known = conditions.iter().any(|condition| condition.type_ == "ReplicaFailure");
    match failure {
        Some((reason, message)) if !known => conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".to_owned(),
            status: "True".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(Time(now)),
        }),
        Some(_) => {}
        None => conditions.retain(|condition| condition.type_ != "ReplicaFailure"),
    }
    ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: optional(labelled),
        ready_replicas: optional(ready),
        available_replicas: optional(available),
        terminating_replicas: Some(count(terminating)),
        observed_generation: set.metadata.generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
    }
}

/// When the next ready pod becomes available by mere waiting.
pub(super) fn next_availability(set: &ReplicaSet, active: &[Arc<Pod>], now: Timestamp) -> Option<Duration> {
    let min_ready = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    active.iter().filter_map(|pod| pod::until_available(pod, min_ready, now)).filter(|wait| !wait.is_zero()).min()
}
