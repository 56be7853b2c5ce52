//! Events people read with `kubectl describe`: recorded without ever making the caller wait, aggregated as client-go does.
//!
//! The way of an event: bounded lane (full: dropped and counted) -> [`correlator`] (spam filter, aggregation of similar events,
//! counting of repeated ones) -> create, or patch of the count of the Event already there. All events about one object take the
//! same lane, so their order holds; different objects do not wait for each other.

mod correlator;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, ObjectReference};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};
use tracing::{debug, warn};

use correlator::{Correlator, Occurrence, Write};

const LANES: usize = 4;
/// Upstream's broadcaster holds 1000 events before it drops.
const LANE_CAPACITY: usize = 1000 / LANES;
const ATTEMPTS: u32 = 12;
const RETRY_PAUSE: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Who reports: `source.component` and `source.host` of the Event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Source {
    /// For example `default-scheduler`, `deployment-controller`, `kubelet`.
    pub component: String,
    /// Node name; empty for components that are not bound to a node.
    pub host: String,
}

/// Severity of an event; the API knows these two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// Information only.
    Normal,
    /// Something may be wrong.
    Warning,
}

impl Type {
    /// The value of the Event's `type` field.
    pub fn as_str(self) -> &'static str {
        match self {
            Type::Normal => "Normal",
            Type::Warning => "Warning",
        }
    }
}

/// Records core/v1 Events. Cheap to clone; the tasks behind it end when the last clone is dropped and all is written.
#[derive(Clone)]
pub struct Recorder {
    source: Arc<Source>,
    lanes: Arc<[mpsc::Sender<Occurrence>]>,
    dropped: Arc<AtomicU64>,
    /// How many events are in the lanes or being written.
    unwritten: Arc<watch::Sender<usize>>,
}

impl Recorder {
    /// Starts the tasks that write events; call it inside a tokio runtime. `host` is empty except for node components.
    pub fn new(client: Client, component: impl Into<String>, host: impl Into<String>) -> Self {
        let unwritten = Arc::new(watch::Sender::new(0));
        let lanes = (0..LANES)
            .map(|_| {
                let (sender, receiver) = mpsc::channel(LANE_CAPACITY);
                tokio::spawn(write_all(client.clone(), receiver, unwritten.clone()));
                sender
            })
            .collect();
        let source = Arc::new(Source { component: component.into(), host: host.into() });
        Self { source, lanes, dropped: Arc::default(), unwritten }
    }

    /// The same lanes, for another component of the same process.
    pub fn with_component(&self, component: impl Into<String>) -> Self {
        let source = Source { component: component.into(), host: self.source.host.clone() };
        Self { source: Arc::new(source), ..self.clone() }
    }

    /// Records an event of type Normal about `object` (see [`kube::Resource::object_ref`]).
    pub fn normal(&self, object: ObjectReference, reason: impl Into<String>, message: impl Into<String>) {
        self.event(object, Type::Normal, reason, message);
    }

    /// Records an event of type Warning about `object`.
    pub fn warning(&self, object: ObjectReference, reason: impl Into<String>, message: impl Into<String>) {
        self.event(object, Type::Warning, reason, message);
    }

    /// Records an event. Never waits: when the API server is too slow for the rate of events, new ones are dropped and counted.
    pub fn event(&self, object: ObjectReference, kind: Type, reason: impl Into<String>, message: impl Into<String>) {
        let lane = lane_of(&object);
        let occurrence = Occurrence {
            source: self.source.clone(),
            object,
            kind,
            reason: reason.into(),
            message: message.into(),
            time: Timestamp::now(),
        };
        self.unwritten.send_modify(|unwritten| *unwritten += 1);
        if self.lanes[lane].try_send(occurrence).is_err() {
            self.unwritten.send_modify(|unwritten| *unwritten -= 1);
            let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
            // One line for the first and then for every hundredth: a flood of events must not become a flood of logs.
            if dropped % 100 == 1 {
                warn!(dropped, "events are recorded faster than the API server takes them, dropping");
            }
        }
    }

    /// Waits until all that was recorded is written or given up, for as long as `patience` allows. A component that ends asks
    /// for this, so that its last words neither get lost nor reach an API server that is about to end too.
    pub async fn flush(&self, patience: Duration) {
        let mut unwritten = self.unwritten.subscribe();
        // The sender is this recorder's own, and time being up is no matter: events are told at best effort.
        let _ = timeout(patience, unwritten.wait_for(|unwritten| *unwritten == 0)).await;
    }

    /// Events dropped since the start because the lanes were full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

fn lane_of(object: &ObjectReference) -> usize {
    let mut hasher = DefaultHasher::new();
    (&object.uid, &object.namespace, &object.name).hash(&mut hasher);
    usize::try_from(hasher.finish() % LANES as u64).unwrap_or_default()
}

// === Writer ===

async fn write_all(client: Client, mut lane: mpsc::Receiver<Occurrence>, unwritten: Arc<watch::Sender<usize>>) {
    let mut correlator = Correlator::default();
    while let Some(occurrence) = lane.recv().await {
        if let Some((key, write)) = correlator.correlate(occurrence, Instant::now()) {
            match write_one(&client, write).await {
                Ok(event) => correlator.written(&key, &event),
                Err(error) => debug!(%error, "event not written"),
            }
        }
        unwritten.send_modify(|unwritten| *unwritten -= 1);
    }
}

async fn write_one(client: &Client, mut write: Write) -> Result<Event, kube::Error> {
    let mut attempt = 1;
    loop {
        let error = match timeout(REQUEST_TIMEOUT, send(client, &write)).await {
            Ok(Ok(event)) => return Ok(event),
            // The Event we counted up has expired meanwhile: start a new one.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 && write.patch.is_some() => {
                write.patch = None;
                continue;
            }
            // The server has answered and refused: asking again would change nothing.
            Ok(Err(error @ kube::Error::Api(_))) => return Err(error),
            Ok(Err(error)) if attempt >= ATTEMPTS => return Err(error),
            Ok(Err(error)) => Some(error),
            Err(_) => None,
        };
        debug!(attempt, ?error, "unable to write event, will retry");
        attempt += 1;
        if attempt > ATTEMPTS {
            // Only timeouts come here; the event is lost as upstream's is.
            return error.map_or_else(|| Ok(write.event), Err);
        }
        sleep(RETRY_PAUSE.mul_f64(rand::random_range(0.5..1.0))).await;
    }
}

async fn send(client: &Client, write: &Write) -> Result<Event, kube::Error> {
    let namespace = write.event.metadata.namespace.as_deref().unwrap_or("default");
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    match &write.patch {
        Some((name, patch)) => api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await,
        None => api.create(&PostParams::default(), &write.event).await,
    }
}
