//! What the API server shows of pods and nodes, turned into changes of the cache, the queue, and events that may help waiting
//! pods. Told twice, late or after a gap, it comes to the same: each change is taken against what was last known.

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, ResourceExt,
    runtime::{WatchStreamExt, watcher, watcher::Event},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{framework::ClusterEvent, node_info::NodeFacts, pod_info::PodInfo, scheduler::Scheduler};

const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Fires once pods and nodes have each been listed.
#[derive(Clone, Default)]
pub(crate) struct Synced {
    pods: CancellationToken,
    nodes: CancellationToken,
}

impl Synced {
    pub(crate) async fn wait(&self) {
        self.pods.cancelled().await;
        self.nodes.cancelled().await;
    }
}

/// Starts the informers; they end when `stop` fires, or with a panic.
pub(crate) fn spawn(scheduler: &Arc<Scheduler>, stop: CancellationToken) -> (Synced, JoinHandle<()>) {
    let synced = Synced::default();
    let client = scheduler.client();
    let pods = watcher(Api::<Pod>::all(client.clone()), watcher::Config::default()).default_backoff();
    let pods = follow(pods, Pods { scheduler: scheduler.clone(), known: HashMap::new() }, synced.pods.clone());
    let nodes = watcher(Api::<Node>::all(client.clone()), watcher::Config::default()).default_backoff();
    let nodes = follow(nodes, Nodes { scheduler: scheduler.clone(), known: HashMap::new() }, synced.nodes.clone());
    let scheduler = scheduler.clone();
    let housekeeping = async move {
        let mut ticks = tokio::time::interval(HOUSEKEEPING);
        loop {
            ticks.tick().await;
            scheduler.housekeep();
        }
    };
    let task = tokio::spawn(async move {
        // None of the three ever ends by itself.
        stop.run_until_cancelled(async { tokio::join!(pods, nodes, housekeeping) }).await;
    });
    (synced, task)
}

/// What is done with the objects of one kind.
trait Handler<K> {
    /// The object exists as given; returns its key.
    fn apply(&mut self, object: K) -> String;
    fn delete(&mut self, key: &str);
    fn known(&self) -> Vec<String>;
}

async fn follow<K, H>(events: impl Stream<Item = watcher::Result<Event<K>>>, mut handler: H, synced: CancellationToken)
where
    K: ResourceExt,
    H: Handler<K>,
{
    let mut events = pin!(events);
    let mut listed = HashSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                listed.insert(handler.apply(object));
            }
            Ok(Event::InitDone) => {
                // What went away while nobody watched.
                for key in handler.known() {
                    if !listed.contains(&key) {
                        handler.delete(&key);
                    }
                }
                listed = HashSet::new();
                synced.cancel();
            }
            Ok(Event::Apply(object)) => {
                handler.apply(object);
            }
            Ok(Event::Delete(object)) => handler.delete(&key(&object)),
            Err(error) => warn!(%error, "watch interrupted, resuming"),
        }
    }
}

fn key(object: &impl ResourceExt) -> String {
    match object.namespace() {
        Some(namespace) => format!("{namespace}/{}", object.name_any()),
        None => object.name_any(),
    }
}

// === Pods ===

struct Pods {
    scheduler: Arc<Scheduler>,
    known: HashMap<String, Arc<PodInfo>>,
}

impl Handler<Pod> for Pods {
    fn apply(&mut self, mut pod: Pod) -> String {
        let key = key(&pod);
        // Pods that have run to their end hold nothing on a node.
        if matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed")) {
            self.delete(&key);
            return key;
        }
        // Half of the object's size, and of no use here.
        pod.metadata.managed_fields = None;
        let old = self.known.get(&key).cloned();
        if let Some(old) = &old {
            if old.pod.metadata.uid != pod.metadata.uid {
                self.delete(&key);
            } else if old.pod.metadata.resource_version == pod.metadata.resource_version {
                return key;
            }
        }
        let old = self.known.get(&key).cloned();
        let new = Arc::new(PodInfo::new(Arc::new(pod)));
        self.known.insert(key.clone(), new.clone());
        let was_assigned = old.as_ref().is_some_and(|old| old.node_name().is_some());
        match (new.node_name(), old) {
            (Some(_), Some(old)) if was_assigned => self.assigned_pod_changed(old, new),
            (Some(node), _) => {
                self.scheduler.dequeue(&new.uid);
                self.scheduler.with_cache(|cache| cache.set_pod(new.clone(), node));
                self.scheduler.on_event(&ClusterEvent::AssignedPodAdd { pod: new });
            }
            (None, _) => {
                let ours = self.scheduler.is_responsible_for(&new);
                // An assumed pod is on its way already; should its binding fail it comes back by itself.
                if ours && !self.scheduler.with_cache(|cache| cache.contains(&new.uid) && !cache.is_assumed(&new.uid)) {
                    self.scheduler.enqueue(new);
                }
            }
        }
        key
    }

    fn delete(&mut self, key: &str) {
        let Some(pod) = self.known.remove(key) else { return };
        self.scheduler.dequeue(&pod.uid);
        let held = self.scheduler.with_cache(|cache| {
            let held = cache.contains(&pod.uid);
            cache.remove_pod(&pod.uid);
            held
        });
        if held {
            self.scheduler.on_event(&ClusterEvent::AssignedPodDelete { pod });
        }
    }

    fn known(&self) -> Vec<String> {
        self.known.keys().cloned().collect()
    }
}

impl Pods {
    fn assigned_pod_changed(&self, old: Arc<PodInfo>, new: Arc<PodInfo>) {
        // Most changes are a kubelet's status reports, which no plugin looks at.
        let same = old.requests == new.requests
            && old.non_zero == new.non_zero
            && old.host_ports == new.host_ports
            && old.pod.metadata.labels == new.pod.metadata.labels
            && old.pod.metadata.deletion_timestamp == new.pod.metadata.deletion_timestamp;
        let Some(node) = new.node_name().filter(|_| !same) else { return };
        self.scheduler.with_cache(|cache| cache.set_pod(new.clone(), node));
        self.scheduler.on_event(&ClusterEvent::AssignedPodUpdate { old, new });
    }
}

// === Nodes ===

struct Nodes {
    scheduler: Arc<Scheduler>,
    known: HashMap<String, Arc<NodeFacts>>,
}

impl Handler<Node> for Nodes {
    fn apply(&mut self, node: Node) -> String {
        let key = key(&node);
        let new = Arc::new(NodeFacts::from(&node));
        let old = self.known.get(&key).cloned();
        if old.as_ref() == Some(&new) {
            return key;
        }
        self.known.insert(key.clone(), new.clone());
        self.scheduler.with_cache(|cache| cache.set_node(new.clone()));
        self.scheduler.on_event(&match old {
            Some(old) => ClusterEvent::NodeUpdate { old, new },
            None => ClusterEvent::NodeAdd { node: new },
        });
        key
    }

    fn delete(&mut self, key: &str) {
        if let Some(node) = self.known.remove(key) {
            self.scheduler.with_cache(|cache| cache.remove_node(&node.name));
        }
    }

    fn known(&self) -> Vec<String> {
        self.known.keys().cloned().collect()
    }
}
