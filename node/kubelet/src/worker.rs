//! One task a pod: it owns the pod's sandbox, containers, volumes and status, and nothing else touches them.
//!
//! The worker never waits for the runtime in its loop beyond asking what is there. Whatever takes time (a pull, a start, a
//! stop) is an operation of its own that reports back, so that an exit or a deletion is acted upon at once.

mod health;
mod hooks;
mod operations;
pub(crate) mod terminate;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::OnceCell;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::task::{AbortHandle, JoinHandle};

use crate::backoff::Backoff;
use crate::context::{Context, Snapshot};
use crate::images::{self, Waiting};
use crate::plan::{self, Action, Knowledge};
use crate::podext::{PodExt, container_hash, now_nanos};
use crate::probes::{Probes, Verdict};
use crate::status::{self, Inputs};
use crate::status_sender::StatusSender;
use crate::view::{PodView, State};
use crate::volumes::{self, Mounted};

/// How often changed ConfigMaps and Secrets reach volumes (upstream's sync frequency).
const REFRESH_EVERY: Duration = Duration::from_secs(60);
const RUNTIME_RETRY: Duration = Duration::from_secs(1);
/// A failed pull shows its error this long before it shows the back-off.
const SHOW_ERROR: Duration = Duration::from_secs(1);

/// What a worker is told. The queue is unbounded: a pod's changes are few, and its sender must never wait.
#[derive(Debug)]
pub(crate) enum Message {
    /// A new version of the Pod.
    Pod(Arc<Pod>),
    /// The Pod is no longer in the API.
    Gone,
    /// Something of it changed in the runtime.
    Changed,
    /// A probe changed its mind.
    Verdict(Verdict),
    /// An operation ended.
    Done(Done),
}

impl From<Verdict> for Message {
    fn from(verdict: Verdict) -> Self {
        Message::Verdict(verdict)
    }
}

/// How an operation ended.
#[derive(Debug)]
pub(crate) enum Done {
    Sandbox(Result<(), Waiting>),
    Start {
        name: String,
        result: Result<(), Waiting>,
    },
    Stop {
        id: String,
    },
    /// Nothing of the pod runs any more.
    Halted,
    /// Its volumes and cgroup are gone too.
    Stopped,
    /// Everything is removed; the worker's life ends.
    Removed,
}

/// How far the end of the pod has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Alive,
    Stopping { grace: i64 },
    Stopped,
    Removing,
}

/// Keeps a container from being tried again too soon.
struct Hold {
    until: Instant,
    waiting: Waiting,
    /// What to show instead from a moment on.
    later: Option<(Instant, Waiting)>,
}

pub(crate) struct Worker {
    context: Arc<Context>,
    pod: Arc<Pod>,
    inbox: UnboundedReceiver<Message>,
    to_self: UnboundedSender<Message>,
    view: PodView,
    /// The view must be loaded before anything is decided.
    stale: bool,
    status: Arc<PodStatus>,
    sender: StatusSender,
    /// Operations under way: by container name, empty for the sandbox.
    busy: HashMap<String, AbortHandle>,
    /// Containers being stopped, by id.
    stopping: HashMap<String, AbortHandle>,
    ending: Option<AbortHandle>,
    holds: HashMap<String, Hold>,
    crashes: Backoff,
    pulls: Backoff,
    retries: Backoff,
    waiting: HashMap<String, Waiting>,
    ready: HashSet<String>,
    started: HashSet<String>,
    probes: Probes,
    volumes: Arc<OnceCell<Mounted>>,
    stage: Stage,
    /// Nothing of the pod runs any more, and nothing will.
    halted: bool,
    failure: Option<Waiting>,
    gone: bool,
    /// The Pod had ended before this worker began: its status is history.
    historic: bool,
    refreshed: Instant,
    refreshing: Option<JoinHandle<()>>,
    /// The runtime did not answer last time.
    blind: bool,
}

