//! One metadata watch per resource type, feeding the graph.

use std::collections::{HashMap, HashSet};

use futures::StreamExt;
use kube::api::{Api, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Collector;
use super::graph::{Identity, Uid};
use crate::discovery::ResourceType;
use crate::meta;

/// The running watches by type.
#[derive(Default)]
pub(super) struct Monitors {
    running: HashMap<(String, String), Monitor>,
}

struct Monitor {
    stop: CancellationToken,
    synced: watch::Receiver<bool>,
}

/// Types whose objects are never part of the graph: there are many and they own nothing.
fn is_ignored(kind: &ResourceType) -> bool {
    kind.resource.plural == "events" && matches!(kind.resource.group.as_str(), "" | "events.k8s.io")
}

impl Monitors {
    /// Starts watches of new types and stops those of types that are gone. A group whose discovery failed keeps its watches.
    pub(super) fn update(
        &mut self,
        collector: &Collector,
        types: &[ResourceType],
        failed_groups: &[String],
        tasks: &mut JoinSet<()>,
        shutdown: &CancellationToken,
    ) {
        let wanted: HashMap<_, _> = types
            .iter()
            .filter(|kind| ["list", "watch", "delete"].iter().all(|verb| kind.supports(verb)) && !is_ignored(kind))
            .map(|kind| ((kind.resource.api_version.clone(), kind.resource.plural.clone()), kind))
            .collect();
        self.running.retain(|key, monitor| {
            let keep = wanted.contains_key(key) || failed_groups.contains(&key.0);
            if !keep {
                monitor.stop.cancel();
            }
            keep
        });
        for (key, kind) in wanted {
            self.running.entry(key).or_insert_with(|| {
                debug!(resource = %kind.group_resource(), "watching");
                let stop = shutdown.child_token();
                let (sender, synced) = watch::channel(false);
                tasks.spawn(observe(collector.clone(), kind.clone(), sender, stop.clone()));
                Monitor { stop, synced }
            });
        }
    }

    /// Receivers that turn true when a watch has its first list.
    pub(super) fn syncs(&self) -> Vec<watch::Receiver<bool>> {
        self.running.values().map(|monitor| monitor.synced.clone()).collect()
    }
}

async fn observe(collector: Collector, kind: ResourceType, synced: watch::Sender<bool>, stop: CancellationToken) {
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(collector.client.clone(), &kind.resource);
    let stream = watcher(api, watcher::Config::default()).default_backoff();
    futures::pin_mut!(stream);
    let mut known: HashSet<Uid> = HashSet::new();
    let mut listed: HashSet<Uid> = HashSet::new();
    while let Some(Some(event)) = stop.run_until_cancelled(stream.next()).await {
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(object)) => {
                listed.insert(meta::uid(&object.metadata).to_owned());
                known.insert(meta::uid(&object.metadata).to_owned());
                apply(&collector, &kind, &object);
            }
            Ok(watcher::Event::InitDone) => {
                known.retain(|uid| {
                    let still_there = listed.contains(uid);
                    if !still_there {
                        collector.removed(uid);
                    }
                    still_there
                });
                listed.clear();
                synced.send_replace(true);
            }
            Ok(watcher::Event::Apply(object)) => {
                known.insert(meta::uid(&object.metadata).to_owned());
                apply(&collector, &kind, &object);
            }
            Ok(watcher::Event::Delete(object)) => {
                known.remove(meta::uid(&object.metadata));
                collector.removed(meta::uid(&object.metadata));
                collector.quotas.removed(&kind, meta::namespace(&object.metadata));
            }
            Err(error) => debug!(resource = %kind.group_resource(), %error, "watch interrupted"),
        }
    }
}

fn apply(collector: &Collector, kind: &ResourceType, object: &PartialObjectMeta<DynamicObject>) {
    let identity = Identity {
        api_version: kind.resource.api_version.clone(),
        kind: kind.resource.kind.clone(),
        namespace: meta::namespace(&object.metadata).to_owned(),
        name: meta::name(&object.metadata).to_owned(),
        uid: meta::uid(&object.metadata).to_owned(),
    };
    collector.observed(identity, &object.metadata);
}
