//! What happens to a pod that could not be scheduled: queue, event, condition.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::Scheduler;
use crate::{
    framework::Status,
    metrics::Outcome,
    pod_info::PodInfo,
    queue::{Failure, QueuedPod},
};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a pod got no node.
#[derive(Debug)]
pub(super) enum Unscheduled {
    /// There is no node at all.
    NoNodes,
    /// No node fits.
    Unfit(Box<Diagnosis>),
    /// A plugin said no outside of Filter, or something is broken.
    Rejected(Status),
}

/// Which nodes said what.
#[derive(Debug, Default)]
pub(super) struct Diagnosis {
    /// Nodes in the cluster.
    pub(super) nodes: usize,
    /// Each node filtered out, with its status.
    pub(super) rejections: Vec<(Arc<str>, Status)>,
    /// Nodes never filtered, with their common status.
    pub(super) absent: Option<(usize, Status)>,
    /// Set when a PreFilter plugin rejected the pod whatever the node.
    pub(super) pre_filter: Option<String>,
    /// What PostFilter plugins (preemption) have to say.
    pub(super) post_filter: Option<String>,
    /// The plugins that rejected the pod somewhere.
    pub(super) plugins: BTreeSet<&'static str>,
}

impl Diagnosis {
    /// Upstream's FitError: how many nodes gave which reason.
    fn message(&self) -> String {
        let mut message = format!("0/{} nodes are available:", self.nodes);
        if let Some(reason) = &self.pre_filter {
            message.push_str(&format!(" {reason}."));
        } else {
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            for reason in self.rejections.iter().flat_map(|(_, status)| status.reasons()) {
                *counts.entry(reason).or_default() += 1;
            }
            if let Some((nodes, status)) = &self.absent {
                for reason in status.reasons() {
                    *counts.entry(reason).or_default() += nodes;
                }
            }
            let mut reasons: Vec<String> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            reasons.sort();
            if !reasons.is_empty() {
                message.push_str(&format!(" {}.", reasons.join(", ")));
            }
        }
        if let Some(post_filter) = &self.post_filter {
            message.push_str(&format!(" {post_filter}"));
        }
        message
    }
}

impl Unscheduled {
    pub(super) fn message(&self) -> String {
        match self {
            Self::NoNodes => "no nodes available to schedule pods".to_owned(),
            Self::Unfit(diagnosis) => diagnosis.message(),
            Self::Rejected(status) => status.message(),
        }
    }

    fn is_unschedulable(&self) -> bool {
        match self {
            Self::NoNodes | Self::Unfit(_) => true,
            Self::Rejected(status) => status.is_rejected(),
        }
    }
}

impl Scheduler {
    /// Requeues the pod and tells the world why; nothing here waits.
    pub(super) fn handle_failure(self: &Arc<Self>, pod: QueuedPod, why: Unscheduled, started: Instant) {
        let info = pod.info.clone();
        let message = why.message();
        let (outcome, reason) = if why.is_unschedulable() {
            (Outcome::Unschedulable, "Unschedulable")
        } else {
            (Outcome::Error, "SchedulerError")
        };
        let attempts = pod.attempts;
        self.metrics.attempt(self.framework.profile(), outcome, started.elapsed());
        let failure = match why {
            // Whatever any filter would hope for in a new node is worth a try.
            Unscheduled::NoNodes => Failure::Rejected(self.framework.filter_names()),
            Unscheduled::Unfit(diagnosis) => Failure::Rejected(diagnosis.plugins),
            Unscheduled::Rejected(status) if status.is_rejected() => {
                Failure::Rejected(BTreeSet::from([status.plugin()]))
            }
            Unscheduled::Rejected(_) => Failure::Error,
        };
        let gone = {
            let mut queue = self.queue.lock();
            let gone = queue.is_deleted(&info.uid);
            queue.failed(pod, failure, Instant::now());
            gone
        };
        self.wake.notify_one();
        match outcome {
            _ if gone => {
                debug!(pod = %info.key(), attempts, message, "pod went away during its attempt");
                return;
            }
            Outcome::Error => warn!(pod = %info.key(), attempts, message, "error scheduling pod; retrying"),
            _ => debug!(pod = %info.key(), attempts, message, "unable to schedule pod, no fit; waiting"),
        }
        self.recorder.warning(info.pod.object_ref(&()), "FailedScheduling", message.clone());
        if let Some(condition) = changed_condition(&info, reason, message) {
            self.tasks.spawn(self.clone().write_condition(info, condition));
        }
    }

    async fn write_condition(self: Arc<Self>, pod: Arc<PodInfo>, condition: PodCondition) {
        let Ok(_slot) = self.status_slots.acquire().await else { return };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.pod.namespace().unwrap_or_default());
        let patch = json!({ "metadata": { "uid": pod.pod.metadata.uid }, "status": { "conditions": [condition] } });
        let (params, name) = (PatchParams::default(), pod.pod.name_any());
        let patch = Patch::Strategic(&patch);
        match timeout(REQUEST_TIMEOUT, api.patch_status(&name, &params, &patch)).await {
            Ok(Ok(_)) => {}
            // Deleted, or deleted and created anew: nothing to say about it any more.
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {}
            Ok(Err(error)) => warn!(pod = %pod.key(), %error, "error updating pod"),
            Err(_) => warn!(pod = %pod.key(), "error updating pod: timed out"),
        }
    }
}

/// The PodScheduled condition to write, if it differs from the one the pod has.
fn changed_condition(pod: &PodInfo, reason: &str, message: String) -> Option<PodCondition> {
    let status = pod.pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let old = conditions.iter().find(|condition| condition.type_ == "PodScheduled");
    let was_false = old.filter(|old| old.status == "False");
    if was_false.is_some_and(|old| old.reason.as_deref() == Some(reason) && old.message.as_ref() == Some(&message)) {
        return None;
    }
    let since = was_false.and_then(|old| old.last_transition_time.clone()).unwrap_or_else(|| Time(Timestamp::now()));
    Some(PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(since),
        observed_generation: pod.pod.metadata.generation,
        ..PodCondition::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn the_condition_is_written_only_when_it_changes() {
        let with = |conditions: serde_json::Value| {
            pod(
                json!({ "metadata": { "name": "a" }, "spec": { "containers": [] }, "status": { "conditions": conditions } }),
            )
        };
        let first = changed_condition(&with(json!([])), "Unschedulable", "no room".to_owned()).unwrap();
        let known = with(json!([first]));
        assert!(changed_condition(&known, "Unschedulable", "no room".to_owned()).is_none());
        let second = changed_condition(&known, "Unschedulable", "other".to_owned()).unwrap();
        assert_eq!(second.status, "False");
        let seconds = |condition: &PodCondition| condition.last_transition_time.as_ref().unwrap().0.as_second();
        assert_eq!(seconds(&second), seconds(&first), "the status did not change, so neither does the time");
    }

    #[test]
    fn what_preemption_says_follows_the_reasons() {
        let diagnosis = Diagnosis {
            nodes: 1,
            rejections: vec![("n".into(), Status::unschedulable("Insufficient cpu"))],
            post_filter: Some(
                "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.".into(),
            ),
            ..Diagnosis::default()
        };
        assert_eq!(
            diagnosis.message(),
            "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
        );
    }
}
