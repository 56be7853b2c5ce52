//! The indexed store behind an informer. No I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Delta, Object, TOMBSTONE_AGE};
use crate::meta::{self, ObjectKey};

/// The values under which an index files an object.
pub type IndexFn<K> = fn(&K) -> Vec<String>;

struct Index<K> {
    name: &'static str,
    extract: IndexFn<K>,
    entries: HashMap<String, BTreeSet<ObjectKey>>,
}

pub(super) struct Store<K: Object> {
    /// namespace -> name -> object
    objects: HashMap<String, BTreeMap<String, Arc<K>>>,
    indices: Vec<Index<K>>,
    /// uids seen deleted lately
    tombstones: HashSet<String>,
    tombstone_ages: VecDeque<(Instant, String)>,
    /// Some while a list is coming in
    incoming: Option<HashMap<ObjectKey, K>>,
    /// written by us while a list was coming in
    written_during_list: HashSet<ObjectKey>,
    listed: bool,
}

fn version(meta: &ObjectMeta) -> Option<u64> {
    meta.resource_version.as_deref()?.parse().ok()
}

/// True if `candidate` is not newer than `known`. Versions that are not numbers are taken as newer.
fn is_stale(known: &ObjectMeta, candidate: &ObjectMeta) -> bool {
    matches!((version(known), version(candidate)), (Some(known), Some(candidate)) if candidate <= known)
}

impl<K: Object> Store<K> {
    pub(super) fn new(indices: Vec<(&'static str, IndexFn<K>)>) -> Self {
        Self {
            objects: HashMap::new(),
            indices: indices
                .into_iter()
                .map(|(name, extract)| Index { name, extract, entries: HashMap::new() })
                .collect(),
            tombstones: HashSet::new(),
            tombstone_ages: VecDeque::new(),
            incoming: None,
            written_during_list: HashSet::new(),
            listed: false,
        }
    }

    pub(super) fn is_listed(&self) -> bool {
        self.listed
    }

    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.objects.get(namespace)?.get(name).cloned()
    }

    pub(super) fn list(&self) -> Vec<Arc<K>> {
        self.objects.values().flat_map(|names| names.values().cloned()).collect()
    }

