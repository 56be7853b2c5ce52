//! Node health: notices nodes that fell silent, marks them and their pods, and taints them so that pods move away.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use kube::Resource;
use kube::api::{Api, Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;
use skep_client::Recorder;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::context::Context;
use crate::controller::{Queue, Reconciler};
use crate::error::{Context as _, Error};
use crate::informer::Delta;
use crate::informers::BY_NODE;
use crate::meta::{self, ObjectKey};
use crate::pod;

mod health;
mod taint;
mod zone;

use health::Health;
use zone::Zones;

/// Nodes looked after at the same time.
const PARALLEL: usize = 16;

/// The node lifecycle controller: a periodic look at every node's health, and a queue of nodes whose taints may have to
/// follow their conditions.
pub(crate) struct NodeLifecycleController {
    context: Context,
    queue: Queue,
    recorder: Recorder,
    health: Mutex<HashMap<String, Health>>,
    zones: Mutex<Zones>,
}

impl NodeLifecycleController {
    /// The controller, with its event handlers registered.
    pub(crate) fn new(context: Context, queue: Queue) -> Arc<Self> {
        let recorder = context.recorder.with_component("node-controller");
        let zones = Mutex::new(Zones::new(&context.config));
        let this = Arc::new(Self { context, queue, recorder, health: Mutex::default(), zones });
        let (queue, recorder) = (this.queue.clone(), this.recorder.clone());
        this.context.informers.nodes.on_change(move |delta: &Delta<Node>| {
            let node = delta.object();
            let name = meta::name(&node.metadata);
            match delta {
                Delta::Added(_) => recorder.normal(
                    node.object_ref(&()),
                    "RegisteredNode",
                    format!("Node {name} event: Registered Node {name} in Controller"),
                ),
                Delta::Deleted(_) => recorder.normal(
                    node.object_ref(&()),
                    "RemovingNode",
                    format!("Node {name} event: Removing Node {name} from Controller"),
                ),
                Delta::Modified { .. } => {}
            }
            queue.add(ObjectKey::of(&node.metadata));
        });
        this
    }

    /// Looks at all nodes every `node_monitor_period` until `shutdown`.
    pub(crate) async fn monitor(self: Arc<Self>, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(self.context.config.node_monitor_period);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
            let nodes = self.context.informers.nodes.list();
            self.health.lock().retain(|name, _| nodes.iter().any(|node| meta::name(&node.metadata) == name));
            stream::iter(&nodes)
                .for_each_concurrent(PARALLEL, |node| async {
                    match self.look_at(node).await {
                        Ok(()) => {}
                        // It reported just now, or is gone: the next look knows.
                        Err(error) if error.is_conflict() || error.is_not_found() => {
                            debug!(node = meta::name(&node.metadata), %error, "node changed while it was looked at");
                        }
                        Err(error) => warn!(node = meta::name(&node.metadata), %error, "cannot update node health"),
                    }
                })
                .await;
            self.assess_zones();
        }
    }

    async fn look_at(&self, node: &Node) -> Result<(), Error> {
        let name = meta::name(&node.metadata);
        let lease = self.context.informers.node_leases.get("kube-node-lease", name);
        let silent_for = {
            let mut known = self.health.lock();
            let now = Instant::now();
            let health = known.entry(name.to_owned()).or_insert_with(|| Health::first_seen(now));
            health.observe(node, lease.as_deref(), now);
            health.silent_for(now)
        };
        let was_ready = health::ready(node).is_some_and(|condition| condition.status == "True");
        let mut unknown = health::ready(node).is_some_and(|condition| condition.status == "Unknown");
        if let Some(conditions) = health::conditions_of_silent_node(node, silent_for, &self.context.config) {
            self.write_conditions(node, conditions).await?;
            unknown = true;
            if was_ready {
                info!(node = name, ?silent_for, "node fell silent");
                let message = format!("Node {name} status is now: NodeNotReady");
                self.recorder.normal(node.object_ref(&()), "NodeNotReady", message);
            }
        }
        // On every look, so that neither a failed attempt nor a restart of this controller leaves a dead pod ready.
        if unknown { self.mark_pods_not_ready(name).await } else { Ok(()) }
    }

    async fn write_conditions(&self, node: &Node, conditions: Vec<NodeCondition>) -> Result<(), Error> {
        let name = meta::name(&node.metadata);
        // With the resource version: a heartbeat that arrives meanwhile wins.
        let patch = json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "status": {"conditions": conditions},
        });
        let api: Api<Node> = Api::all(self.context.client.clone());
        let patched = api
            .patch_status(name, &PatchParams::default(), &Patch::Strategic(patch))
            .await
            .context(|| format!("updating status of node {name}"))?;
        self.context.informers.nodes.wrote(&patched);
        Ok(())
    }

    async fn mark_pods_not_ready(&self, node: &str) -> Result<(), Error> {
        let pods = self.context.informers.pods.indexed(BY_NODE, node);
        let results: Vec<_> = stream::iter(pods.into_iter().filter(|pod| pod::is_ready(pod)))
            .map(|pod| async move { self.mark_not_ready(&pod).await })
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        Error::from_batch(results.into_iter().filter_map(Result::err).collect())
    }

    async fn mark_not_ready(&self, pod: &Pod) -> Result<(), Error> {
        let key = ObjectKey::of(&pod.metadata);
        let patch = json!({
            "metadata": {"uid": pod.metadata.uid},
            "status": {"conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": meta::now()}]},
        });
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let answer = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        match answer.context(|| format!("marking pod {key} not ready")) {
            Ok(patched) => {
                self.context.informers.pods.wrote(&patched);
                self.recorder.warning(pod.object_ref(&()), "NodeNotReady", "Node is not ready");
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Counts healthy and unhealthy nodes by zone: a zone that looks broken as a whole is more likely cut off than dead.
    fn assess_zones(&self) {
        let nodes = self.context.informers.nodes.list();
        if self.zones.lock().assess(&nodes) {
            // Evictions stop everywhere, or may go on.
            for node in &nodes {
                self.queue.add(ObjectKey::of(&node.metadata));
            }
        }
    }

    async fn write_taints(&self, node: &Node, taints: Vec<Taint>) -> Result<(), Error> {
        let name = meta::name(&node.metadata);
        let patch = json!({
            "metadata": {"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version},
            "spec": {"taints": taints},
        });
        let api: Api<Node> = Api::all(self.context.client.clone());
        let patched = api
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .context(|| format!("tainting node {name}"))?;
        self.context.informers.nodes.wrote(&patched);
        Ok(())
    }
}

impl Reconciler for NodeLifecycleController {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "node-lifecycle-controller"
    }

    /// Makes the node's taints follow its conditions.
    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(node) = self.context.informers.nodes.by_key(key) else { return Ok(None) };
        if meta::is_deleting(&node.metadata) {
            return Ok(None);
        }
        let mut wait = None;
        let evicts = {
            let mut zones = self.zones.lock();
            if zones.all_down() {
                // As upstream: with no node to move to, evictions under way are called off too. The end of this state
                // queues every node again.
                false
            } else if taint::needs_new_eviction(&node) {
                match zones.permit(&zone::of(&node), Instant::now()) {
                    Ok(()) => true,
                    Err(until) => {
                        wait = Some(until);
                        false
                    }
                }
            } else {
                true
            }
        };
        let known = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        if let Some(taints) = taint::desired(&node, &known, evicts) {
            self.write_taints(&node, taints).await?;
        }
        Ok(wait)
    }
}
