//! Brings news to the pods' workers: from the API's watch, from the runtime's events, from a slow relist that only repairs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use skep_cri::api::{ContainerState, PodSandboxState};
use skep_cri::events::Event;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::podext::PodExt;
use crate::view::{Surveyed, survey};
use crate::worker::terminate::remove_orphan;
use crate::worker::{Message, Worker};

const RELIST: Duration = Duration::from_secs(60);
/// After the end of something unknown.
const RELIST_UNKNOWN: Duration = Duration::from_secs(1);
/// While the event stream is down, looking is all there is.
const RELIST_BLIND: Duration = Duration::from_secs(10);

pub(crate) struct PodManager {
    context: Arc<Context>,
    workers: HashMap<String, UnboundedSender<Message>>,
    tasks: JoinSet<String>,
    /// The pods of this node in the API.
    pods: HashMap<String, Arc<Pod>>,
    /// Those of them whose worker has finished; late news must not revive them.
    finished: HashSet<String>,
    /// Uids seen in the listing under way.
    listing: HashSet<String>,
    /// Whether the API has been listed once: before that nothing counts as an orphan.
    synced: bool,
    last_survey: HashMap<String, Surveyed>,
    /// The question to the runtime under way, at most one. It is a task of its own: while a runtime that hangs keeps it
    /// waiting, news from the API and events go on.
    survey: JoinSet<Result<HashMap<String, Surveyed>, skep_cri::Error>>,
    /// Waits for the runtime's own view of an exit.
    settling: JoinSet<()>,
    orphans: JoinSet<String>,
    orphaned: HashSet<String>,
}

