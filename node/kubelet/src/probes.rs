//! Liveness, readiness and startup probes: one small task each, for as long as its container runs.

mod check;
pub(crate) mod http;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;

use crate::context::Context;
use crate::podext::PodExt;

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    /// As upstream's events name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }
}

/// A probe's settled opinion, sent when it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) container_id: String,
    pub(crate) kind: Kind,
    pub(crate) healthy: bool,
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    /// The container answered badly or not at all.
    Failure(String),
    /// The check itself could not be made; says nothing about the container.
    Error(String),
}

/// A probe with its defaults applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Timing {
    initial_delay: Duration,
    period: Duration,
    timeout: Duration,
    successes: u32,
    failures: u32,
}

impl Timing {
    fn of(probe: &Probe) -> Self {
        let seconds = |value: Option<i32>, default: u64| {
            Duration::from_secs(value.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default))
        };
        let count = |value: Option<i32>, default| {
            value.and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default)
        };
        Self {
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            successes: count(probe.success_threshold, 1),
            failures: count(probe.failure_threshold, 3),
        }
    }
}

/// Which probes a container has.
pub(crate) fn of(container: &Container, kind: Kind) -> Option<&Probe> {
    match kind {
        Kind::Startup => container.startup_probe.as_ref(),
        Kind::Liveness => container.liveness_probe.as_ref(),
        Kind::Readiness => container.readiness_probe.as_ref(),
    }
}

/// The running probes of one pod.
#[derive(Default)]
pub(crate) struct Probes {
    running: HashMap<(String, Kind), AbortHandle>,
}

/// Whose probe it is.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) context: Arc<Context>,
    pub(crate) pod: Arc<Pod>,
    pub(crate) container_name: String,
    pub(crate) container_id: String,
    pub(crate) pod_ip: String,
    /// When the container started, nanoseconds since the epoch.
    pub(crate) started_at: i64,
}

impl Probes {
    /// Starts the probe unless it runs already.
    pub(crate) fn ensure<M: From<Verdict> + Send + 'static>(
        &mut self,
        kind: Kind,
        target: Target,
        to: &UnboundedSender<M>,
    ) {
        let key = (target.container_id.clone(), kind);
        if self.running.contains_key(&key) {
            return;
        }
        let container = target.pod.container(&target.container_name).map(|(_, container)| container);
        let Some(probe) = container.and_then(|container| of(container, kind)).cloned() else { return };
        let to = to.clone();
        let task = tokio::spawn(async move { run(target, kind, probe, to).await });
        self.running.insert(key, task.abort_handle());
    }

    /// Ends one probe.
    pub(crate) fn stop(&mut self, container_id: &str, kind: Kind) {
        if let Some(task) = self.running.remove(&(container_id.to_owned(), kind)) {
            task.abort();
        }
    }

    /// Ends the probes of containers that are not in `alive`.
    pub(crate) fn retain(&mut self, alive: impl Fn(&str) -> bool) {
        self.running.retain(|(id, _), task| {
            let keep = alive(id);
            if !keep {
                task.abort();
            }
            keep
        });
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.running.values().for_each(AbortHandle::abort);
    }
}

async fn run<M: From<Verdict>>(target: Target, kind: Kind, probe: Probe, to: UnboundedSender<M>) {
    let timing = Timing::of(&probe);
    let age = crate::podext::now_nanos().saturating_sub(target.started_at);
    let age = Duration::from_nanos(u64::try_from(age).unwrap_or(0));
    tokio::time::sleep(timing.initial_delay.saturating_sub(age)).await;
    let mut judge = Judge { timing, streak: 0, last: None, settled: None };
    let mut ticks = tokio::time::interval(timing.period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let outcome = check::check(&target, &probe, timing.timeout).await;
        report(&target, kind, &outcome);
        if let Some(healthy) = judge.take(&outcome) {
            let verdict = Verdict { container_id: target.container_id.clone(), kind, healthy };
            // A container that is to be stopped is not asked any more: its successor gets probes of its own.
            let last = !healthy && kind != Kind::Readiness;
            if to.send(verdict.into()).is_err() || last {
                return;
            }
        }
    }
}

/// Failures are events; upstream's words.
fn report(target: &Target, kind: Kind, outcome: &Outcome) {
    let object = target.pod.container_reference(&target.container_name);
    match outcome {
        Outcome::Success => {}
        Outcome::Failure(text) => {
            target.context.recorder.warning(object, "Unhealthy", format!("{} probe failed: {text}", kind.name()));
        }
        Outcome::Error(text) => {
            target.context.recorder.warning(
                object,
                "Unhealthy",
                format!("{} probe errored and resulted in unknown state: {text}", kind.name()),
            );
        }
    }
}

/// Turns outcomes into opinions by the thresholds.
struct Judge {
    timing: Timing,
    streak: u32,
    last: Option<bool>,
    settled: Option<bool>,
}

impl Judge {
    /// The new opinion, if this outcome changes it.
    fn take(&mut self, outcome: &Outcome) -> Option<bool> {
        let good = match outcome {
            Outcome::Success => true,
            Outcome::Failure(_) => false,
            Outcome::Error(_) => return None,
        };
        self.streak = if self.last == Some(good) { self.streak + 1 } else { 1 };
        self.last = Some(good);
        let threshold = if good { self.timing.successes } else { self.timing.failures };
        if self.streak < threshold {
            return None;
        }
        (self.settled.replace(good) != Some(good)).then_some(good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(successes: u32, failures: u32) -> Judge {
        let second = Duration::from_secs(1);
        let timing = Timing { initial_delay: second, period: second, timeout: second, successes, failures };
        Judge { timing, streak: 0, last: None, settled: None }
    }

    #[test]
    fn opinions_change_after_the_threshold_and_not_before() {
        let mut judge = judge(2, 3);
        let good = Outcome::Success;
        let bad = Outcome::Failure(String::new());
        let told: Vec<_> =
            [&good, &good, &good, &bad, &bad, &good, &bad, &bad, &bad].into_iter().map(|o| judge.take(o)).collect();
        let none = None;
        assert_eq!(told, [none, Some(true), none, none, none, none, none, none, Some(false)]);
    }

    #[test]
    fn an_error_says_nothing() {
        let mut judge = judge(1, 2);
        assert_eq!(judge.take(&Outcome::Failure(String::new())), None);
        assert_eq!(judge.take(&Outcome::Error(String::new())), None);
        assert_eq!(judge.take(&Outcome::Failure(String::new())), Some(false));
    }
}
