//! One resource in the cache: state, snapshots, watches.

mod history;
mod watcher;

use crate::config::Tuning;
use crate::error::{Error, Result};
use crate::event::{Event, EventKind};
use crate::metrics::{Metrics, OfResource};
use crate::object::Object;
use crate::progress::Progress;
use crate::schema::{Conversion, FieldExtractor, ResourceSchema};
use crate::stored;
use history::History;
use imbl::OrdMap;
use parking_lot::RwLock;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Notify;

pub use watcher::Watcher;

pub(crate) type Map = OrdMap<Arc<str>, Arc<Object>>;

/// A resource of the cache. Cheap to clone; stays valid when the resource is loaded anew.
#[derive(Clone)]
pub struct Resource(pub(crate) Arc<Shared>);

/// What all handles, snapshots and watchers of a resource share.
pub(crate) struct Shared {
    prefix: Box<str>,
    state: RwLock<State>,
    /// Wakes watchers after the history has grown or was reset.
    wake: Notify,
    progress: Arc<Progress>,
    meters: Meters,
}

struct State {
    reader: Reader,
    map: Map,
    history: History,
    /// Revision of the last change to the map.
    changed: i64,
    /// Counts the times the history lost its continuity; watchers of an older generation have expired.
    generation: u64,
    life: Life,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Live,
    Removed,
    Closed,
}

/// How stored values of a resource are read. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    fields: FieldExtractor,
    conversions: Arc<[Conversion]>,
}

impl Reader {
    pub(crate) fn new(schema: &ResourceSchema) -> Self {
        Self { fields: schema.fields.clone(), conversions: schema.conversions.as_slice().into() }
    }

    /// Parses the value of `key`, last written and created at `revisions`.
    pub(crate) fn read(&self, key: &str, prefix: &str, value: &[u8], revisions: (i64, i64)) -> Result<Object> {
        let json = stored::json(value, &self.conversions)?;
        Object::parse(key.into(), prefix.len(), &json, revisions, &self.fields)
    }
}

struct Meters {
    received: Counter,
    dispatched: Counter,
    initializations: Counter,
    expired: Counter,
    encoded: Counter,
    capacity: Gauge,
    objects: Gauge,
}

/// A change on its way into the cache.
#[derive(Debug)]
pub(crate) enum Change {
    Put(Arc<Object>),
    /// Of a key, at a revision.
    Delete(Arc<str>, i64),
}

impl Shared {
    pub(crate) fn new(schema: &ResourceSchema, tuning: &Tuning, progress: Arc<Progress>, metrics: &Metrics) -> Self {
        let name = schema.prefix.trim_start_matches("/registry/").trim_end_matches('/').to_owned();
        let label = OfResource { resource: name };
        Self {
            prefix: schema.prefix.as_str().into(),
            state: RwLock::new(State {
                reader: Reader::new(schema),
                map: Map::new(),
                history: History::new(tuning),
                changed: 0,
                generation: 0,
                life: Life::Live,
            }),
            wake: Notify::new(),
            progress,
            meters: Meters {
                received: metrics.events_received.get_or_create_owned(&label),
                dispatched: metrics.events_dispatched.get_or_create_owned(&label),
                initializations: metrics.initializations.get_or_create_owned(&label),
                expired: metrics.expired_watchers.get_or_create_owned(&label),
                encoded: metrics.frames_encoded.get_or_create_owned(&label),
                capacity: metrics.capacity.get_or_create_owned(&label),
                objects: metrics.objects.get_or_create_owned(&label),
            },
        }
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn reader(&self) -> Reader {
        self.state.read().reader.clone()
    }

    /// The state as it is, to take unchanged objects over from.
    pub(crate) fn map(&self) -> Map {
        self.state.read().map.clone()
    }

    /// Replaces everything by a list at `revision`. History starts anew, so present watchers expire.
    pub(crate) fn load(&self, map: Map, reader: Reader, revision: i64) {
        let mut state = self.state.write();
        self.meters.objects.set(map.len() as i64);
        self.meters.initializations.inc();
        state.map = map;
        state.reader = reader;
        state.history.reset(revision);
        self.meters.capacity.set(state.history.capacity() as i64);
        state.changed = revision;
        state.generation += 1;
        state.life = Life::Live;
        drop(state);
        self.wake.notify_waiters();
    }

    /// Applies changes in the order of their revisions.
    pub(crate) fn apply(&self, changes: impl IntoIterator<Item = Change>) {
        let now = Instant::now();
        let mut state = self.state.write();
        for change in changes {
            self.meters.received.inc();
            let event = match change {
                Change::Put(object) => {
                    let revision = object.mod_revision();
                    let previous = state.map.insert(object.key().clone(), object.clone());
                    let kind = if previous.is_some() { EventKind::Modified } else { EventKind::Added };
                    Event::new(kind, object, previous, revision, self.meters.encoded.clone())
                }
                Change::Delete(key, revision) => {
                    let Some(previous) = state.map.remove(&key) else { continue };
                    let last = Arc::new(previous.deleted_at(revision));
                    Event::new(EventKind::Deleted, last, Some(previous), revision, self.meters.encoded.clone())
                }
            };
            state.changed = event.revision;
            state.history.push(Arc::new(event), now);
        }
        self.meters.objects.set(state.map.len() as i64);
        self.meters.capacity.set(state.history.capacity() as i64);
        drop(state);
        self.wake.notify_waiters();
    }

    /// Drops history that is no longer fresh.
    pub(crate) fn trim(&self, now: Instant) {
        let mut state = self.state.write();
        let dropped = state.history.trim(now);
        self.meters.capacity.set(state.history.capacity() as i64);
        drop(state);
        drop(dropped);
    }

    /// Ends all watchers and drops the objects.
    pub(crate) fn end(&self, closed: bool) {
        let mut state = self.state.write();
        state.life = if closed { Life::Closed } else { Life::Removed };
        state.map = Map::new();
        state.history.reset(i64::MAX);
        state.generation += 1;
        self.meters.objects.set(0);
        drop(state);
        self.wake.notify_waiters();
    }
}

impl State {
    /// Exact revision of the map, given that everything up to `progress` had been applied before the lock was taken.
    fn revision(&self, progress: i64) -> i64 {
        self.changed.max(progress)
    }