impl PodManager {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            workers: HashMap::new(),
            tasks: JoinSet::new(),
            pods: HashMap::new(),
            finished: HashSet::new(),
            listing: HashSet::new(),
            synced: false,
            last_survey: HashMap::new(),
            survey: JoinSet::new(),
            settling: JoinSet::new(),
            orphans: JoinSet::new(),
            orphaned: HashSet::new(),
        }
    }

    /// Runs until `shutdown`; the pods keep running.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let selector = format!("spec.nodeName={}", self.context.config.node_name);
        let api: Api<Pod> = Api::all(self.context.client.clone());
        let pods = watcher(api, watcher::Config::default().fields(&selector)).default_backoff();
        let mut pods = std::pin::pin!(pods);
        let mut events = std::pin::pin!(self.context.cri.events());
        let mut period = RELIST;
        let mut next_relist = tokio::time::Instant::now();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                event = pods.next() => match event {
                    Some(Ok(event)) => self.take_pod_event(event),
                    Some(Err(error)) => tracing::warn!(%error, "watching pods"),
                    None => return,
                },
                Some(event) = events.next() => match event {
                    Event::Connected => {
                        tracing::info!("runtime event stream stands");
                        period = RELIST;
                        next_relist = tokio::time::Instant::now();
                    }
                    Event::Disconnected => {
                        period = RELIST_BLIND;
                        next_relist = tokio::time::Instant::now() + period;
                    }
                    event => {
                        if !self.take_runtime_event(event) {
                            next_relist = next_relist.min(tokio::time::Instant::now() + RELIST_UNKNOWN);
                        }
                    }
                },
                Some(ended) = self.tasks.join_next() => self.bury(ended),
                Some(Ok(uid)) = self.orphans.join_next() => { self.orphaned.remove(&uid); }
                () = tokio::time::sleep_until(next_relist) => {
                    next_relist = tokio::time::Instant::now() + period;
                    if self.survey.is_empty() {
                        let cri = self.context.cri.clone();
                        self.survey.spawn(async move { survey(&cri).await });
                    }
                }
                Some(found) = self.survey.join_next() => match found {
                    Ok(Ok(found)) => self.compare(found),
                    Ok(Err(error)) => tracing::warn!(%error, "could not list the runtime's pods"),
                    Err(error) => tracing::error!(%error, "listing the runtime's pods"),
                },
                Some(_) = self.settling.join_next() => {}
            }
        }
    }

    fn take_pod_event(&mut self, event: watcher::Event<Pod>) {
        match event {
            watcher::Event::Init => self.listing.clear(),
            watcher::Event::InitApply(pod) => {
                self.listing.insert(pod.uid().to_owned());
                self.apply(pod);
            }
            watcher::Event::InitDone => {
                let listing = std::mem::take(&mut self.listing);
                for (uid, worker) in &self.workers {
                    if !listing.contains(uid) {
                        // Fails only when the worker has just finished.
                        let _ = worker.send(Message::Gone);
                    }
                }
                self.finished.retain(|uid| listing.contains(uid));
                self.pods.retain(|uid, _| listing.contains(uid));
                if !self.synced {
                    self.synced = true;
                    tracing::info!(pods = self.workers.len(), "pods of this node are known");
                    let survey = self.last_survey.clone();
                    self.remove_orphans(&survey);
                    self.remove_orphaned_directories();
                }
            }
            watcher::Event::Apply(pod) => self.apply(pod),
            watcher::Event::Delete(pod) => {
                self.finished.remove(pod.uid());
                self.pods.remove(pod.uid());
                if let Some(worker) = self.workers.get(pod.uid()) {
                    let _ = worker.send(Message::Gone);
                }
            }
        }
    }

    fn apply(&mut self, pod: Pod) {
        let uid = pod.uid().to_owned();
        if uid.is_empty() {
            return;
        }
        let pod = Arc::new(pod);
        self.pods.insert(uid.clone(), pod.clone());
        if !self.finished.contains(&uid) {
            self.tell(uid, pod);
        }
    }

    /// Hands the pod to its worker, a new one if need be.
    fn tell(&mut self, uid: String, pod: Arc<Pod>) {
        if let Some(worker) = self.workers.get(&uid) {
            let _ = worker.send(Message::Pod(pod));
            return;
        }
        let (sender, inbox) = unbounded_channel();
        let worker = Worker::new(self.context.clone(), pod, inbox, sender.clone());
        self.tasks.spawn(worker.run());
        self.workers.insert(uid, sender);
    }

    fn bury(&mut self, ended: Result<String, tokio::task::JoinError>) {
        match ended {
            Ok(uid) => {
                self.workers.remove(&uid);
                if self.pods.contains_key(&uid) {
                    self.finished.insert(uid);
                }
            }
            Err(error) => {
                // A panic is a bug; the pod it belonged to is found by its closed queue and gets a new worker.
                tracing::error!(%error, "a pod worker died");
                let dead: Vec<_> =
                    self.workers.iter().filter(|(_, w)| w.is_closed()).map(|(uid, _)| uid.clone()).collect();
                for uid in dead {
                    self.workers.remove(&uid);
                    if let Some(pod) = self.pods.get(&uid).cloned() {
                        self.tell(uid, pod);
                    }
                }
            }
        }
    }

    /// False for the end of something that no worker has seen yet: only a relist can tell whose it was.
    fn take_runtime_event(&mut self, event: Event) -> bool {
        match event {
            Event::Exited { id, status } => {
                tracing::debug!(id, status, "exited");
                return self.settle(id);
            }
            Event::Started(id) | Event::OutOfMemory(id) => self.notify(&id),
            Event::Deleted(id) => {
                self.notify(&id);
                self.context.disown(&id);
            }
            Event::Connected | Event::Disconnected | Event::ImagesChanged => {}
        }
        true
    }

    fn notify(&self, id: &str) {
        let worker = self.context.owner(id).and_then(|uid| self.workers.get(&uid));
        if let Some(worker) = worker {
            let _ = worker.send(Message::Changed);
        }
    }

    /// The runtime's CRI side learns of an exit from the same stream and a moment later: waits for that moment, then tells.
    /// False if nobody is known to tell.
    fn settle(&mut self, id: String) -> bool {
        let Some(worker) = self.context.owner(&id).and_then(|uid| self.workers.get(&uid)).cloned() else {
            return false;
        };
        let cri = self.context.cri.clone();
        self.settling.spawn(async move {
            for attempt in 0..11 {
                let running = match cri.container_status(&id).await {
                    Ok(status) => status.state() == ContainerState::ContainerRunning,
                    Err(error) if error.is_not_found() => {
                        let status = cri.pod_sandbox_status(&id).await;
                        status.is_ok_and(|status| status.state() == PodSandboxState::SandboxReady)
                    }
                    Err(_) => false,
                };
                if !running {
                    break;
                }
                // 1 ms, 2 ms, .. 1 s: two seconds in all.
                tokio::time::sleep(Duration::from_millis(1 << attempt)).await;
            }
            let _ = worker.send(Message::Changed);
        });
        true
    }

    /// Finds what the events did not tell.
    fn compare(&mut self, found: HashMap<String, Surveyed>) {
        for (uid, worker) in &self.workers {
            if found.get(uid) != self.last_survey.get(uid) {
                let _ = worker.send(Message::Changed);
            }
        }
        if self.synced {
            self.remove_orphans(&found);
        }
        self.last_survey = found;
    }

    /// Pods the runtime has and nobody owns.
    fn remove_orphans(&mut self, found: &HashMap<String, Surveyed>) {
        for (uid, pod) in found {
            if self.workers.contains_key(uid) || self.finished.contains(uid) || !self.orphaned.insert(uid.clone()) {
                continue;
            }
            tracing::info!(
                uid,
                pod = format!("{}/{}", pod.namespace, pod.name),
                "removing a pod that is no longer wanted"
            );
            self.end_orphan(uid.clone());
        }
    }

    fn end_orphan(&mut self, uid: String) {
        let context = self.context.clone();
        self.orphans.spawn(async move {
            if let Err(error) = remove_orphan(&context, &uid).await {
                tracing::warn!(uid, %error, "could not remove an orphaned pod; the next relist tries again");
            }
            uid
        });
    }

    /// Directories left behind by pods that neither the API nor the runtime knows.
    fn remove_orphaned_directories(&mut self) {
        let Ok(entries) = std::fs::read_dir(self.context.config.data_dir.join("pods")) else { return };
        for uid in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
            if !self.workers.contains_key(&uid) && self.orphaned.insert(uid.clone()) {
                self.end_orphan(uid);
            }
        }
    }
}
