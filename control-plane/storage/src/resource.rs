//! One resource in the cache: state, snapshots, watches.

use crate::error::Result;
use crate::event::Event;
use crate::object::Object;
use crate::schema::ResourceSchema;
use imbl::OrdMap;
use std::ops::Bound;
use std::sync::Arc;

/// A resource of the cache. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Resource {
    schema: Arc<ResourceSchema>,
}

impl Resource {
    /// What it was declared with.
    pub fn schema(&self) -> &ResourceSchema {
        &self.schema
    }
    /// The object at a full key, as fresh as the cache is.
    pub fn get(&self, _key: &str) -> Option<Arc<Object>> {
        unreachable!()
    }
    /// All objects at one revision. O(1); writers go on meanwhile.
    pub fn snapshot(&self) -> Snapshot {
        unreachable!()
    }
    /// Follows changes *after* `from_revision` of keys that start with `scope` (the resource's prefix, a namespace's, or a whole key).
    /// `Expired` when the history does not reach back that far. A revision the cache has not reached yet is fine.
    pub fn watch(&self, _scope: &str, _from_revision: i64) -> Result<Watcher> {
        unreachable!()
    }
    /// A snapshot and a watch that goes on exactly where it ends.
    pub fn snapshot_and_watch(&self, _scope: &str) -> (Snapshot, Watcher) {
        unreachable!()
    }
}

/// The objects of a resource at one revision.
#[derive(Clone, Debug)]
pub struct Snapshot {
    revision: i64,
    map: OrdMap<Arc<str>, Arc<Object>>,
}

impl Snapshot {
    /// The revision it is exact at: the resourceVersion of a list made from it.
    pub fn revision(&self) -> i64 {
        self.revision
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
            .map(|(_, o)| o)
            .take_while(move |o| o.key.starts_with(scope))
    }
}

/// A cursor in the history of a resource. Holds no buffer; one that falls behind the history gets `Expired`.
#[derive(Debug)]
pub struct Watcher {}

impl Watcher {
    /// The next change; waits for one. Cancel-safe. After an error it must be dropped.
    pub async fn next(&mut self) -> Result<Arc<Event>> {
        unreachable!()
    }
    /// As [`Watcher::next`], but appends up to `max` changes that are there at once. Cancel-safe.
    pub async fn next_batch(&mut self, _out: &mut Vec<Arc<Event>>, _max: usize) -> Result<()> {
        unreachable!()
    }
    /// Progress for a bookmark: every change up to this revision was handed out by this watcher.
    pub fn bookmark(&mut self) -> i64 {
        unreachable!()
    }
}
