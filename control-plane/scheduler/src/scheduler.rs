//! The scheduling loop: one pod at a time through the scheduling cycle, any number of them through the binding cycle.

mod algorithm;
mod binding;
mod failure;

use std::{sync::Arc, time::Duration};

use kube::{Client, Resource};
use parking_lot::Mutex;
use skep_client::Recorder;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    cache::Cache,
    config::Config,
    framework::{ClusterEvent, CycleState, Framework, PermitOutcome},
    metrics::Metrics,
    pod_info::PodInfo,
    queue::{Queue, QueuedPod},
};
use algorithm::Algorithm;
use binding::BindingCycle;
use failure::Unscheduled;

/// How long shutdown waits for bindings already begun.
const FINISH_BINDINGS: Duration = Duration::from_secs(5);

/// What the loop, the bindings and the informers share. The two locks are never held together, nor across an await.
pub(crate) struct Scheduler {
    client: Client,
    framework: Arc<Framework>,
    cache: Mutex<Cache>,
    queue: Mutex<Queue>,
    /// Told when the queue may have something to pop.
    wake: Notify,
    recorder: Recorder,
    metrics: Metrics,
    percentage_of_nodes_to_score: u8,
    slots: Arc<Semaphore>,
    status_slots: Semaphore,
    tasks: TaskTracker,
}

impl Scheduler {
    pub(crate) fn new(client: Client, framework: Arc<Framework>, recorder: Recorder, config: Config) -> Self {
        Self {
            client,
            queue: Mutex::new(Queue::new(framework.clone(), config.timing)),
            framework,
            cache: Mutex::default(),
            wake: Notify::new(),
            recorder,
            metrics: config.metrics,
            percentage_of_nodes_to_score: config.percentage_of_nodes_to_score,
            slots: Arc::new(Semaphore::new(config.bindings_in_flight.max(1))),
            status_slots: Semaphore::new(64),
            tasks: TaskTracker::new(),
        }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Schedules until `stop` fires, then finishes the bindings already begun.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut algorithm = Algorithm::new(self.percentage_of_nodes_to_score);
        let scheduling = async {
            // The semaphore is never closed.
            while let Ok(slot) = self.slots.clone().acquire_owned().await {
                let pod = self.next_pod().await;
                self.schedule_one(&mut algorithm, pod, slot);
                tokio::task::yield_now().await;
            }
        };
        stop.run_until_cancelled(scheduling).await;
        self.tasks.close();
        if timeout(FINISH_BINDINGS, self.tasks.wait()).await.is_err() {
            warn!(bindings = self.tasks.len(), "stopping with bindings unfinished");
        }
    }

    async fn next_pod(&self) -> QueuedPod {
        loop {
            let woken = self.wake.notified();
            let due = {
                let mut queue = self.queue.lock();
                if let Some(pod) = queue.pop(Instant::now()) {
                    return pod;
                }
                queue.next_due()
            };
            match due {
                // Either way the queue is asked again.
                Some(due) => drop(timeout_at(due, woken).await),
                None => woken.await,
            }
        }
    }

    // === Scheduling cycle ===

    fn schedule_one(self: &Arc<Self>, algorithm: &mut Algorithm, pod: QueuedPod, slot: OwnedSemaphorePermit) {
        let started = Instant::now();
        if self.is_not_ours_any_more(&pod.info) {
            self.queue.lock().done(&pod.info.uid);
            return;
        }
        let mut state = CycleState::default();
        self.cache.lock().update_snapshot(&mut algorithm.snapshot);
        let chosen = algorithm.schedule(&self.framework, &mut state, &pod.info);
        self.metrics.algorithm(started.elapsed());
        let node = match chosen {
            Ok(node) => node,
            Err(unscheduled) => return self.handle_failure(pod, unscheduled, started),
        };
        if !self.cache.lock().assume_pod(pod.info.clone(), &node) {
            // Bound by someone else between the two locks.
            self.queue.lock().done(&pod.info.uid);
            return;
        }
        let reserved = self.framework.run_reserve(&state, &pod.info, &node);
        let permit = if reserved.is_success() {
            self.framework.run_permit(&state, &pod.info, &node)
        } else {
            PermitOutcome::Rejected(reserved)
        };
        if let PermitOutcome::Rejected(status) = permit {
            self.framework.run_unreserve(&state, &pod.info, &node);
            self.cache.lock().forget_pod(&pod.info.uid);
            return self.handle_failure(pod, Unscheduled::Rejected(status), started);
        }
        let cycle = BindingCycle { pod, node, state, started, slot };
        self.tasks.spawn(self.clone().bind(cycle, permit));
    }

    fn is_not_ours_any_more(&self, pod: &PodInfo) -> bool {
        if self.queue.lock().is_deleted(&pod.uid) {
            return true;
        }
        if pod.pod.metadata.deletion_timestamp.is_some() {
            let message = format!("skip schedule deleting pod: {}", pod.key());
            self.recorder.warning(pod.pod.object_ref(&()), "FailedScheduling", message);
            return true;
        }
        self.cache.lock().contains(&pod.uid)
    }

    // === What informers tell ===

    pub(crate) fn with_cache<T>(&self, change: impl FnOnce(&mut Cache) -> T) -> T {
        change(&mut self.cache.lock())
    }

    /// Whether a pod without a node is for this scheduler.
    pub(crate) fn is_responsible_for(&self, pod: &PodInfo) -> bool {
        let name = pod.spec().and_then(|spec| spec.scheduler_name.as_deref()).filter(|name| !name.is_empty());
        name.unwrap_or("default-scheduler") == self.framework.profile()
    }

    pub(crate) fn enqueue(&self, pod: Arc<PodInfo>) {
        self.queue.lock().set(pod, Instant::now());
        self.wake.notify_one();
    }

    pub(crate) fn dequeue(&self, uid: &str) {
        self.queue.lock().delete(uid);
        let gone = crate::framework::Status::unschedulable("the pod is gone");
        self.framework.reject_waiting_pod(uid, gone);
    }

    pub(crate) fn on_event(&self, event: &ClusterEvent) {
        self.metrics.event(event.label());
        self.queue.lock().on_event(event, Instant::now());
        self.wake.notify_one();
    }

    /// Once in a while: expired assumptions, and gauges.
    pub(crate) fn housekeep(&self) {
        let expired = self.cache.lock().expire(Instant::now());
        for pod in expired {
            info!(pod = %pod.key(), "no informer has confirmed this binding, dropping the assumption");
            self.on_event(&ClusterEvent::AssignedPodDelete { pod });
        }
        let pending = self.queue.lock().pending();
        let sizes = self.cache.lock().sizes();
        self.metrics.sizes(pending, sizes);
    }
}