impl Worker {
    pub(crate) fn new(
        context: Arc<Context>,
        pod: Arc<Pod>,
        inbox: UnboundedReceiver<Message>,
        to_self: UnboundedSender<Message>,
    ) -> Self {
        let status = pod.status.clone().unwrap_or_default();
        let historic = pod.ended_phase().is_some();
        let sender = StatusSender::start(context.client.clone(), &pod);
        let mut worker = Self {
            inbox,
            to_self,
            view: PodView::default(),
            stale: true,
            sender,
            busy: HashMap::new(),
            stopping: HashMap::new(),
            ending: None,
            holds: HashMap::new(),
            crashes: Backoff::upstream(),
            pulls: Backoff::upstream(),
            retries: Backoff::new(Duration::from_millis(500), Duration::from_secs(10)),
            waiting: HashMap::new(),
            ready: HashSet::new(),
            started: HashSet::new(),
            probes: Probes::default(),
            volumes: Arc::default(),
            stage: Stage::Alive,
            halted: false,
            failure: None,
            gone: false,
            historic,
            refreshed: Instant::now(),
            refreshing: None,
            blind: false,
            status: Arc::new(status),
            context,
            pod,
        };
        worker.recall_health();
        worker
    }

    /// Lives as long as the pod. Answers its uid.
    pub(crate) async fn run(mut self) -> String {
        let uid = self.pod.uid().to_owned();
        loop {
            let wake = self.step().await;
            let message = match wake {
                Some(at) => tokio::select! {
                    message = self.inbox.recv() => message,
                    () = tokio::time::sleep_until(at.into()) => Some(Message::Changed),
                },
                None => self.inbox.recv().await,
            };
            let mut next = message;
            while let Some(message) = next {
                if self.take(message) {
                    self.context.withdraw(&uid);
                    return uid;
                }
                next = self.inbox.try_recv().ok();
            }
        }
    }

    /// Notes a message; true when the worker's life is over.
    fn take(&mut self, message: Message) -> bool {
        match message {
            Message::Pod(pod) => {
                self.sender.observe(pod.clone());
                self.release_changed(&pod);
                self.pod = pod;
            }
            Message::Gone => self.gone = true,
            Message::Changed => self.stale = true,
            Message::Verdict(verdict) => self.heed(verdict),
            Message::Done(Done::Sandbox(result)) => {
                self.stale = true;
                self.busy.remove("");
                self.note_result("", result);
            }
            Message::Done(Done::Start { name, result }) => {
                self.stale = true;
                self.busy.remove(&name);
                self.note_result(&name, result);
            }
            Message::Done(Done::Stop { id }) => {
                self.stale = true;
                self.stopping.remove(&id);
            }
            Message::Done(Done::Halted) => {
                self.stale = true;
                self.halted = true;
            }
            Message::Done(Done::Stopped) => {
                self.stale = true;
                self.ending = None;
                self.stage = Stage::Stopped;
            }
            Message::Done(Done::Removed) => return true,
        }
        false
    }

    /// Looks, decides, acts, tells. Answers when to look again if nothing happens.
    async fn step(&mut self) -> Option<Instant> {
        if self.stale && self.stage != Stage::Removing {
            match self.context.view(self.pod.uid(), &self.view).await {
                Ok(view) => self.see(view),
                Err(error) => {
                    if !std::mem::replace(&mut self.blind, true) {
                        tracing::warn!(pod = %self.pod.key(), %error, "cannot see the pod in the runtime, trying on");
                    }
                    return Some(Instant::now() + RUNTIME_RETRY);
                }
            }
        }
        self.watch_health();
        self.waiting.clear();
        let mut wake = None;
        let leaving = self.gone || self.pod.deleting().is_some();
        // A phase that somebody else has ended in the API is as final as one of ours.
        let over = leaving || self.historic || self.pod.ended_phase().is_some() || self.past_deadline();
        match self.stage {
            Stage::Alive if over => self.stop_all(),
            Stage::Alive => wake = self.drive(),
            // Someone asked for a faster end.
            Stage::Stopping { grace } if leaving && self.pod.grace_seconds() < grace => self.stop_all(),
            Stage::Stopping { .. } | Stage::Removing => {}
            Stage::Stopped => {}
        }
        self.publish();
        // Only after the final status is on its way may the pod be removed.
        if self.stage == Stage::Stopped && leaving {
            self.remove_all();
        }
        self.refresh_volumes();
        let refresh = volumes::needs_refresh(&self.pod) && self.stage == Stage::Alive;
        let deadline = self.deadline();
        [wake, refresh.then(|| self.refreshed + REFRESH_EVERY), deadline].into_iter().flatten().min()
    }

