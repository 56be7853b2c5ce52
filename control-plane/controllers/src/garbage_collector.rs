//! The garbage collector: deletes what has lost its last owner, and carries out foreground and orphan deletion.
//!
//! Watches of every type's metadata keep a graph of owners and dependents ([`graph`]). A change of the graph puts objects on
//! one of two queues; before anything is deleted, the API is asked about the object and its owners.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use parking_lot::{Mutex, RwLock};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::context::Context;
use crate::controller::{Reconciler, drive};
use crate::discovery::{self, ResourceType};
use crate::error::Error;
use crate::resource_quota::ResourceQuotaController;
use crate::work_queue::WorkQueue;

mod attempt;
mod graph;
mod monitor;

use graph::{Graph, Identity, Todo, Uid};
use monitor::Monitors;

/// How long the first lists are waited for; a type that cannot be listed must not stop all collection.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);

/// Shared by the watches and the workers; cheap to clone.
#[derive(Clone)]
struct Collector {
    client: Client,
    graph: Arc<Mutex<Graph>>,
    delete: Arc<WorkQueue<Uid>>,
    orphan: Arc<WorkQueue<Uid>>,
    /// (group, kind) -> type
    types: Arc<RwLock<HashMap<(String, String), ResourceType>>>,
    absent: Arc<Mutex<attempt::AbsentOwners>>,
    /// Told of what is gone.
    quotas: Arc<ResourceQuotaController>,
}

impl Collector {
    fn enqueue(&self, todo: Todo) {
        for uid in todo.delete {
            self.delete.add(uid);
        }
        for uid in todo.orphan {
            self.orphan.add(uid);
        }
    }

    fn observed(&self, identity: Identity, metadata: &ObjectMeta) {
        let todo = self.graph.lock().apply(identity, metadata);
        self.enqueue(todo);
    }

    fn removed(&self, uid: &str) {
        let todo = self.graph.lock().remove(uid);
        self.enqueue(todo);
    }

    fn learn(&self, types: &[ResourceType]) {
        let mut known = self.types.write();
        known.extend(types.iter().map(|kind| {
            let key = (kind.resource.group.clone(), kind.resource.kind.clone());
            (key, kind.clone())
        }));
    }

    fn type_of(&self, api_version: &str, kind: &str) -> Option<ResourceType> {
        self.types.read().get(&(graph::group(api_version).to_owned(), kind.to_owned())).cloned()
    }
}

/// Looks at objects that may have to be deleted.
struct Deleter(Collector);

impl Reconciler for Deleter {
    type Key = Uid;

    fn name(&self) -> &'static str {
        "garbage-collector-controller"
    }

    async fn reconcile(&self, uid: &Uid) -> Result<Option<Duration>, Error> {
        self.0.attempt_to_delete(uid).await.map(|()| None)
    }
}

/// Lets go of the dependents of objects deleted with policy Orphan.
struct Orphaner(Collector);

impl Reconciler for Orphaner {
    type Key = Uid;

    fn name(&self) -> &'static str {
        "garbage-collector-controller"
    }

    async fn reconcile(&self, uid: &Uid) -> Result<Option<Duration>, Error> {
        self.0.attempt_to_orphan(uid).await.map(|()| None)
    }
}

/// Runs until `shutdown`.
pub(crate) async fn run(context: Context, quotas: Arc<ResourceQuotaController>, shutdown: CancellationToken) {
    let collector = Collector {
        client: context.client.clone(),
        graph: Arc::default(),
        delete: Arc::new(WorkQueue::new(context.metrics.queue("garbage_collector_attempt_to_delete"))),
        orphan: Arc::new(WorkQueue::new(context.metrics.queue("garbage_collector_attempt_to_orphan"))),
        types: Arc::default(),
        absent: Arc::default(),
        quotas,
    };
    let mut tasks = JoinSet::new();
    let mut monitors = Monitors::default();
    let mut workers_started = false;
    let mut tick = tokio::time::interval(context.config.discovery_period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            // A watch of a type that is gone has ended, or one has crashed; then the whole manager ends.
            Some(ended) = tasks.join_next() => {
                propagate(ended);
                continue;
            }
            _ = tick.tick() => {}
        }
        match discovery::discover(&context.client).await {
            Ok(found) => {
                let failed: Vec<String> = found.failed.into_iter().map(|(group, _)| group).collect();
                collector.learn(&found.types);
                monitors.update(&collector, &found.types, &failed, &mut tasks, &shutdown);
            }
            Err(error) => {
                warn!(%error, "cannot discover resource types");
                if !workers_started {
                    tick.reset_after(Duration::from_secs(1));
                    continue;
                }
            }
        }
        if !workers_started {
            wait_for_lists(&monitors, &shutdown).await;
            info!(objects = collector.graph.lock().len(), "garbage collector has its graph");
            let workers = context.config.concurrent_gc_syncs;
            tasks.spawn(drive(
                Arc::new(Deleter(collector.clone())),
                collector.delete.clone(),
                workers,
                shutdown.clone(),
            ));
            tasks.spawn(drive(
                Arc::new(Orphaner(collector.clone())),
                collector.orphan.clone(),
                workers,
                shutdown.clone(),
            ));
            workers_started = true;
        }
    }
    while let Some(ended) = tasks.join_next().await {
        propagate(ended);
    }
}

/// Panics as the task did that ended so.
fn propagate(ended: Result<(), JoinError>) {
    if let Err(panic) = ended.map_err(JoinError::try_into_panic)
        && let Ok(panic) = panic
    {
        std::panic::resume_unwind(panic);
    }
}

async fn wait_for_lists(monitors: &Monitors, shutdown: &CancellationToken) {
    let all = async {
        for mut synced in monitors.syncs() {
            // An error means that the watch has ended, which is as good as synced.
            let _ = synced.wait_for(|synced| *synced).await;
        }
    };
    let patient = tokio::time::timeout(SYNC_TIMEOUT, all);
    if let Some(Err(_)) = shutdown.run_until_cancelled(patient).await {
        warn!("some resource types could not be listed in time; garbage collection starts without them");
    }
}
