//! PodDisruptionBudgets: how many pods may go by eviction right now.
//!
//! The API server takes disruptions from the status and notes the pods it lets go; this controller recounts, and forgets
//! the noted pods once they are gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Resource;
use kube::api::{Api, PostParams};
use kube::core::SelectorExt;
use skep_client::Recorder;

use crate::context::Context;
use crate::controller::{Queue, Reconciler};
use crate::error::{Context as _, Error};
use crate::informer::Delta;
use crate::meta::{self, ObjectKey};
use crate::pod;

mod scale;

/// How long an evicted pod may take to be marked for deletion before it counts as there again.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);
const ALLOWED: &str = "DisruptionAllowed";

/// The disruption controller.
pub(crate) struct DisruptionController {
    context: Context,
    recorder: Recorder,
}

/// What a budget comes to.
struct Count {
    expected: i32,
    desired: i32,
    healthy: i32,
    disrupted: BTreeMap<String, Time>,
    /// When the first of the noted pods would be given up.
    recheck: Option<Duration>,
}

impl DisruptionController {
    /// The controller, with its event handlers registered.
    pub(crate) fn new(context: Context, queue: Queue) -> Arc<Self> {
        let own = queue.clone();
        context.informers.budgets.on_change(move |delta| {
            if !matches!(delta, Delta::Deleted(_)) {
                own.add(ObjectKey::of(&delta.object().metadata));
            }
        });
        let budgets = context.informers.budgets.clone();
        context.informers.pods.on_change(move |delta| {
            let namespace = meta::namespace(&delta.object().metadata);
            for budget in budgets.in_namespace(namespace) {
                if delta.both().any(|pod| guards(&budget, pod)) {
                    queue.add(ObjectKey::of(&budget.metadata));
                }
            }
        });
        let recorder = context.recorder.with_component("controllermanager");
        Arc::new(Self { context, recorder })
    }

    async fn count(&self, budget: &PodDisruptionBudget, now: Timestamp) -> Result<Count, Error> {
        let namespace = meta::namespace(&budget.metadata);
        let all = self.context.informers.pods.in_namespace(namespace);
        let pods: Vec<_> = all.into_iter().filter(|pod| guards(budget, pod)).collect();
        if pods.is_empty() {
            self.recorder.normal(budget.object_ref(&()), "NoPods", "No matching pods found");
        }
        let (expected, desired) = match self.expectation(budget, &pods).await {
            Ok(expectation) => expectation,
            Err(error) => {
                let why = format!("Failed to calculate the number of expected pods: {error}");
                self.recorder.warning(budget.object_ref(&()), "CalculateExpectedPodCountFailed", why);
                return Err(error);
            }
        };
        let (disrupted, recheck) = self.disrupted(budget, &pods, now);
        let is_healthy = |pod: &Arc<Pod>| {
            !meta::is_deleting(&pod.metadata)
                && !disrupted.contains_key(meta::name(&pod.metadata))
                && pod::is_ready(pod)
        };
        let healthy = number(pods.iter().filter(|pod| is_healthy(pod)).count());
        Ok(Count { expected, desired, healthy, disrupted, recheck })
    }

    /// How many pods there should be, and how many of them healthy.
    async fn expectation(&self, budget: &PodDisruptionBudget, pods: &[Arc<Pod>]) -> Result<(i32, i32), Error> {
        let spec = budget.spec.clone().unwrap_or_default();
        match (&spec.max_unavailable, &spec.min_available) {
            (Some(most), _) => {
                let expected = self.expected(budget, pods).await?;
                Ok((expected, (expected - of(most, expected)).max(0)))
            }
            (None, Some(IntOrString::Int(least))) => Ok((number(pods.len()), *least)),
            (None, Some(percent)) => {
                let expected = self.expected(budget, pods).await?;
                Ok((expected, of(percent, expected)))
            }
            (None, None) => Ok((0, 0)),
        }
    }

    async fn expected(&self, budget: &PodDisruptionBudget, pods: &[Arc<Pod>]) -> Result<i32, Error> {
        let scale = scale::expected(&self.context, pods).await?;
        if !scale.unmanaged.is_empty() {
            let why = format!(
                "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the \
                 status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for \
                 these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
                serde_json::to_string(&budget.spec.as_ref().and_then(|spec| spec.selector.clone())).unwrap_or_default()
            );
            self.recorder.warning(budget.object_ref(&()), "UnmanagedPods", why);
        }
        Ok(scale.replicas)
    }

