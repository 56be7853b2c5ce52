//! Pods held by Permit plugins between assumption and binding.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::oneshot, time::timeout};

use super::Status;

/// Where a pod stands after the Permit plugins were asked.
pub enum PermitOutcome {
    /// Bind at once.
    Allowed,
    /// Held; [`PermitOutcome::wait`] ends when the pod is allowed, rejected, or its time is up.
    Waiting {
        /// The longest wait among the plugins that asked for one.
        at_most: Duration,
        /// Resolved by `allow` or `reject`.
        decision: oneshot::Receiver<Status>,
        /// The plugin that asked first.
        plugin: &'static str,
    },
    /// Not now.
    Rejected(Status),
}

impl PermitOutcome {
    /// Waits as long as the plugins want.
    pub async fn wait(self) -> Status {
        match self {
            Self::Allowed => Status::success(),
            Self::Rejected(status) => status,
            Self::Waiting { at_most, decision, plugin } => match timeout(at_most, decision).await {
                Ok(Ok(status)) => status,
                Ok(Err(_)) => Status::error("the waiting pod was dropped").from_plugin(plugin),
                Err(_) => {
                    let reason = format!("pod rejected due to timeout after waiting {at_most:?} at plugin {plugin}");
                    Status::unschedulable(reason).from_plugin(plugin)
                }
            },
        }
    }
}

/// The waiting pods, by UID.
#[derive(Default)]
pub(super) struct WaitingPods(Mutex<HashMap<Arc<str>, Waiting>>);

struct Waiting {
    /// Plugins that have not allowed the pod yet.
    pending: Vec<&'static str>,
    decision: oneshot::Sender<Status>,
}

impl WaitingPods {
    pub(super) fn insert(&self, uid: Arc<str>, pending: Vec<&'static str>) -> oneshot::Receiver<Status> {
        let (decision, receiver) = oneshot::channel();
        self.0.lock().insert(uid, Waiting { pending, decision });
        receiver
    }

    pub(super) fn allow(&self, uid: &str, plugin: &str) {
        let mut pods = self.0.lock();
        let Some(waiting) = pods.get_mut(uid) else { return };
        waiting.pending.retain(|pending| *pending != plugin);
        if waiting.pending.is_empty()
            && let Some(waiting) = pods.remove(uid)
        {
            // The receiver is gone when the pod's time was up at this very moment; then there is nobody to tell.
            let _ = waiting.decision.send(Status::success());
        }
    }

    pub(super) fn reject(&self, uid: &str, status: Status) -> bool {
        let waiting = self.0.lock().remove(uid);
        waiting.is_some_and(|waiting| waiting.decision.send(status).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_waiting_pod_goes_on_when_every_plugin_has_allowed_it() {
        let pods = WaitingPods::default();
        let decision = pods.insert("a".into(), vec!["P", "Q"]);
        let outcome = PermitOutcome::Waiting { at_most: Duration::from_secs(60), decision, plugin: "P" };
        pods.allow("a", "P");
        pods.allow("a", "Q");
        assert!(outcome.wait().await.is_success());
    }

    #[tokio::test]
    async fn a_waiting_pod_is_rejected_when_its_time_is_up() {
        let pods = WaitingPods::default();
        let decision = pods.insert("a".into(), vec!["P"]);
        let status = PermitOutcome::Waiting { at_most: Duration::ZERO, decision, plugin: "P" }.wait().await;
        assert!(status.is_rejected());
        assert!(!pods.reject("a", Status::unschedulable("late")));
    }
}
