//! The binding cycle: what follows once a pod is assumed on a node.

use std::sync::Arc;

use kube::Resource;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use tracing::{debug, info};

use super::{Scheduler, failure::Unscheduled};
use crate::{
    framework::{ClusterEvent, CycleState, PermitOutcome, Status},
    metrics::Outcome,
    queue::QueuedPod,
};

/// A pod on its way to its node.
pub(super) struct BindingCycle {
    pub(super) pod: QueuedPod,
    pub(super) node: Arc<str>,
    pub(super) state: CycleState,
    pub(super) started: Instant,
    /// Held until the cycle ends, so that only so many are under way.
    pub(super) slot: OwnedSemaphorePermit,
}

impl Scheduler {
    pub(super) async fn bind(self: Arc<Self>, cycle: BindingCycle, permit: PermitOutcome) {
        let status = self.try_bind(&cycle, permit).await;
        let BindingCycle { pod, node, state, started, slot } = cycle;
        drop(slot);
        if status.is_success() {
            self.bound(&pod, &node, &state, started);
        } else {
            debug!(pod = %pod.info.key(), %node, message = status.message(), "failed to bind pod");
            self.framework.run_unreserve(&state, &pod.info, &node);
            self.cache.lock().forget_pod(&pod.info.uid);
            // What was held for this pod is free for others again.
            self.on_event(&ClusterEvent::AssignedPodDelete { pod: pod.info.clone() });
            self.handle_failure(pod, Unscheduled::Rejected(status), started);
        }
    }

    async fn try_bind(&self, cycle: &BindingCycle, permit: PermitOutcome) -> Status {
        let BindingCycle { pod, node, state, .. } = cycle;
        let permitted = permit.wait().await;
        if !permitted.is_success() {
            return permitted;
        }
        let ready = self.framework.run_pre_bind(state, &pod.info, node).await;
        if !ready.is_success() {
            return ready;
        }
        let bound = self.framework.run_bind(state, &pod.info, node).await;
        if bound.is_success() || bound.is_rejected() {
            return bound;
        }
        let plugin = bound.plugin();
        Status::error(format!("binding rejected: running Bind plugin {plugin:?}: {}", bound.message()))
    }

    fn bound(&self, pod: &QueuedPod, node: &str, state: &CycleState, started: Instant) {
        let info = &pod.info;
        self.cache.lock().finish_binding(&info.uid, Instant::now());
        self.queue.lock().done(&info.uid);
        self.framework.run_post_bind(state, info, node);
        let message = format!("Successfully assigned {} to {node}", info.key());
        self.recorder.normal(info.pod.object_ref(&()), "Scheduled", message);
        self.metrics.attempt(self.framework.profile(), Outcome::Scheduled, started.elapsed());
        self.metrics.scheduled(pod.attempts, pod.first_attempt.map(|first| first.elapsed()).unwrap_or_default());
        info!(pod = %info.key(), node, attempts = pod.attempts, "successfully bound pod to node");
    }
}