    pub(super) fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.objects.get(namespace).map(|names| names.values().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn indexed(&self, index: &str, value: &str) -> Vec<Arc<K>> {
        let Some(index) = self.indices.iter().find(|i| i.name == index) else { return Vec::new() };
        index.entries.get(value).map(|keys| self.resolve(keys)).unwrap_or_default()
    }

    /// The objects under the value with the fewest entries; None without such an index or values.
    pub(super) fn smallest(&self, index: &str, values: &[String]) -> Option<Vec<Arc<K>>> {
        let index = self.indices.iter().find(|i| i.name == index)?;
        let value = values.iter().min_by_key(|v| index.entries.get(*v).map_or(0, BTreeSet::len))?;
        Some(index.entries.get(value).map(|keys| self.resolve(keys)).unwrap_or_default())
    }

    fn resolve(&self, keys: &BTreeSet<ObjectKey>) -> Vec<Arc<K>> {
        keys.iter().filter_map(|key| self.get(&key.namespace, &key.name)).collect()
    }

    pub(super) fn begin_list(&mut self) {
        self.incoming = Some(HashMap::new());
        self.written_during_list.clear();
    }

    pub(super) fn listed(&mut self, object: K) {
        let key = ObjectKey::of(object.meta());
        self.incoming.get_or_insert_default().insert(key, object);
    }

    /// Makes the list the store's content. Also returns what we wrote meanwhile and the list does not have.
    pub(super) fn end_list(&mut self) -> (Vec<Delta<K>>, Vec<ObjectKey>) {
        let incoming = self.incoming.take().unwrap_or_default();
        let written = std::mem::take(&mut self.written_during_list);
        let mut doubtful = Vec::new();
        let mut vanished = Vec::new();
        for object in self.objects.values().flat_map(BTreeMap::values) {
            let key = ObjectKey::of(object.meta());
            if incoming.contains_key(&key) {
                continue;
            }
            if written.contains(&key) { doubtful.push(key) } else { vanished.push(object.clone()) }
        }
        let mut deltas: Vec<_> = vanished.iter().filter_map(|object| self.remove(object.meta())).collect();
        for (key, object) in incoming {
            // What was deleted while the list came in is gone; what was written meanwhile is newer. All else in the list is
            // the truth even if its version is lower: etcd may have been restored from a backup.
            if !self.tombstones.contains(meta::uid(object.meta())) {
                deltas.extend(if written.contains(&key) { self.replace(object) } else { self.force(object) });
            }
        }
        self.listed = true;
        (deltas, doubtful)
    }

    /// A write of ours.
    pub(super) fn written(&mut self, object: K) -> Option<Delta<K>> {
        if self.tombstones.contains(meta::uid(object.meta())) {
            return None;
        }
        if self.incoming.is_some() {
            self.written_during_list.insert(ObjectKey::of(object.meta()));
        }
        self.replace(object)
    }

    /// A watch event. A recreated object has another uid, so a tombstoned uid is an event older than the deletion.
    pub(super) fn upsert(&mut self, object: K) -> Option<Delta<K>> {
        if self.tombstones.contains(meta::uid(object.meta())) {
            return None;
        }
        self.replace(object)
    }

    /// Takes the object if it is newer than what is known.
    fn replace(&mut self, object: K) -> Option<Delta<K>> {
        let known = self.get(meta::namespace(object.meta()), meta::name(object.meta()));
        if known.is_some_and(|known| is_stale(known.meta(), object.meta())) {
            return None;
        }
        self.force(object)
    }

    /// Takes the object unless it is the very version that is known.
    fn force(&mut self, object: K) -> Option<Delta<K>> {
        let key = ObjectKey::of(object.meta());
        let known = self.get(&key.namespace, &key.name);
        let same = |known: &Arc<K>| {
            known.meta().uid == object.meta().uid && known.meta().resource_version == object.meta().resource_version
        };
        if known.as_ref().is_some_and(same) {
            return None;
        }
        let new = Arc::new(object);
        if let Some(old) = &known {
            self.unindex(old, &key);
        }
        for index in &mut self.indices {
            for value in (index.extract)(&new) {
                index.entries.entry(value).or_default().insert(key.clone());
            }
        }
        self.objects.entry(key.namespace).or_default().insert(key.name, new.clone());
        Some(match known {
            Some(old) => Delta::Modified { old, new },
            None => Delta::Added(new),
        })
    }

    pub(super) fn remove(&mut self, meta: &ObjectMeta) -> Option<Delta<K>> {
        self.bury(meta::uid(meta));
        let key = ObjectKey::of(meta);
        let known = self.get(&key.namespace, &key.name)?;
        if known.meta().uid != meta.uid {
            return None;
        }
        self.unindex(&known, &key);
        if let Some(names) = self.objects.get_mut(&key.namespace) {
            names.remove(&key.name);
            if names.is_empty() {
                self.objects.remove(&key.namespace);
            }
        }
        Some(Delta::Deleted(known))
    }

    fn unindex(&mut self, object: &K, key: &ObjectKey) {
        for index in &mut self.indices {
            for value in (index.extract)(object) {
                if let Some(keys) = index.entries.get_mut(&value) {
                    keys.remove(key);
                    if keys.is_empty() {
                        index.entries.remove(&value);
                    }
                }
            }
        }
    }

    fn bury(&mut self, uid: &str) {
        let now = Instant::now();
        while self.tombstone_ages.front().is_some_and(|(at, _)| now.duration_since(*at) > TOMBSTONE_AGE) {
            if let Some((_, uid)) = self.tombstone_ages.pop_front() {
                self.tombstones.remove(&uid);
            }
        }
        if self.tombstones.insert(uid.to_owned()) {
            self.tombstone_ages.push_back((now, uid.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;

    fn pod(name: &str, uid: &str, version: u64) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.namespace = Some("ns".into());
        pod.metadata.name = Some(name.into());
        pod.metadata.uid = Some(uid.into());
        pod.metadata.resource_version = Some(version.to_string());
        pod.metadata.labels = Some([("app".to_owned(), name.to_owned())].into());
        pod
    }

    fn store() -> Store<Pod> {
        Store::new(vec![super::super::Informer::<Pod>::label_index()])
    }

    #[test]
    fn a_write_is_seen_at_once_and_older_watch_events_do_not_undo_it() {
        let mut store = store();
        assert!(matches!(store.written(pod("a", "1", 10)), Some(Delta::Added(_))));
        assert!(store.upsert(pod("a", "1", 9)).is_none());
        assert!(store.upsert(pod("a", "1", 10)).is_none());
        assert!(matches!(store.upsert(pod("a", "1", 11)), Some(Delta::Modified { .. })));
    }

    #[test]
    fn a_deleted_object_is_not_brought_back_by_a_late_answer() {
        let mut store = store();
        store.upsert(pod("a", "1", 10));
        assert!(store.remove(&pod("a", "1", 12).metadata).is_some());
        assert!(store.written(pod("a", "1", 11)).is_none());
        assert!(store.upsert(pod("a", "1", 11)).is_none());
        assert!(store.upsert(pod("a", "2", 13)).is_some(), "a new object of the same name is another object");
    }

    #[test]
    fn removing_an_older_incarnation_keeps_the_new_one() {
        let mut store = store();
        store.upsert(pod("a", "2", 13));
        assert!(store.remove(&pod("a", "1", 12).metadata).is_none());
        assert!(store.get("ns", "a").is_some());
    }

    #[test]
    fn a_relist_reports_vanished_objects_and_keeps_what_was_written_meanwhile() {
        let mut store = store();
        store.upsert(pod("gone", "1", 1));
        store.upsert(pod("stays", "2", 2));
        store.begin_list();
        store.listed(pod("stays", "2", 2));
        store.written(pod("mine", "3", 3));
        let (deltas, doubtful) = store.end_list();
        assert!(matches!(&deltas[..], [Delta::Deleted(p)] if p.metadata.name.as_deref() == Some("gone")));
        assert_eq!(doubtful, [ObjectKey::new("ns", "mine")]);
        assert_eq!(store.list().len(), 2);
    }

    #[test]
    fn a_relist_is_believed_even_if_versions_went_back() {
        let mut store = store();
        store.upsert(pod("a", "1", 100));
        store.begin_list();
        store.listed(pod("a", "1", 50));
        let (deltas, _) = store.end_list();
        assert!(matches!(&deltas[..], [Delta::Modified { .. }]));
    }

    #[test]
    fn what_was_deleted_while_a_list_came_in_stays_deleted() {
        let mut store = store();
        store.upsert(pod("a", "1", 1));
        store.begin_list();
        store.listed(pod("a", "1", 1));
        assert!(store.remove(&pod("a", "1", 2).metadata).is_some());
        assert!(store.end_list().0.is_empty());
        assert!(store.list().is_empty());
    }

    #[test]
    fn indices_follow_changes() {
        let mut store = store();
        store.upsert(pod("a", "1", 1));
        assert_eq!(store.indexed("label", "ns/app=a").len(), 1);
        let mut changed = pod("a", "1", 2);
        changed.metadata.labels = None;
        store.upsert(changed);
        assert!(store.indexed("label", "ns/app=a").is_empty());
    }
}
