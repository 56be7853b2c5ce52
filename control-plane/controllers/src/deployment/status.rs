//! The status of a deployment, and when to look again.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus, ReplicaSet};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::condition::{self, AVAILABLE, NEW_SET_AVAILABLE, PROGRESSING, REPLICA_FAILURE, SET_UPDATED, TIMED_OUT};
use super::{Sync, available, replicas, rolling, spec};
use crate::error::Error;
use crate::meta;

/// The progress deadline; None if there is none (unset or i32::MAX).
pub(super) fn progress_deadline(spec: &DeploymentSpec) -> Option<i32> {
    spec.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)
}

/// True once all replicas are of the newest template and available.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let desired = rolling::desired(spec(deployment));
    status.updated_replicas.unwrap_or(0) == desired
        && status.replicas.unwrap_or(0) == desired
        && status.available_replicas.unwrap_or(0) == desired
        && status.observed_generation >= deployment.metadata.generation
}

fn is_progressing(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let number = |value: Option<i32>| value.unwrap_or(0);
    let outdated = |status: &DeploymentStatus| number(status.replicas).saturating_sub(number(status.updated_replicas));
    number(new.updated_replicas) > number(old.updated_replicas)
        || outdated(new) < outdated(old)
        || number(new.ready_replicas) > number(old.ready_replicas)
        || number(new.available_replicas) > number(old.available_replicas)
}

fn has_timed_out(deployment: &Deployment, new: &DeploymentStatus, now: Timestamp) -> bool {
    let Some(deadline) = progress_deadline(spec(deployment)) else { return false };
    let Some(condition) = condition::get(new, PROGRESSING) else { return false };
    match condition.reason.as_deref() {
        // Completed before; what happens later (crashes, scaling) is not this rollout's failure.
        Some(NEW_SET_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => condition
            .last_update_time
            .as_ref()
            .is_some_and(|since| now.duration_since(since.0) > SignedDuration::from_secs(i64::from(deadline))),
    }
}

/// Numbers that are zero are left out, as upstream's `omitempty` does.
fn optional(number: i32) -> Option<i32> {
    (number != 0).then_some(number)
}

/// Counts over all ReplicaSets plus the Available condition.
pub(super) fn calculate(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    newest: Option<&Arc<ReplicaSet>>,
) -> DeploymentStatus {
    let actual = |set: &ReplicaSet| set.status.as_ref().map_or(0, |status| status.replicas);
    let sum = |of: &dyn Fn(&ReplicaSet) -> i32| rolling::sum(sets.iter().map(|set| of(set)));
    let available = sum(&available);
    let terminating =
        sets.iter().filter_map(|set| set.status.as_ref()?.terminating_replicas).reduce(i32::saturating_add);
    let old = deployment.status.clone().unwrap_or_default();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: optional(sum(&actual)),
        updated_replicas: optional(newest.map_or(0, |set| actual(set))),
        ready_replicas: optional(sum(&|set| set.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0))),
        available_replicas: optional(available),
        unavailable_replicas: optional(sum(&replicas).saturating_sub(available).max(0)),
        terminating_replicas: terminating,
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    let spec = spec(deployment);
    let condition = if available >= rolling::desired(spec).saturating_sub(rolling::max_unavailable(spec)) {
        condition::new(AVAILABLE, "True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        condition::new(
            AVAILABLE,
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        )
    };
    condition::set(&mut status, condition);
    status
}

/// The Progressing condition after a step of a rollout.
pub(super) fn progress(
    deployment: &Deployment,
    newest: Option<&Arc<ReplicaSet>>,
    status: &mut DeploymentStatus,
    now: Timestamp,
) {
    if progress_deadline(spec(deployment)).is_none() {
        condition::remove(status, PROGRESSING);
        return;
    }
    let old = deployment.status.clone().unwrap_or_default();
    let current = condition::get(&old, PROGRESSING).cloned();
    let completed_before = status.replicas == status.updated_replicas
        && current.as_ref().is_some_and(|condition| condition.reason.as_deref() == Some(NEW_SET_AVAILABLE));
    if completed_before {
        return;
    }
    let subject = match newest {
        Some(set) => format!("ReplicaSet \"{}\"", meta::name(&set.metadata)),
        None => format!("Deployment \"{}\"", meta::name(&deployment.metadata)),
    };
    if is_complete(deployment, status) {
        let message = format!("{subject} has successfully progressed.");
        condition::set(status, condition::new(PROGRESSING, "True", NEW_SET_AVAILABLE, message));
    } else if is_progressing(&old, status) {
        let mut new = condition::new(PROGRESSING, "True", SET_UPDATED, format!("{subject} is progressing."));
        // Every step of progress renews the update time: the deadline counts from here.
        if let Some(current) = current {
            if current.status == "True" {
                new.last_transition_time = current.last_transition_time;
            }
            condition::remove(status, PROGRESSING);
        }
        condition::set(status, new);
    } else if has_timed_out(deployment, status, now) {
        condition::set(
            status,
            condition::new(PROGRESSING, "False", TIMED_OUT, format!("{subject} has timed out progressing.")),
        );
    }
}