    fn see(&mut self, view: PodView) {
        let uid = self.pod.uid();
        for id in view.sandboxes.iter().map(|sandbox| &sandbox.id).chain(view.containers.iter().map(|c| &c.id)) {
            self.context.own(id, uid);
        }
        self.view = view;
        self.stale = false;
        self.blind = false;
    }

    /// Starts what the plan says and nothing holds back. Answers when the first hold ends.
    fn drive(&mut self) -> Option<Instant> {
        let remembered = self.remembered_restarts();
        let knowledge = Knowledge { started: &self.started, remembered: &remembered };
        let mut wake: Option<Instant> = None;
        for action in plan::plan(&self.pod, &self.view, &knowledge) {
            let until = match action {
                Action::CreateSandbox { attempt } => self.create_sandbox(attempt),
                Action::Start { name, attempt, after } => self.start_container(&name, attempt, after),
                Action::Stop { id, name, message } => {
                    self.stop_container(&id, &name, message, None);
                    None
                }
                Action::Finish => {
                    self.stop_all();
                    None
                }
            };
            wake = [wake, until].into_iter().flatten().min();
        }
        wake
    }

    fn create_sandbox(&mut self, attempt: u32) -> Option<Instant> {
        // An operation of the last sandbox would put its container into a dead one.
        self.busy.retain(|name, task| {
            if !name.is_empty() {
                task.abort();
            }
            name.is_empty()
        });
        if self.busy.contains_key("") {
            return None;
        }
        if let Some(hold) = self.holds.get("").filter(|hold| hold.until > Instant::now()) {
            return Some(hold.until);
        }
        let inhabited = |id: &str| self.view.containers.iter().any(|record| record.sandbox == id);
        let old = self.view.sandboxes.iter().map(|sandbox| (sandbox.id.clone(), inhabited(&sandbox.id))).collect();
        let operation = operations::sandbox(self.context.clone(), self.pod.clone(), attempt, old, self.volumes.clone());
        self.spawn("", async move { Done::Sandbox(operation.await) });
        None
    }

    fn start_container(&mut self, name: &str, attempt: u32, after: Option<i64>) -> Option<Instant> {
        if self.busy.contains_key(name) {
            return None;
        }
        if let Some(until) = self.held(name) {
            return Some(until);
        }
        let pod = self.pod.clone();
        let container = pod.any_container(name)?;
        let sandbox = self.view.sandbox()?.clone();
        if let Some(ended) = after {
            let key = format!("{name}/{}", container_hash(&container));
            let now = now_nanos();
            if let Some(left) = self.crashes.remaining(&key, ended, now) {
                return Some(self.hold_crashed(name, &key, left));
            }
            self.crashes.next(&key, ended, now);
        }
        let old = self.superseded(name);
        let start = operations::Start {
            context: self.context.clone(),
            pod: self.pod.clone(),
            target: self.target_of(name),
            container,
            attempt,
            sandbox,
            volumes: self.volumes.clone(),
            superseded: old,
        };
        let name = name.to_owned();
        self.spawn(&name.clone(), async move { Done::Start { name, result: start.run().await } });
        None
    }

