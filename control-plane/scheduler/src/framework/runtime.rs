//! Runs the plugins of one profile.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    ClusterEvent, Code, CycleState, MAX_NODE_SCORE, PermitOutcome, QueueKey, QueueSort, QueueingHint, Status,
    permit::WaitingPods, registry::Parts,
};
use crate::{error::Error, node_info::NodeInfo, pod_info::PodInfo, snapshot::Snapshot};

/// Upstream's longest wait at Permit.
const MAX_PERMIT_WAIT: Duration = Duration::from_secs(15 * 60);

/// The plugins of one profile, by extension point.
pub struct Framework {
    profile: String,
    queue_sort: Arc<dyn QueueSort>,
    parts: Parts,
    waiting: WaitingPods,
}

impl Framework {
    pub(super) fn new(profile: String, mut parts: Parts, needs_bind: bool) -> Result<Self, Error> {
        let missing = |point| Error::MissingExtensionPoint { profile: profile.clone(), point };
        let queue_sort = parts.queue_sort.take().ok_or_else(|| missing("QueueSort"))?;
        if needs_bind && parts.bind.is_empty() {
            return Err(missing("Bind"));
        }
        Ok(Self { profile, queue_sort, parts, waiting: WaitingPods::default() })
    }

    /// The scheduler name this framework serves.
    pub fn profile(&self) -> &str {
        &self.profile
    }

    // === Queue ===

    /// The pod's place in the active queue.
    pub fn queue_key(&self, pod: &PodInfo, queued: Instant) -> QueueKey {
        self.queue_sort.key(pod, queued)
    }

    /// The first PreEnqueue plugin that holds the pod back.
    pub fn run_pre_enqueue(&self, pod: &PodInfo) -> Status {
        let statuses = self.parts.pre_enqueue.iter().map(|p| p.pre_enqueue(pod).from_plugin(p.name()));
        statuses.into_iter().find(|status| !status.is_success()).unwrap_or_else(Status::success)
    }

    /// Whether any of the plugins that rejected `pod` sees hope in `event`.
    pub fn is_worth_requeuing(
        &self,
        event: &ClusterEvent,
        pod: &PodInfo,
        rejected_by: &BTreeSet<&'static str>,
    ) -> bool {
        rejected_by.iter().any(|name| match self.parts.plugins.get(name) {
            Some(plugin) => plugin.queueing_hint(event, pod) == QueueingHint::Queue,
            // A plugin without hints: rather try once too often.
            None => true,
        })
    }

