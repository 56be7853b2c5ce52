//! Pods waiting to be scheduled. Three places, as upstream has them: *active* (ordered by the QueueSort plugin), *backoff* (tried
//! not long ago) and *unschedulable* (until an event that a rejecting plugin has hopes in, or five minutes). Pure state: time is
//! handed in, and whoever calls [`Queue::pop`] moves along what has become due.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    framework::{ClusterEvent, Framework, QueueKey},
    pod_info::PodInfo,
};

const FLUSH_INTERVAL: Duration = Duration::from_secs(30);

/// How long pods wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Backoff after the first failed attempt; doubles with each further one.
    pub initial_backoff: Duration,
    /// The longest backoff.
    pub max_backoff: Duration,
    /// The longest stay among the unschedulable without any event.
    pub max_unschedulable: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(10),
            max_unschedulable: Duration::from_secs(5 * 60),
        }
    }
}

/// A pod and the history of its attempts.
#[derive(Clone, Debug)]
pub struct QueuedPod {
    /// The pod as last seen by the informer.
    pub info: Arc<PodInfo>,
    /// When the queue took it (again).
    pub queued: Instant,
    /// When it was first tried.
    pub first_attempt: Option<Instant>,
    /// How often it was tried.
    pub attempts: u32,
    /// Plugins that rejected it in the last attempt.
    pub rejected_by: BTreeSet<&'static str>,
    rejections: u32,
    errors: u32,
}

/// How an attempt ended badly.
#[derive(Clone, Debug)]
pub enum Failure {
    /// These plugins rejected the pod; it waits for an event that gives one of them hope.
    Rejected(BTreeSet<&'static str>),
    /// Something is broken; the pod is tried again after a backoff.
    Error,
}

/// Where pods wait, for `scheduler_pending_pods`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Ready to be tried.
    pub active: usize,
    /// Tried not long ago.
    pub backoff: usize,
    /// Waiting for an event.
    pub unschedulable: usize,
    /// Held back by a PreEnqueue plugin.
    pub gated: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active(QueueKey, u64),
    Backoff(Instant, u64),
    Unschedulable,
    Gated,
}

struct Entry {
    pod: QueuedPod,
    place: Place,
}

/// A pod being scheduled or bound.
struct InFlight {
    /// Events from this number on happened during its attempt.
    since: u64,
    /// What the informer said meanwhile.
    latest: Option<Arc<PodInfo>>,
    deleted: bool,
}

/// See the module's description.
pub struct Queue {
    framework: Arc<Framework>,
    timing: Timing,
    entries: HashMap<Arc<str>, Entry>,
    active: BTreeMap<(QueueKey, u64), Arc<str>>,
    backoff: BTreeMap<(Instant, u64), Arc<str>>,
    /// By themselves, so that an event costs nothing to the thousands that are merely waiting for their turn.
    unschedulable: HashSet<Arc<str>>,
    in_flight: HashMap<Arc<str>, InFlight>,
    /// Events that some pod in flight has yet to be judged by.
    events: VecDeque<ClusterEvent>,
    /// Number of the first event in `events`.
    first_event: u64,
    sequence: u64,
    next_flush: Option<Instant>,
}

impl Queue {
    /// An empty queue.
    pub fn new(framework: Arc<Framework>, timing: Timing) -> Self {
        Self {
            framework,
            timing,
            entries: HashMap::new(),
            active: BTreeMap::new(),
            backoff: BTreeMap::new(),
            unschedulable: HashSet::new(),
            in_flight: HashMap::new(),
            events: VecDeque::new(),
            first_event: 0,
            sequence: 0,
            next_flush: None,
        }
    }

    // === What informers tell ===

    /// An unassigned pod was seen, for the first time or changed.
    pub fn set(&mut self, info: Arc<PodInfo>, now: Instant) {
        if let Some(in_flight) = self.in_flight.get_mut(&info.uid) {
            let old = in_flight.latest.replace(info.clone());
            if let Some(old) = old {
                self.record(ClusterEvent::PodUpdate { old, new: info });
            }
            return;
        }
        match self.entries.remove(&info.uid) {
            None => {
                let pod = QueuedPod {
                    info,
                    queued: now,
                    first_attempt: None,
                    attempts: 0,
                    rejected_by: BTreeSet::new(),
                    rejections: 0,
                    errors: 0,
                };
                self.activate(pod);
            }
            Some(Entry { mut pod, place }) => {
                self.leave(&info.uid, place);
                let old = std::mem::replace(&mut pod.info, info.clone());
                match place {
                    // The key depends on the pod: enter anew, keeping the age.
                    Place::Active(..) => self.activate(pod),
                    Place::Backoff(..) => self.put(pod, place),
                    Place::Gated => {
                        pod.queued = now;
                        self.activate(pod);
                    }
                    Place::Unschedulable => {
                        let event = ClusterEvent::PodUpdate { old, new: info };
                        self.reconsider(pod, &event, now);
                    }
                }
            }
        }
    }