    /// The running container whose processes an ephemeral one is to see.
    fn target_of(&self, name: &str) -> Option<String> {
        let mut ephemeral = self.pod.pod_spec().ephemeral_containers.iter().flatten();
        let target = ephemeral.find(|container| container.name == name)?.target_container_name.as_deref()?;
        self.view.latest(target).filter(|record| record.state == State::Running).map(|record| record.id.clone())
    }

    /// Until when `name` is held back; shows why meanwhile.
    fn held(&mut self, name: &str) -> Option<Instant> {
        let now = Instant::now();
        let hold = self.holds.get_mut(name)?;
        if hold.until <= now {
            self.holds.remove(name);
            return None;
        }
        let mut wake = hold.until;
        if let Some((at, waiting)) = hold.later.take() {
            if at <= now {
                hold.waiting = waiting;
                let image = self.pod.any_container(name).and_then(|container| container.image);
                let message = format!("Back-off pulling image {:?}", image.unwrap_or_default());
                let object = self.pod.container_reference(name);
                self.context.recorder.normal(object.clone(), "BackOff", message);
                self.context.recorder.warning(object, "Failed", "Error: ImagePullBackOff");
            } else {
                hold.later = Some((at, waiting));
                wake = wake.min(at);
            }
        }
        self.waiting.insert(name.to_owned(), hold.waiting.clone());
        Some(wake)
    }

    fn hold_crashed(&mut self, name: &str, key: &str, left: Duration) -> Instant {
        let pod = &self.pod;
        let whole = format!("{}_{}({})", pod.pod_name(), pod.ns(), pod.uid());
        let message = format!("Back-off restarting failed container {name} in pod {whole}");
        self.context.recorder.warning(pod.container_reference(name), "BackOff", message);
        let pause = humantime(self.crashes.pause(key));
        let waiting = Waiting::new(
            "CrashLoopBackOff",
            format!("back-off {pause} restarting failed container={name} pod={whole}"),
        );
        let until = Instant::now() + left;
        self.waiting.insert(name.to_owned(), waiting.clone());
        self.holds.insert(name.to_owned(), Hold { until, waiting, later: None });
        until
    }

    /// What an operation's failure means for the next attempt.
    fn note_result(&mut self, name: &str, result: Result<(), Waiting>) {
        let Err(waiting) = result else {
            self.holds.remove(name);
            self.retries.reset(name);
            return;
        };
        let now = now_nanos();
        let hold = if waiting.reason == "ErrImagePull" {
            let pod = self.pod.clone();
            let container = pod.any_container(name).unwrap_or_default();
            let key = images::backoff_key(&container);
            self.pulls.next(&key, now, now);
            let image = container.image.unwrap_or_default();
            let text = format!("Back-off pulling image {image:?}: ErrImagePull: {}", waiting.message);
            let later = Some((Instant::now() + SHOW_ERROR, Waiting::new("ImagePullBackOff", text)));
            Hold { until: Instant::now() + self.pulls.pause(&key), waiting, later }
        } else if matches!(waiting.reason, "RunContainerError" | "PostStartHookError") {
            // The runtime holds an ended container now: the crash back-off applies.
            return;
        } else {
            self.retries.next(name, now, now);
            Hold { until: Instant::now() + self.retries.pause(name), waiting, later: None }
        };
        self.holds.insert(name.to_owned(), hold);
    }

    fn spawn(&mut self, name: &str, operation: impl Future<Output = Done> + Send + 'static) {
        let to_self = self.to_self.clone();
        let task = tokio::spawn(async move {
            // Fails only when the worker has ended.
            let _ = to_self.send(Message::Done(operation.await));
        });
        self.busy.insert(name.to_owned(), task.abort_handle());
    }

    /// Incarnations before the last: one ended container is kept for its log and status.
    fn superseded(&self, name: &str) -> Vec<String> {
        let records = self.view.containers.iter().filter(|record| record.name == name);
        let unstarted = records.clone().filter(|record| record.state == crate::view::State::Created);
        records.skip(1).chain(unstarted).map(|record| record.id.clone()).collect()
    }

