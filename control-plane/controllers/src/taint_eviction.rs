//! Evicts pods from nodes with NoExecute taints they do not tolerate, or tolerate only for a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use kube::Resource;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use parking_lot::Mutex;
use serde_json::json;
use skep_client::Recorder;
use tokio::time::Instant;
use tracing::info;

use crate::context::Context;
use crate::controller::{Queue, Reconciler};
use crate::error::{Context as _, Error};
use crate::informer::Delta;
use crate::informers::BY_NODE;
use crate::meta::{self, ObjectKey};
use crate::pod;

/// The taint eviction controller; its keys are pods.
pub(crate) struct TaintEvictionController {
    context: Context,
    recorder: Recorder,
    /// Since when a pod (by uid) has been tolerating taints for a limited time.
    since: Mutex<HashMap<ObjectKey, (String, Instant)>>,
}

impl TaintEvictionController {
    /// The controller, with its event handlers registered.
    pub(crate) fn new(context: Context, queue: Queue) -> Arc<Self> {
        let pods = context.informers.pods.clone();
        let add = queue.clone();
        context.informers.nodes.on_change(move |delta: &Delta<Node>| {
            let changed = match delta {
                Delta::Modified { old, new } => no_execute(old) != no_execute(new),
                Delta::Added(node) => !no_execute(node).is_empty(),
                Delta::Deleted(_) => true,
            };
            if changed {
                for pod in pods.indexed(BY_NODE, meta::name(&delta.object().metadata)) {
                    add.add(ObjectKey::of(&pod.metadata));
                }
            }
        });
        let nodes = context.informers.nodes.clone();
        context.informers.pods.on_change(move |delta: &Delta<Pod>| {
            let pod = delta.object();
            // Most pods are on nodes without such taints: nothing to do, so nothing is queued.
            let tainted = nodes.get("", pod::node_name(pod)).is_some_and(|node| !no_execute(&node).is_empty());
            let relevant = match delta {
                Delta::Modified { old, new } => {
                    tainted && (pod::node_name(old), tolerations(old)) != (pod::node_name(new), tolerations(new))
                }
                Delta::Added(_) => tainted,
                Delta::Deleted(_) => tainted,
            };
            if relevant {
                queue.add(ObjectKey::of(&pod.metadata));
            }
        });
        let recorder = context.recorder.with_component("taint-eviction-controller");
        Arc::new(Self { context, recorder, since: Mutex::default() })
    }

    /// Since when this pod has been tolerating; starts now if it has not.
    fn tolerating_since(&self, key: &ObjectKey, uid: &str) -> Instant {
        let mut since = self.since.lock();
        let entry = since.entry(key.clone()).or_insert_with(|| (uid.to_owned(), Instant::now()));
        if entry.0 != uid {
            *entry = (uid.to_owned(), Instant::now());
        }
        entry.1
    }

    fn cancel(&self, key: &ObjectKey, pod: Option<&Pod>) {
        if self.since.lock().remove(key).is_some()
            && let Some(pod) = pod
        {
            self.recorder.normal(
                pod.object_ref(&()),
                "TaintManagerEviction",
                format!("Cancelling deletion of Pod {key}"),
            );
        }
    }