    /// The pod is gone, assigned, or another scheduler's now.
    pub fn delete(&mut self, uid: &str) {
        if let Some(in_flight) = self.in_flight.get_mut(uid) {
            in_flight.deleted = true;
        }
        if let Some(entry) = self.entries.remove(uid) {
            self.leave(uid, entry.place);
        }
    }

    /// Something happened in the cluster: moves the pods that it may help.
    pub fn on_event(&mut self, event: &ClusterEvent, now: Instant) {
        self.record(event.clone());
        self.retry_unschedulable(now, |queue, pod| {
            queue.framework.is_worth_requeuing(event, &pod.info, &pod.rejected_by)
        });
    }

    // === What the scheduling loop asks ===

    /// The next pod to try; it is in flight until [`Queue::done`] or [`Queue::failed`].
    ///
    /// When nothing else is to be done, a pod that was rejected need not sit out its backoff once an event has given hope
    /// (KEP-5142); one whose attempt met an error does.
    pub fn pop(&mut self, now: Instant) -> Option<QueuedPod> {
        self.flush(now);
        let uid = match self.active.pop_first() {
            Some((_, uid)) => uid,
            None => self.pop_hopeful()?,
        };
        let Entry { mut pod, .. } = self.entries.remove(&uid)?;
        pod.attempts = pod.attempts.saturating_add(1);
        pod.first_attempt.get_or_insert(now);
        pod.rejected_by.clear();
        let since = self.first_event + self.events.len() as u64;
        let latest = Some(pod.info.clone());
        self.in_flight.insert(uid, InFlight { since, latest, deleted: false });
        Some(pod)
    }

    /// Takes the pod whose backoff after a rejection ends first.
    fn pop_hopeful(&mut self) -> Option<Arc<str>> {
        // Without a plugin that rejected it nothing but time can help the pod.
        let rejected = |uid: &Arc<str>| {
            self.entries.get(uid).is_some_and(|Entry { pod, .. }| pod.errors == 0 && !pod.rejected_by.is_empty())
        };
        let key = self.backoff.iter().find(|(_, uid)| rejected(uid)).map(|(key, _)| *key)?;
        self.backoff.remove(&key)
    }

    /// When [`Queue::pop`] may have something that it has not now, should nothing else happen.
    pub fn next_due(&self) -> Option<Instant> {
        let backoff = self.backoff.first_key_value().map(|((at, _), _)| *at);
        let flush = self.next_flush.filter(|_| !self.unschedulable.is_empty());
        backoff.into_iter().chain(flush).min()
    }

    /// The attempt ended well, or the pod is no longer this scheduler's business.
    pub fn done(&mut self, uid: &str) {
        self.in_flight.remove(uid);
        self.forget_events();
    }

    /// The attempt ended badly: the pod waits, unless it went away meanwhile.
    pub fn failed(&mut self, mut pod: QueuedPod, failure: Failure, now: Instant) {
        let Some(in_flight) = self.in_flight.remove(&pod.info.uid) else { return };
        if in_flight.deleted || self.entries.contains_key(&pod.info.uid) {
            self.forget_events();
            return;
        }
        if let Some(latest) = in_flight.latest {
            pod.info = latest;
        }
        pod.queued = now;
        match failure {
            Failure::Error => {
                pod.errors = pod.errors.saturating_add(1);
                self.retry(pod, now);
            }
            Failure::Rejected(by) => {
                pod.errors = 0;
                pod.rejections = pod.rejections.saturating_add(1);
                pod.rejected_by = by;
                // What happened during the attempt may not have been in the snapshot the plugins saw.
                let skip = usize::try_from(in_flight.since.saturating_sub(self.first_event)).unwrap_or(usize::MAX);
                let mut missed = self.events.iter().skip(skip);
                let framework = &self.framework;
                let hopeful = missed.any(|event| framework.is_worth_requeuing(event, &pod.info, &pod.rejected_by));
                if hopeful || pod.rejected_by.is_empty() {
                    self.retry(pod, now);
                } else {
                    self.put(pod, Place::Unschedulable);
                }
            }
        }
        self.forget_events();
    }