    fn remembered_restarts(&self) -> Vec<(String, u32)> {
        let statuses = self.status.container_statuses.iter().chain(&self.status.init_container_statuses).flatten();
        let begun = statuses.filter(|status| status.container_id.is_some());
        begun.map(|status| (status.name.clone(), u32::try_from(status.restart_count).unwrap_or(0))).collect()
    }

    fn deadline(&self) -> Option<Instant> {
        let seconds = self.pod.pod_spec().active_deadline_seconds?;
        if self.stage != Stage::Alive {
            return None;
        }
        let started = self.status.start_time.as_ref()?.0;
        let left = seconds - (Timestamp::now().as_second() - started.as_second());
        Some(Instant::now() + Duration::from_secs(u64::try_from(left).unwrap_or(0)))
    }

    fn past_deadline(&mut self) -> bool {
        let past = self.deadline().is_some_and(|deadline| deadline <= Instant::now());
        if past {
            let message = "Pod was active on the node longer than the specified deadline";
            self.failure = Some(Waiting::new("DeadlineExceeded", message));
            self.context.recorder.normal(self.pod.reference(), "DeadlineExceeded", message);
        }
        past
    }

    /// Whether the container runs already, but its postStart hook does not let it count yet.
    fn is_starting(&self, name: &str) -> bool {
        let lifecycle = self.pod.container(name).and_then(|(_, container)| container.lifecycle.as_ref());
        self.busy.contains_key(name) && lifecycle.is_some_and(|lifecycle| lifecycle.post_start.is_some())
    }

    /// A container whose definition changed need not wait out what its last definition brought about.
    fn release_changed(&mut self, new: &Pod) {
        let old = self.pod.clone();
        let hash = |pod: &Pod, name: &str| pod.container(name).map(|(_, container)| container_hash(container));
        self.holds.retain(|name, _| name.is_empty() || hash(&old, name) == hash(new, name));
    }

    fn refresh_volumes(&mut self) {
        let due = self.refreshed.elapsed() >= REFRESH_EVERY;
        if self.refreshing.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        if !due || self.stage != Stage::Alive || !volumes::needs_refresh(&self.pod) {
            return;
        }
        self.refreshed = Instant::now();
        let (context, pod) = (self.context.clone(), self.pod.clone());
        let ips = self.view.sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default();
        self.refreshing = Some(tokio::spawn(async move {
            let facts = context.facts(&pod, &ips);
            if let Err(error) = volumes::refresh(&context, &pod, &facts).await {
                tracing::warn!(pod = %pod.key(), %error, "could not refresh volumes");
            }
        }));
    }

    /// Computes the status and hands it over.
    fn publish(&mut self) {
        if !self.historic {
            let starting = self.busy.keys().filter(|name| self.is_starting(name)).cloned().collect();
            let status = status::compute(&Inputs {
                pod: &self.pod,
                view: &self.view,
                waiting: &self.waiting,
                ready: &self.ready,
                started: &self.started,
                starting: &starting,
                host_ips: &self.context.host_ips(),
                previous: &self.status,
                ended: self.halted,
                failure: self.failure.as_ref(),
                now: Timestamp::now(),
            });
            if *self.status != status {
                self.status = Arc::new(status);
            }
            if !self.gone {
                self.sender.set(self.status.clone());
            }
        }
        let snapshot = Snapshot { pod: self.pod.clone(), status: self.status.clone(), view: self.view.clone() };
        self.context.publish(self.pod.uid(), snapshot);
    }
}

impl Drop for Worker {
    /// A stopped node leaves its pods running: only the operations under way end.
    fn drop(&mut self) {
        self.busy.values().chain(self.stopping.values()).chain(&self.ending).for_each(AbortHandle::abort);
        self.refreshing.iter().for_each(JoinHandle::abort);
    }
}

/// Go's notation of whole seconds: `10s`, `1m20s`, `5m0s`.
fn humantime(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}