    async fn evict(&self, key: &ObjectKey, pod: &Pod) -> Result<(), Error> {
        info!(pod = %key, "evicting pod because of NoExecute taints");
        self.recorder.normal(pod.object_ref(&()), "TaintManagerEviction", format!("Marking for deletion Pod {key}"));
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let patch = json!({
            "metadata": {"uid": pod.metadata.uid},
            "status": {"conditions": [{
                "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
                "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": meta::now(),
            }]},
        });
        let params = DeleteParams::default()
            .preconditions(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None });
        let result = async {
            api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch))
                .await
                .context(|| format!("marking pod {key} as disrupted"))?;
            api.delete(&key.name, &params).await.context(|| format!("evicting pod {key}"))
        }
        .await;
        match result {
            Ok(answer) => {
                self.context.informers.pods.deleted(&pod.metadata, answer.left());
                self.context.metrics.taint_evictions.inc();
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Reconciler for TaintEvictionController {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "taint-eviction-controller"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let informers = &self.context.informers;
        let Some(pod) = informers.pods.by_key(key).filter(|pod| !meta::is_deleting(&pod.metadata)) else {
            self.cancel(key, None);
            return Ok(None);
        };
        let Some(node) = informers.nodes.get("", pod::node_name(&pod)) else {
            self.cancel(key, None);
            return Ok(None);
        };
        match decide(&no_execute(&node), tolerations(&pod)) {
            Decision::Stay => {
                self.cancel(key, Some(&pod));
                Ok(None)
            }
            Decision::Now => self.evict(key, &pod).await.map(|()| None),
            Decision::After(tolerated) => {
                let elapsed = self.tolerating_since(key, meta::uid(&pod.metadata)).elapsed();
                if elapsed < tolerated {
                    return Ok(Some(tolerated - elapsed));
                }
                self.evict(key, &pod).await?;
                self.since.lock().remove(key);
                Ok(None)
            }
        }
    }
}

fn no_execute(node: &Node) -> Vec<Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().filter(|taint| taint.effect == "NoExecute").cloned().collect()
}

fn tolerations(pod: &Pod) -> &[Toleration] {
    pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
}

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Stay,
    Now,
    After(Duration),
}

/// What NoExecute taints mean for a pod: the shortest of the tolerations that apply decides.
fn decide(taints: &[Taint], tolerations: &[Toleration]) -> Decision {
    let mut shortest: Option<i64> = None;
    for taint in taints {
        let Some(toleration) = tolerations.iter().find(|toleration| tolerates(toleration, taint)) else {
            return Decision::Now;
        };
        if let Some(seconds) = toleration.toleration_seconds {
            shortest = Some(shortest.map_or(seconds, |known| known.min(seconds)));
        }
    }
    match shortest {
        None => Decision::Stay,
        Some(seconds) => match u64::try_from(seconds) {
            Ok(seconds) if seconds > 0 => Decision::After(Duration::from_secs(seconds)),
            _ => Decision::Now,
        },
    }
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let effect = text(&toleration.effect);
    let key = text(&toleration.key);
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => !key.is_empty() && text(&toleration.value) == text(&taint.value),
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str) -> Taint {
        Taint { key: key.into(), effect: "NoExecute".into(), ..Default::default() }
    }

    fn toleration(key: &str, seconds: Option<i64>) -> Toleration {
        Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some("NoExecute".into()),
            toleration_seconds: seconds,
            ..Default::default()
        }
    }

    #[test]
    fn an_untolerated_taint_evicts_at_once() {
        assert_eq!(decide(&[taint("a"), taint("b")], &[toleration("a", None)]), Decision::Now);
    }

    #[test]
    fn the_shortest_toleration_counts() {
        let tolerations = [toleration("a", Some(300)), toleration("b", Some(60)), toleration("c", None)];
        let decision = decide(&[taint("a"), taint("b"), taint("c")], &tolerations);
        assert_eq!(decision, Decision::After(Duration::from_secs(60)));
    }

    #[test]
    fn tolerating_for_ever_stays_and_for_no_time_goes() {
        assert_eq!(decide(&[taint("a")], &[toleration("a", None)]), Decision::Stay);
        assert_eq!(decide(&[taint("a")], &[toleration("a", Some(-1))]), Decision::Now);
        assert_eq!(decide(&[], &[]), Decision::Stay);
    }

    #[test]
    fn an_empty_key_with_exists_tolerates_everything() {
        let all = Toleration { operator: Some("Exists".into()), ..Default::default() };
        assert_eq!(decide(&[taint("a")], &[all]), Decision::Stay);
    }
}