    /// Whether the informer has said meanwhile that a pod in flight is gone or assigned.
    pub fn is_deleted(&self, uid: &str) -> bool {
        self.in_flight.get(uid).is_none_or(|in_flight| in_flight.deleted)
    }

    /// How many pods wait where.
    pub fn pending(&self) -> Pending {
        let (active, backoff, unschedulable) = (self.active.len(), self.backoff.len(), self.unschedulable.len());
        Pending { active, backoff, unschedulable, gated: self.entries.len() - active - backoff - unschedulable }
    }

    // === Moving pods ===

    fn flush(&mut self, now: Instant) {
        while let Some(first) = self.backoff.first_entry() {
            if first.key().0 > now {
                break;
            }
            let uid = first.remove();
            if let Some(entry) = self.entries.remove(&uid) {
                self.activate(entry.pod);
            }
        }
        if self.next_flush.is_none_or(|at| at <= now) {
            self.next_flush = Some(now + FLUSH_INTERVAL);
            let patience = self.timing.max_unschedulable;
            self.retry_unschedulable(now, |_, pod| pod.queued + patience <= now);
        }
    }

    fn retry_unschedulable(&mut self, now: Instant, which: impl Fn(&Self, &QueuedPod) -> bool) {
        let pods = self.unschedulable.iter().filter_map(|uid| self.entries.get(uid));
        let chosen: Vec<Arc<str>> =
            pods.filter(|entry| which(self, &entry.pod)).map(|entry| entry.pod.info.uid.clone()).collect();
        for uid in chosen {
            if let Some(entry) = self.entries.remove(&uid) {
                self.leave(&uid, entry.place);
                self.retry(entry.pod, now);
            }
        }
    }

    fn reconsider(&mut self, pod: QueuedPod, event: &ClusterEvent, now: Instant) {
        if self.framework.is_worth_requeuing(event, &pod.info, &pod.rejected_by) {
            self.retry(pod, now);
        } else {
            self.put(pod, Place::Unschedulable);
        }
    }

    /// Back to the active queue, after what is left of the backoff.
    fn retry(&mut self, pod: QueuedPod, now: Instant) {
        let due = pod.queued + self.backoff_of(&pod);
        if due > now {
            self.sequence += 1;
            self.put(pod, Place::Backoff(due, self.sequence));
        } else {
            self.activate(pod);
        }
    }

    fn activate(&mut self, mut pod: QueuedPod) {
        let status = self.framework.run_pre_enqueue(&pod.info);
        if !status.is_success() {
            pod.rejected_by = BTreeSet::from([status.plugin()]);
            self.put(pod, Place::Gated);
            return;
        }
        self.sequence += 1;
        let key = self.framework.queue_key(&pod.info, pod.queued);
        self.put(pod, Place::Active(key, self.sequence));
    }

    fn put(&mut self, pod: QueuedPod, place: Place) {
        let uid = pod.info.uid.clone();
        match place {
            Place::Active(key, sequence) => {
                self.active.insert((key, sequence), uid.clone());
            }
            Place::Backoff(due, sequence) => {
                self.backoff.insert((due, sequence), uid.clone());
            }
            Place::Unschedulable => {
                self.unschedulable.insert(uid.clone());
            }
            Place::Gated => {}
        }
        self.entries.insert(uid, Entry { pod, place });
    }

    fn leave(&mut self, uid: &str, place: Place) {
        match place {
            Place::Active(key, sequence) => {
                self.active.remove(&(key, sequence));
            }
            Place::Backoff(due, sequence) => {
                self.backoff.remove(&(due, sequence));
            }
            Place::Unschedulable => {
                self.unschedulable.remove(uid);
            }
            Place::Gated => {}
        }
    }

    fn backoff_of(&self, pod: &QueuedPod) -> Duration {
        let failures = if pod.errors > 0 { pod.errors } else { pod.rejections };
        if failures == 0 {
            return Duration::ZERO;
        }
        let doublings = (failures - 1).min(31);
        self.timing.initial_backoff.saturating_mul(1 << doublings).min(self.timing.max_backoff)
    }

    // === Events during attempts ===

    fn record(&mut self, event: ClusterEvent) {
        if !self.in_flight.is_empty() {
            self.events.push_back(event);
        }
    }

    fn forget_events(&mut self) {
        let oldest = self.in_flight.values().map(|in_flight| in_flight.since).min();
        let keep_from = oldest.unwrap_or(self.first_event + self.events.len() as u64);
        while self.first_event < keep_from && self.events.pop_front().is_some() {
            self.first_event += 1;
        }
    }
}
