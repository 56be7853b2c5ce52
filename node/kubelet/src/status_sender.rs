//! Carries a pod's status to the API: one task a pod, the newest status wins, no pod waits for another.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::error::{is_not_found, is_other_uid};
use crate::podext::PodExt;

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The worker's end.
pub(crate) struct StatusSender {
    newest: watch::Sender<Option<Arc<PodStatus>>>,
    sent: watch::Receiver<Option<Arc<PodStatus>>>,
    task: tokio::task::JoinHandle<()>,
}

impl StatusSender {
    /// Starts the pod's task. What the API already has is not sent again.
    pub(crate) fn start(client: Client, pod: &Pod) -> Self {
        let (newest, inbox) = watch::channel(None);
        let (done, sent) = watch::channel(None);
        let api = Api::namespaced(client, pod.ns());
        let known = pod.status.clone().unwrap_or_default();
        let task = tokio::spawn(carry(api, pod.pod_name().to_owned(), pod.uid().to_owned(), known, inbox, done));
        Self { newest, sent, task }
    }

    /// Hands over a new status; returns at once.
    pub(crate) fn set(&self, status: Arc<PodStatus>) {
        self.newest.send_if_modified(|newest| {
            let changed = newest.as_ref() != Some(&status);
            if changed {
                *newest = Some(status);
            }
            changed
        });
    }

    /// Waits until the API has the newest status, or the pod is gone.
    pub(crate) fn flushed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut sent = self.sent.clone();
        let newest = self.newest.borrow().clone();
        async move {
            // An error means the task has ended: the pod is gone from the API.
            let _ = sent.wait_for(|sent| *sent == newest).await;
        }
    }
}

impl Drop for StatusSender {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(
    api: Api<Pod>,
    name: String,
    uid: String,
    mut known: PodStatus,
    mut inbox: watch::Receiver<Option<Arc<PodStatus>>>,
    done: watch::Sender<Option<Arc<PodStatus>>>,
) {
    let mut retry = FIRST_RETRY;
    while inbox.changed().await.is_ok() {
        loop {
            let Some(status) = inbox.borrow_and_update().clone() else { break };
            let Some(patch) = patch(&uid, &known, &status) else {
                done.send_replace(Some(status));
                break;
            };
            let params = PatchParams::default();
            let patch = Patch::Strategic(&patch);
            let request = api.patch_status(&name, &params, &patch);
            match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
                Ok(Ok(_)) => {
                    retry = FIRST_RETRY;
                    known = (*status).clone();
                    done.send_replace(Some(status));
                    break;
                }
                // Gone, or another pod of the same name: there is nobody to tell.
                Ok(Err(error)) if is_not_found(&error) || is_other_uid(&error) => {
                    tracing::debug!(pod = %name, uid, %error, "pod is gone, its status with it");
                    return;
                }
                failed => {
                    let error = failed.map_or_else(
                        |_| "timed out".to_owned(),
                        |r| r.err().map_or_else(String::new, |e| e.to_string()),
                    );
                    tracing::warn!(pod = %name, uid, error, "could not send pod status");
                    tokio::select! {
                        () = tokio::time::sleep(retry) => retry = (retry * 2).min(LAST_RETRY),
                        // Something newer: try that at once.
                        changed = inbox.changed() => if changed.is_err() { return } else { tokio::time::sleep(FIRST_RETRY).await },
                    }
                }
            }
        }
    }
}

/// The strategic merge patch from one status to the next; `None` when they say the same.
fn patch(uid: &str, old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let (Ok(Value::Object(old)), Ok(Value::Object(new))) = (serde_json::to_value(old), serde_json::to_value(new))
    else {
        return None;
    };
    let mut changes = Map::new();
    for (key, value) in &new {
        if old.get(key) != Some(value) && key != "conditions" {
            changes.insert(key.clone(), value.clone());
        }
    }
    // The list merges by address: those that went must be named.
    if let Some(Value::Array(ips)) = changes.get_mut("podIPs") {
        let before = old.get("podIPs").and_then(Value::as_array).into_iter().flatten();
        let gone: Vec<_> = before.filter(|ip| !ips.contains(ip)).filter_map(|ip| ip.get("ip")).collect();
        ips.extend(gone.into_iter().map(|ip| json!({"$patch": "delete", "ip": ip})));
    }
    for key in old.keys().filter(|key| OWNED.contains(&key.as_str()) && !new.contains_key(*key)) {
        changes.insert(key.clone(), Value::Null);
    }
    let conditions = changed_conditions(old.get("conditions"), new.get("conditions"));
    if !conditions.is_empty() {
        changes.insert("conditions".to_owned(), Value::Array(conditions));
    }
    (!changes.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": changes}))
}

/// What this node alone decides about; everything else in the status belongs to others and stays.
const OWNED: [&str; 5] = ["message", "reason", "podIP", "podIPs", "initContainerStatuses"];

fn changed_conditions(old: Option<&Value>, new: Option<&Value>) -> Vec<Value> {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let old = list(old);
    let mut changed = Vec::new();
    for mut condition in list(new) {
        let before = old.iter().find(|before| before.get("type") == condition.get("type"));
        if let (Some(Value::Object(before)), Some(after)) = (before, condition.as_object_mut()) {
            let same = after.iter().all(|(key, value)| before.get(key) == Some(value));
            let gone = before.iter().filter(|(key, value)| !after.contains_key(*key) && !value.is_null());
            let gone: Vec<_> = gone.map(|(key, _)| key.clone()).collect();
            if same && gone.is_empty() {
                continue;
            }
            after.extend(gone.into_iter().map(|key| (key, Value::Null)));
        }
        changed.push(condition);
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn an_unchanged_status_is_not_sent() {
        let same = status(json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}));
        assert_eq!(patch("u", &same, &same), None);
    }

    #[test]
    fn only_what_changed_is_sent_and_what_went_is_removed() {
        let old = status(json!({"phase": "Running", "podIP": "1.1.1.1", "conditions": [
            {"type": "Ready", "status": "False", "reason": "X"}, {"type": "Mine", "status": "True"}]}));
        let new = status(json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}));
        assert_eq!(
            patch("u", &old, &new),
            Some(json!({"metadata": {"uid": "u"}, "status": {
                "podIP": null,
                "conditions": [{"type": "Ready", "status": "True", "reason": null}],
            }}))
        );
    }
}
