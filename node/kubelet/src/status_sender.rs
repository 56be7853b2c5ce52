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
    observed: watch::Sender<Option<Arc<Pod>>>,
    sent: watch::Receiver<Option<Arc<PodStatus>>>,
    task: tokio::task::JoinHandle<()>,
}

impl StatusSender {
    /// Starts the pod's task. What the API already has is not sent again.
    pub(crate) fn start(client: Client, pod: &Pod) -> Self {
        let (newest, inbox) = watch::channel(None);
        let (observed, news) = watch::channel(None);
        let (done, sent) = watch::channel(None);
        let carrier = Carrier {
            api: Api::namespaced(client, pod.ns()),
            name: pod.pod_name().to_owned(),
            uid: pod.uid().to_owned(),
            known: pod.status.clone().unwrap_or_default(),
            version: version(pod),
            inbox,
            news,
            done,
        };
        let task = tokio::spawn(carrier.run());
        Self { newest, observed, sent, task }
    }

    /// Tells what the API shows now: where somebody else has overwritten our part of the status (as the node life cycle
    /// controller does while a node is silent), it is sent again.
    pub(crate) fn observe(&self, pod: Arc<Pod>) {
        self.observed.send_replace(Some(pod));
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

/// The task's side.
struct Carrier {
    api: Api<Pod>,
    name: String,
    uid: String,
    /// What the API has, as far as we know.
    known: PodStatus,
    /// The resource version `known` is of.
    version: u64,
    inbox: watch::Receiver<Option<Arc<PodStatus>>>,
    news: watch::Receiver<Option<Arc<Pod>>>,
    done: watch::Sender<Option<Arc<PodStatus>>>,
}

impl Carrier {
    async fn run(mut self) {
        let mut retry = FIRST_RETRY;
        loop {
            tokio::select! {
                changed = self.inbox.changed() => if changed.is_err() { return },
                changed = self.news.changed() => if changed.is_err() { return },
            }
            loop {
                self.learn();
                let Some(status) = self.inbox.borrow_and_update().clone() else { break };
                let Some(patch) = patch(&self.uid, &self.known, &status) else {
                    self.done.send_replace(Some(status));
                    break;
                };
                match self.send(&patch).await {
                    Ok(version) => {
                        retry = FIRST_RETRY;
                        self.version = self.version.max(version);
                        self.known = (*status).clone();
                        self.done.send_replace(Some(status));
                        break;
                    }
                    Err(Failed::Gone) => return,
                    Err(Failed::Retry(error)) => {
                        tracing::warn!(pod = %self.name, uid = self.uid, error, "could not send pod status");
                        tokio::select! {
                            () = tokio::time::sleep(retry) => retry = (retry * 2).min(LAST_RETRY),
                            // Something newer: try that soon.
                            changed = self.inbox.changed() => {
                                if changed.is_err() {
                                    return;
                                }
                                tokio::time::sleep(FIRST_RETRY).await;
                            }
                        }
                    }
                }
            }
        }
    }

    /// Takes over what the watch showed, unless it is older than our own last word.
    fn learn(&mut self) {
        let Some(pod) = self.news.borrow_and_update().clone() else { return };
        let version = version(&pod);
        if version > self.version {
            self.version = version;
            self.known = pod.status.clone().unwrap_or_default();
        }
    }

    /// Sends; answers the resource version of the result.
    async fn send(&self, patch: &Value) -> Result<u64, Failed> {
        let params = PatchParams::default();
        let patch = Patch::Strategic(patch);
        let request = self.api.patch_status(&self.name, &params, &patch);
        match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
            Ok(Ok(pod)) => Ok(version(&pod)),
            // Gone, or another pod of the same name: there is nobody to tell.
            Ok(Err(error)) if is_not_found(&error) || is_other_uid(&error) => {
                tracing::debug!(pod = %self.name, uid = self.uid, %error, "pod is gone, its status with it");
                Err(Failed::Gone)
            }
            Ok(Err(error)) => Err(Failed::Retry(error.to_string())),
            Err(_) => Err(Failed::Retry("timed out".to_owned())),
        }
    }
}

enum Failed {
    /// The pod is not in the API any more.
    Gone,
    /// Worth trying again.
    Retry(String),
}

/// Resource versions of one kind of object may be compared as numbers (KEP-5504).
fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
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
    for list in ["podIPs", "hostIPs"] {
        change_addresses(&mut changes, list, old.get(list));
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

/// The lists of addresses merge by address: those that went must be named, and the order be told, for the first is the
/// pod's or the node's one.
fn change_addresses(changes: &mut Map<String, Value>, list: &str, old: Option<&Value>) {
    let Some(Value::Array(ips)) = changes.get_mut(list) else { return };
    let order = Value::Array(ips.clone());
    let before = old.and_then(Value::as_array).into_iter().flatten();
    let gone: Vec<_> = before.filter(|ip| !ips.contains(ip)).filter_map(|ip| ip.get("ip")).collect();
    ips.extend(gone.into_iter().map(|ip| json!({"$patch": "delete", "ip": ip})));
    changes.insert(format!("$setElementOrder/{list}"), order);
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
    fn addresses_that_change_keep_their_order_and_lose_those_that_went() {
        let old = status(json!({"podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.2"}, {"ip": "fd00::2"}]}));
        let new = status(json!({"podIP": "10.0.0.3", "podIPs": [{"ip": "10.0.0.3"}, {"ip": "fd00::2"}]}));
        assert_eq!(
            patch("u", &old, &new),
            Some(json!({"metadata": {"uid": "u"}, "status": {
                "podIP": "10.0.0.3",
                "podIPs": [{"ip": "10.0.0.3"}, {"ip": "fd00::2"}, {"$patch": "delete", "ip": "10.0.0.2"}],
                "$setElementOrder/podIPs": [{"ip": "10.0.0.3"}, {"ip": "fd00::2"}],
            }}))
        );
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
