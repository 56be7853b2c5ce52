//! Pod garbage collection: pods nobody will ever clean up otherwise.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::context::Context;
use crate::error::{Context as _, Error};
use crate::meta::{self, ObjectKey};
use crate::pod;

/// Two looks apart must find the node missing (upstream: 40 s quarantine).
const QUARANTINE_LOOKS: u32 = 2;
/// Pods deleted at the same time.
const PARALLEL: usize = 16;

/// Looks every `pod_gc_period` until `shutdown`.
pub(crate) async fn run(context: Context, shutdown: CancellationToken) {
    let mut missing: HashMap<String, u32> = HashMap::new();
    let mut tick = tokio::time::interval(context.config.pod_gc_period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
        let pods = context.informers.pods.list();
        let nodes: HashSet<_> =
            context.informers.nodes.list().iter().map(|node| meta::name(&node.metadata).to_owned()).collect();
        let gone: HashSet<String> = pods
            .iter()
            .map(|pod| pod::node_name(pod))
            .filter(|node| !node.is_empty() && !nodes.contains(*node))
            .map(str::to_owned)
            .collect();
        missing.retain(|node, _| gone.contains(node));
        for node in gone {
            *missing.entry(node).or_default() += 1;
        }
        let mut victims: Vec<(Arc<Pod>, Option<&str>)> = Vec::new();
        let excess = terminated_excess(&pods, context.config.terminated_pod_gc_threshold);
        victims.extend(excess.into_iter().map(|pod| (pod, None)));
        victims.extend(pods.iter().filter(|pod| is_unscheduled_terminating(pod)).map(|pod| (pod.clone(), None)));
        for (node, looks) in &missing {
            if *looks < QUARANTINE_LOOKS || node_exists(&context, node).await != Ok(false) {
                continue;
            }
            let lost = context.informers.pods.indexed(crate::informers::BY_NODE, node);
            victims.extend(lost.into_iter().map(|pod| (pod, Some("PodGC: node no longer exists"))));
        }
        for batch in victims.chunks(PARALLEL) {
            // There may be thousands: the end of leadership does not wait for them.
            if shutdown.is_cancelled() {
                return;
            }
            join_all(batch.iter().map(|(victim, disruption)| delete(&context, victim, *disruption))).await;
        }
    }
}

/// Finished pods above the threshold: first evicted ones, then the oldest.
fn terminated_excess(pods: &[Arc<Pod>], threshold: usize) -> Vec<Arc<Pod>> {
    if threshold == 0 {
        return Vec::new();
    }
    let mut finished: Vec<_> =
        pods.iter().filter(|pod| pod::is_terminal(pod) && !meta::is_deleting(&pod.metadata)).cloned().collect();
    let excess = finished.len().saturating_sub(threshold);
    let evicted = |pod: &Pod| pod.status.as_ref().and_then(|status| status.reason.as_deref()) == Some("Evicted");
    finished.sort_by_key(|pod| (!evicted(pod), meta::created(&pod.metadata), meta::name(&pod.metadata).to_owned()));
    finished.truncate(excess);
    finished
}

/// Being deleted but on no node: there is no kubelet that would finish it.
fn is_unscheduled_terminating(pod: &Pod) -> bool {
    meta::is_deleting(&pod.metadata) && pod::node_name(pod).is_empty()
}

async fn node_exists(context: &Context, name: &str) -> Result<bool, ()> {
    let api: Api<Node> = Api::all(context.client.clone());
    api.get_opt(name)
        .await
        .map(|node| node.is_some())
        .map_err(|error| debug!(node = name, %error, "cannot look up node"))
}

/// Fails an unfinished pod and removes it without waiting for a kubelet. Errors are left to the next look.
async fn delete(context: &Context, pod: &Pod, disruption: Option<&str>) {
    let key = ObjectKey::of(&pod.metadata);
    let result: Result<(), Error> = async {
        let api: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
        if !pod::is_terminal(pod) {
            let mut status = json!({"phase": "Failed"});
            if let Some(message) = disruption {
                status["conditions"] = json!([{
                    "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC", "message": message,
                    "lastTransitionTime": meta::now(),
                }]);
            }
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
            api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch))
                .await
                .context(|| format!("failing pod {key}"))?;
        }
        let params = DeleteParams::default()
            .grace_period(0)
            .preconditions(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None });
        let answer = api.delete(&key.name, &params).await.context(|| format!("deleting pod {key}"))?;
        context.informers.pods.deleted(&pod.metadata, answer.left());
        context.metrics.pod_gc_deletions.inc();
        info!(pod = %key, "deleted by pod garbage collection");
        Ok(())
    }
    .await;
    match result {
        Ok(()) => {}
        Err(error) if error.is_not_found() => context.informers.pods.removed(&pod.metadata),
        Err(error) => debug!(pod = %key, %error, "pod garbage collection will retry"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PodStatus;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    fn finished(name: &str, second: i64, reason: Option<&str>) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        pod.metadata.creation_timestamp = Some(Time(Timestamp::from_second(second).unwrap()));
        pod.status =
            Some(PodStatus { phase: Some("Failed".into()), reason: reason.map(str::to_owned), ..Default::default() });
        Arc::new(pod)
    }

    #[test]
    fn evicted_pods_go_before_older_ones_and_the_threshold_stays() {
        let pods = [finished("new", 3, None), finished("old", 1, None), finished("evicted", 2, Some("Evicted"))];
        let names: Vec<_> =
            terminated_excess(&pods, 1).iter().map(|pod| meta::name(&pod.metadata).to_owned()).collect();
        assert_eq!(names, ["evicted", "old"]);
        assert!(terminated_excess(&pods, 3).is_empty());
        assert!(terminated_excess(&pods, 0).is_empty());
    }
}