    /// The evicted pods that are still to be marked for deletion.
    fn disrupted(
        &self,
        budget: &PodDisruptionBudget,
        pods: &[Arc<Pod>],
        now: Timestamp,
    ) -> (BTreeMap<String, Time>, Option<Duration>) {
        let noted = budget.status.as_ref().and_then(|status| status.disrupted_pods.as_ref());
        let mut kept = BTreeMap::new();
        let mut recheck: Option<Duration> = None;
        for (name, since) in noted.into_iter().flatten() {
            let Some(pod) = pods.iter().find(|pod| meta::name(&pod.metadata) == name) else { continue };
            if meta::is_deleting(&pod.metadata) {
                continue;
            }
            let left = DELETION_TIMEOUT.saturating_sub(now.duration_since(since.0));
            if left.is_positive() {
                let left = Duration::try_from(left).unwrap_or_default();
                recheck = Some(recheck.map_or(left, |soonest| soonest.min(left)));
                kept.insert(name.clone(), since.clone());
            } else {
                let why =
                    format!("Pod was expected by PDB {} to be deleted but it wasn't", ObjectKey::of(&budget.metadata));
                self.recorder.warning(pod.object_ref(&()), "NotDeleted", why);
            }
        }
        (kept, recheck)
    }

    async fn write(&self, budget: &PodDisruptionBudget, status: PodDisruptionBudgetStatus) -> Result<(), Error> {
        if budget.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let key = ObjectKey::of(&budget.metadata);
        let api: Api<PodDisruptionBudget> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let mut changed = budget.clone();
        changed.status = Some(status);
        let written = api.replace_status(&key.name, &PostParams::default(), &changed).await;
        let written = written.context(|| format!("updating status of disruption budget {key}"))?;
        self.context.informers.budgets.wrote(&written);
        Ok(())
    }
}

impl Reconciler for DisruptionController {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "disruption-controller"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(budget) = self.context.informers.budgets.by_key(key) else { return Ok(None) };
        let now = Timestamp::now();
        let mut status = budget.status.clone().unwrap_or_default();
        status.observed_generation = budget.metadata.generation;
        match self.count(&budget, now).await {
            Ok(count) => {
                status.expected_pods = count.expected;
                status.desired_healthy = count.desired;
                status.current_healthy = count.healthy;
                let left = count.healthy - count.desired;
                status.disruptions_allowed = if count.expected <= 0 { 0 } else { left.max(0) };
                status.disrupted_pods = (!count.disrupted.is_empty()).then_some(count.disrupted);
                let enough = status.disruptions_allowed > 0;
                let reason = if enough { "SufficientPods" } else { "InsufficientPods" };
                set_allowed(&mut status, enough, reason, "", now);
                self.write(&budget, status).await?;
                Ok(count.recheck)
            }
            Err(error) => {
                // What is not known must not be disrupted.
                status.disruptions_allowed = 0;
                set_allowed(&mut status, false, "SyncFailed", &error.to_string(), now);
                self.write(&budget, status).await?;
                Err(error)
            }
        }
    }
}

fn guards(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let parsed = selector.and_then(|selector| meta::selector(selector, &budget.metadata).ok());
    parsed.is_some_and(|selector| selector.matches(meta::labels(&pod.metadata)))
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// A number, or a share of `total`, rounded up.
fn of(amount: &IntOrString, total: i32) -> i32 {
    match amount {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let share = (percent.saturating_mul(i64::from(total)) + 99).div_euclid(100);
            i32::try_from(share).unwrap_or(i32::MAX)
        }
    }
}

fn set_allowed(status: &mut PodDisruptionBudgetStatus, allowed: bool, reason: &str, message: &str, now: Timestamp) {
    let text = if allowed { "True" } else { "False" };
    let conditions = status.conditions.get_or_insert_default();
    let present = conditions.iter().find(|condition| condition.type_ == ALLOWED && condition.status == text);
    let since = present.map_or(Time(now), |condition| condition.last_transition_time.clone());
    let condition = Condition {
        type_: ALLOWED.to_owned(),
        status: text.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: status.observed_generation,
        last_transition_time: since,
    };
    match conditions.iter_mut().find(|present| present.type_ == ALLOWED) {
        Some(present) => *present = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_up() {
        let percent = |text: &str| IntOrString::String(text.to_owned());
        assert_eq!(of(&percent("50%"), 3), 2);
        assert_eq!(of(&percent("0%"), 3), 0);
        assert_eq!(of(&percent("100%"), 3), 3);
        assert_eq!(of(&IntOrString::Int(4), 3), 4);
    }
}