/// The failure a ReplicaSet reports, the newest one's first.
fn replica_failure(sets: &[Arc<ReplicaSet>], newest: Option<&Arc<ReplicaSet>>) -> Option<DeploymentCondition> {
    let failure = newest.into_iter().chain(sets).find_map(|set| {
        let conditions = set.status.as_ref()?.conditions.as_deref()?;
        conditions.iter().find(|condition| condition.type_ == REPLICA_FAILURE)
    })?;
    Some(DeploymentCondition {
        type_: failure.type_.clone(),
        status: failure.status.clone(),
        reason: failure.reason.clone(),
        message: failure.message.clone(),
        last_transition_time: failure.last_transition_time.clone(),
        last_update_time: failure.last_transition_time.clone(),
    })
}

/// How long until the progress deadline needs to be looked at.
fn recheck(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let deadline = progress_deadline(spec(deployment))?;
    let condition = condition::get(status, PROGRESSING)?;
    if is_complete(deployment, status) || condition.reason.as_deref() == Some(TIMED_OUT) {
        return None;
    }
    let since = condition.last_update_time.as_ref()?.0;
    let left = i64::from(deadline) - now.duration_since(since).as_secs();
    Some(Duration::from_secs(u64::try_from(left.max(0)).unwrap_or(0) + 1))
}

impl Sync<'_> {
    /// Writes the status if it changed (without touching the progress condition).
    pub(super) async fn sync_status(&mut self, newest: Option<&Arc<ReplicaSet>>) -> Result<Option<Duration>, Error> {
        let new = calculate(&self.deployment, &self.sets, newest);
        if self.deployment.status.as_ref() != Some(&new) {
            self.deployment.status = Some(new);
            self.write_status().await?;
        }
        Ok(None)
    }

    /// Writes the status with the progress of the rollout; says when the deadline is due.
    pub(super) async fn sync_rollout_status(
        &mut self,
        newest: Option<&Arc<ReplicaSet>>,
    ) -> Result<Option<Duration>, Error> {
        let now = Timestamp::now();
        let mut new = calculate(&self.deployment, &self.sets, newest);
        progress(&self.deployment, newest, &mut new, now);
        match replica_failure(&self.sets, newest) {
            Some(failure) => condition::set(&mut new, failure),
            None => condition::remove(&mut new, REPLICA_FAILURE),
        }
        if self.deployment.status.as_ref() != Some(&new) {
            self.deployment.status = Some(new);
            self.write_status().await?;
        }
        let status = self.deployment.status.clone().unwrap_or_default();
        Ok(recheck(&self.deployment, &status, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::{ReplicaSetSpec, ReplicaSetStatus};

    fn deployment(replicas: i32) -> Deployment {
        let mut deployment = Deployment::default();
        deployment.metadata.name = Some("web".into());
        deployment.metadata.generation = Some(1);
        let spec =
            DeploymentSpec { replicas: Some(replicas), progress_deadline_seconds: Some(600), ..Default::default() };
        deployment.spec = Some(spec);
        deployment
    }

    fn set(replicas: i32, available: i32) -> Arc<ReplicaSet> {
        let mut set = ReplicaSet::default();
        set.metadata.name = Some("web-1".into());
        set.spec = Some(ReplicaSetSpec { replicas: Some(replicas), ..Default::default() });
        let status = ReplicaSetStatus {
            replicas,
            ready_replicas: Some(available),
            available_replicas: Some(available),
            ..Default::default()
        };
        set.status = Some(status);
        Arc::new(set)
    }

    #[test]
    fn a_rollout_progresses_and_completes() {
        let mut deployment = deployment(3);
        let now = Timestamp::now();
        let step = set(3, 1);
        let mut status = calculate(&deployment, std::slice::from_ref(&step), Some(&step));
        progress(&deployment, Some(&step), &mut status, now);
        let condition = condition::get(&status, PROGRESSING).unwrap();
        assert_eq!(condition.reason.as_deref(), Some(SET_UPDATED));
        assert_eq!(condition.message.as_deref(), Some("ReplicaSet \"web-1\" is progressing."));
        assert_eq!(condition::get(&status, AVAILABLE).unwrap().status, "False");
        assert_eq!(status.unavailable_replicas, Some(2));

        deployment.status = Some(status);
        let done = set(3, 3);
        let mut status = calculate(&deployment, std::slice::from_ref(&done), Some(&done));
        progress(&deployment, Some(&done), &mut status, now);
        let condition = condition::get(&status, PROGRESSING).unwrap();
        assert_eq!(condition.reason.as_deref(), Some(NEW_SET_AVAILABLE));
        assert_eq!(recheck(&deployment, &status, now), None);
    }

    #[test]
    fn without_progress_the_deadline_passes() {
        let mut deployment = deployment(3);
        let step = set(3, 0);
        let mut status = calculate(&deployment, std::slice::from_ref(&step), Some(&step));
        progress(&deployment, Some(&step), &mut status, Timestamp::now());
        deployment.status = Some(status);
        let later = Timestamp::now() + SignedDuration::from_secs(601);
        let mut status = calculate(&deployment, std::slice::from_ref(&step), Some(&step));
        progress(&deployment, Some(&step), &mut status, later);
        let condition = condition::get(&status, PROGRESSING).unwrap();
        assert_eq!((condition.status.as_str(), condition.reason.as_deref()), ("False", Some(TIMED_OUT)));
    }
}