    fn expired(&self, requested: i64) -> Error {
        match self.life {
            Life::Closed => Error::Closed,
            Life::Removed | Life::Live => Error::Expired { requested, oldest: self.history.floor() },
        }
    }
}

impl Resource {
    /// What it was declared with.
    pub fn schema(&self) -> ResourceSchema {
        let reader = self.0.reader();
        let conversions = reader.conversions.to_vec();
        ResourceSchema { prefix: self.0.prefix.to_string(), fields: reader.fields, conversions }
    }

    /// The object at a full key, as fresh as the cache is.
    pub fn get(&self, key: &str) -> Option<Arc<Object>> {
        self.0.state.read().map.get(key).cloned()
    }

    /// Revision of the last change to any object: as long as it stays, so does everything made of a snapshot.
    pub fn changed(&self) -> i64 {
        self.0.state.read().changed
    }

    /// All objects at one revision. O(1); writers go on meanwhile.
    pub fn snapshot(&self) -> Snapshot {
        let progress = self.0.progress.applied();
        let state = self.0.state.read();
        Snapshot { revision: state.revision(progress), map: state.map.clone(), beyond: 0 }
    }

    /// All objects as they were at an earlier revision, for exact-revision lists and the pages after the first.
    /// Undoes the history since, so it costs as much as there were changes; nothing is kept for it.
    ///
    /// `Expired` when the history does not reach back that far, `TooLargeRevision` when the cache is not there yet.
    pub fn snapshot_at(&self, revision: i64) -> Result<Snapshot> {
        let progress = self.0.progress.applied();
        let state = self.0.state.read();
        let current = state.revision(progress);
        if revision > current {
            return Err(Error::TooLargeRevision { requested: revision, current });
        }
        let since = state.history.after(revision).and_then(|since| Some(state.history.from(since)?.cloned().collect()));
        let Some(events): Option<Vec<_>> = since else { return Err(state.expired(revision)) };
        let mut map = state.map.clone();
        drop(state);
        for event in events.iter().rev() {
            let key = event.object.key();
            match &event.previous {
                Some(previous) => map.insert(key.clone(), previous.clone()),
                None => map.remove(key),
            };
        }
        Ok(Snapshot { revision, map, beyond: 0 })
    }

    /// Follows changes *after* `from_revision` of keys that start with `scope`
    /// (the resource's prefix, a namespace's with its slash, or a whole key).
    ///
    /// `Expired` when the history does not reach back that far.
    /// A revision the cache has not reached yet is fine: what comes before it is left out.
    pub fn watch(&self, scope: &str, from_revision: i64) -> Result<Watcher> {
        let state = self.0.state.read();
        let Some(cursor) = state.history.after(from_revision) else {
            return Err(state.expired(from_revision));
        };
        Ok(Watcher::new(self.0.clone(), scope, cursor, state.generation, from_revision))
    }

    /// A snapshot and a watch that goes on exactly where it ends.
    pub fn snapshot_and_watch(&self, scope: &str) -> (Snapshot, Watcher) {
        let progress = self.0.progress.applied();
        let state = self.0.state.read();
        let snapshot = Snapshot { revision: state.revision(progress), map: state.map.clone(), beyond: 0 };
        let cursor = state.history.end();
        let watcher = Watcher::new(self.0.clone(), scope, cursor, state.generation, snapshot.revision);
        (snapshot, watcher)
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Resource").field(&self.0.prefix).finish()
    }
}

/// The objects of a resource at one revision, or (from [`crate::Storage::past_page`]) the part of them a page needs.
#[derive(Clone, Debug)]
pub struct Snapshot {
    revision: i64,
    map: Map,
    /// Objects that were not loaded, behind those that were.
    beyond: usize,
}

impl Snapshot {
    /// The revision it is exact at: the resourceVersion of a list made from it.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    pub(crate) fn part(revision: i64, map: Map, beyond: usize) -> Self {
        Self { revision, map, beyond }
    }

    /// How many objects of the scope a page was loaded for lie behind those that were loaded. 0 for a whole snapshot.
    pub fn beyond(&self) -> usize {
        self.beyond
    }

    /// Objects of the whole resource.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// No objects at all?
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The object at a full key.
    pub fn get(&self, key: &str) -> Option<&Arc<Object>> {
        self.map.get(key)
    }

    /// All objects in key order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.map.values()
    }

    /// Objects whose key starts with `scope` and is not below `start` (a full key; `""`: from the beginning), in key order.
    pub fn range<'a>(&'a self, scope: &'a str, start: &str) -> impl Iterator<Item = &'a Arc<Object>> {
        let from = scope.max(start);
        self.map
            .range::<_, str>((Bound::Included(from), Bound::Unbounded))
            .map(|(_, object)| object)
            .take_while(move |object| object.key().starts_with(scope))
    }
}