    /// All plugins that filter; a pod that found no node at all waits for what any of them hopes for.
    pub fn filter_names(&self) -> BTreeSet<&'static str> {
        self.parts.filter.iter().map(|plugin| plugin.name()).collect()
    }

    // === Scheduling cycle ===

    /// Runs PreFilter; on success the nodes to consider (`None` for all) and the plugins that narrowed them down.
    pub fn run_pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
    ) -> Result<(Option<BTreeSet<String>>, BTreeSet<&'static str>), Status> {
        let mut nodes: Option<BTreeSet<String>> = None;
        let mut narrowed_by = BTreeSet::new();
        for plugin in &self.parts.pre_filter {
            let (status, only) = plugin.pre_filter(state, pod, snapshot);
            match status.code() {
                Code::Skip => {
                    state.skip_filter.insert(plugin.name());
                }
                Code::Success => {}
                _ => return Err(status.from_plugin(plugin.name())),
            }
            if let Some(only) = only {
                narrowed_by.insert(plugin.name());
                nodes = Some(match nodes {
                    Some(nodes) => nodes.intersection(&only).cloned().collect(),
                    None => only,
                });
            }
        }
        Ok((nodes, narrowed_by))
    }

    /// The first Filter plugin that rejects the node.
    pub fn run_filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        for plugin in &self.parts.filter {
            if state.skip_filter.contains(plugin.name()) {
                continue;
            }
            let status = plugin.filter(state, pod, node);
            if !status.is_success() {
                return status.from_plugin(plugin.name());
            }
        }
        Status::success()
    }

    /// Lets PostFilter plugins make room; the first that succeeds ends the round.
    pub fn run_post_filter(
        &self,
        state: &CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
        rejections: &[(Arc<str>, Status)],
    ) -> (Status, Option<String>) {
        let mut reasons = Vec::new();
        for plugin in &self.parts.post_filter {
            let (status, nominated) = plugin.post_filter(state, pod, snapshot, rejections);
            if status.is_success() || status.code() == Code::Error {
                return (status.from_plugin(plugin.name()), nominated);
            }
            reasons.extend(status.reasons().iter().cloned());
        }
        (Status::with_reasons(Code::Unschedulable, reasons), None)
    }

    /// Runs PreScore and Score; one weighted sum for each of `nodes`.
    pub fn run_score(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        nodes: &[Arc<NodeInfo>],
        snapshot: &Snapshot,
    ) -> Result<Vec<i64>, Status> {
        for plugin in &self.parts.pre_score {
            let status = plugin.pre_score(state, pod, nodes, snapshot);
            match status.code() {
                Code::Success => {}
                Code::Skip => {
                    state.skip_score.insert(plugin.name());
                }
                _ => return Err(status.from_plugin(plugin.name())),
            }
        }
        let mut totals = vec![0_i64; nodes.len()];
        for (plugin, weight) in &self.parts.score {
            if state.skip_score.contains(plugin.name()) {
                continue;
            }
            let scores: Result<Vec<i64>, Status> = nodes.iter().map(|node| plugin.score(state, pod, node)).collect();
            let mut scores = scores.map_err(|status| status.from_plugin(plugin.name()))?;
            plugin.normalize_score(state, pod, &mut scores);
            for (total, score) in totals.iter_mut().zip(scores) {
                if !(0..=MAX_NODE_SCORE).contains(&score) {
                    let reason = format!(
                        "plugin {:?} returns an invalid score {score}, it should in the range of [0, {MAX_NODE_SCORE}] after normalizing",
                        plugin.name()
                    );
                    return Err(Status::error(reason).from_plugin(plugin.name()));
                }
                *total = total.saturating_add(score.saturating_mul(*weight));
            }
        }
        Ok(totals)
    }

    /// Runs Reserve; the caller answers a failure with [`Framework::run_unreserve`].
    pub fn run_reserve(&self, state: &CycleState, pod: &PodInfo, node: &str) -> Status {
        let statuses = self.parts.reserve.iter().map(|p| p.reserve(state, pod, node).from_plugin(p.name()));
        statuses.into_iter().find(|status| !status.is_success()).unwrap_or_else(Status::success)
    }

    /// Undoes Reserve, last plugin first.
    pub fn run_unreserve(&self, state: &CycleState, pod: &PodInfo, node: &str) {
        for plugin in self.parts.reserve.iter().rev() {
            plugin.unreserve(state, pod, node);
        }
    }

    /// Runs Permit.
    pub fn run_permit(&self, state: &CycleState, pod: &PodInfo, node: &str) -> PermitOutcome {
        let mut waiting_for = Vec::new();
        let mut at_most = Duration::ZERO;
        for plugin in &self.parts.permit {
            let (status, wait) = plugin.permit(state, pod, node);
            match status.code() {
                Code::Success => {}
                Code::Wait => {
                    at_most = at_most.max(wait.min(MAX_PERMIT_WAIT));
                    waiting_for.push(plugin.name());
                }
                _ => return PermitOutcome::Rejected(status.from_plugin(plugin.name())),
            }
        }
        match waiting_for.first().copied() {
            None => PermitOutcome::Allowed,
            Some(plugin) => {
                let decision = self.waiting.insert(pod.uid.clone(), waiting_for);
                PermitOutcome::Waiting { at_most, decision, plugin }
            }
        }
    }

    /// A Permit plugin lets a waiting pod go on.
    pub fn allow_waiting_pod(&self, uid: &str, plugin: &str) {
        self.waiting.allow(uid, plugin);
    }

    /// A waiting pod will not be bound; `false` when it was not waiting.
    pub fn reject_waiting_pod(&self, uid: &str, status: Status) -> bool {
        self.waiting.reject(uid, status)
    }

    // === Binding cycle ===

    /// Runs PreBind.
    pub async fn run_pre_bind(&self, state: &CycleState, pod: &PodInfo, node: &str) -> Status {
        for plugin in &self.parts.pre_bind {
            let status = plugin.pre_bind(state, pod, node).await;
            if !status.is_success() {
                return status.from_plugin(plugin.name());
            }
        }
        Status::success()
    }

    /// Runs Bind: the first plugin that does not skip decides.
    pub async fn run_bind(&self, state: &CycleState, pod: &PodInfo, node: &str) -> Status {
        for plugin in &self.parts.bind {
            let status = plugin.bind(state, pod, node).await;
            if status.code() != Code::Skip {
                return status.from_plugin(plugin.name());
            }
        }
        Status::error("no Bind plugin took the pod")
    }

    /// Runs PostBind.
    pub fn run_post_bind(&self, state: &CycleState, pod: &PodInfo, node: &str) {
        for plugin in &self.parts.post_bind {
            plugin.post_bind(state, pod, node);
        }
    }
}
