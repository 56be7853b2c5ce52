//! Stored objects as versions show them: made once for each state of an object and each version, within bounds.
//!
//! What is kept is found by the resource version, and told by the stored bytes themselves: a dry run makes other bytes of
//! the same resource version. What a version shows goes when the version does, so it depends on nothing else.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use skep_api::status::StatusError;
use tokio::sync::watch;

use crate::scan;

/// What an entry costs beside its bytes, about.
const OVERHEAD: usize = 160;

/// Which version shows which state: the version's number and the resource version (0 for what has none).
type Key = (u64, u64);

struct Entry {
    stored: Bytes,
    shown: Bytes,
}

impl Entry {
    fn weight(&self) -> usize {
        self.stored.len() + self.shown.len() + OVERHEAD
    }

    fn is_of(&self, stored: &Bytes) -> bool {
        (self.stored.as_ptr(), self.stored.len()) == (stored.as_ptr(), stored.len()) || self.stored == *stored
    }
}

/// What is shown, for all custom resources of a server.
pub(super) struct Shown {
    /// Bytes that are kept at most.
    room: usize,
    next: AtomicU64,
    kept: Mutex<Kept>,
}

struct Kept {
    objects: LruCache<Key, Entry>,
    bytes: usize,
    /// What is being made now. Gives the error if that fails.
    pending: HashMap<Key, watch::Receiver<Option<StatusError>>>,
}

impl Kept {
    fn get(&mut self, key: Key, stored: &Bytes) -> Option<Bytes> {
        self.objects.get(&key).filter(|entry| entry.is_of(stored)).map(|entry| entry.shown.clone())
    }
}

/// What is known of an object that somebody wants to see.
pub(super) enum Found {
    Ready(Bytes),
    /// Someone else is making it.
    Pending(watch::Receiver<Option<StatusError>>),
    /// It is up to the caller to make it.
    Claimed,
}

impl Shown {
    pub(super) fn new(room: usize) -> Self {
        let kept = Kept { objects: LruCache::unbounded(), bytes: 0, pending: HashMap::new() };
        Self { room, next: AtomicU64::new(0), kept: Mutex::new(kept) }
    }

    /// A number for a version.
    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// What a version shows of a stored object, if it is known.
    pub(super) fn get(&self, version: u64, stored: &Bytes) -> Option<Bytes> {
        self.kept.lock().get((version, revision_of(stored)), stored)
    }

    /// Keeps what a version shows; what was not looked at for the longest time makes room.
    pub(super) fn put(&self, version: u64, stored: &Bytes, shown: &Bytes) {
        let entry = Entry { stored: stored.clone(), shown: shown.clone() };
        let mut kept = self.kept.lock();
        kept.bytes += entry.weight();
        if let Some(old) = kept.objects.put((version, revision_of(stored)), entry) {
            kept.bytes -= old.weight();
        }
        while kept.bytes > self.room {
            let Some((_, old)) = kept.objects.pop_lru() else { return };
            kept.bytes -= old.weight();
        }
    }

    /// Forgets all that a version shows.
    pub(super) fn forget(&self, version: u64) {
        let mut kept = self.kept.lock();
        let gone: Vec<Key> = kept.objects.iter().map(|(key, _)| *key).filter(|key| key.0 == version).collect();
        for key in gone {
            if let Some(old) = kept.objects.pop(&key) {
                kept.bytes -= old.weight();
            }
        }
    }

    /// Looks for these objects. Those nobody has or makes are the caller's to make, until the claim is dropped.
    pub(super) fn look<'a>(&self, version: u64, objects: impl Iterator<Item = &'a Bytes>) -> (Vec<Found>, Claim<'_>) {
        let (sender, receiver) = watch::channel(None);
        let mut claim = Claim { shown: self, keys: Vec::new(), sender };
        let mut kept = self.kept.lock();
        let found = objects
            .map(|stored| {
                let key = (version, revision_of(stored));
                if let Some(shown) = kept.get(key, stored) {
                    return Found::Ready(shown);
                }
                if let Some(pending) = kept.pending.get(&key) {
                    return Found::Pending(pending.clone());
                }
                kept.pending.insert(key, receiver.clone());
                claim.keys.push(key);
                Found::Claimed
            })
            .collect();
        (found, claim)
    }
}

/// The right to make some objects. Others wait for them until it is dropped.
pub(super) struct Claim<'a> {
    shown: &'a Shown,
    keys: Vec<Key>,
    sender: watch::Sender<Option<StatusError>>,
}

impl Claim<'_> {
    /// Tells who waits that this went wrong.
    pub(super) fn fail(self, error: &StatusError) {
        self.sender.send_replace(Some(error.clone()));
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut kept = self.shown.kept.lock();
        for key in &self.keys {
            kept.pending.remove(key);
        }
    }
}

/// The resource version of a stored object; 0 for what has none.
fn revision_of(stored: &[u8]) -> u64 {
    let found = scan::member(stored, "metadata").and_then(|meta| scan::member(meta, "resourceVersion"));
    let text = found.and_then(|raw| std::str::from_utf8(raw).ok());
    text.and_then(|text| text.trim_matches('"').parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(revision: u64, rest: &str) -> Bytes {
        format!(r#"{{"metadata":{{"resourceVersion":"{revision:0>3}"}},"rest":"{rest}"}}"#).into()
    }

    #[test]
    fn what_is_kept_is_bounded_and_goes_with_its_version() {
        let object = Bytes::from(vec![b'x'; 1000]);
        let shown = Shown::new(4 * (stored(1, "").len() + 1000 + OVERHEAD));
        let (first, second) = (shown.number(), shown.number());
        for revision in 1..=100 {
            shown.put(first, &stored(revision, ""), &object);
            shown.put(second, &stored(revision, ""), &object);
        }
        let kept = |version| (1..=100).filter(|revision| shown.get(version, &stored(*revision, "")).is_some()).count();
        assert_eq!((kept(first), kept(second)), (2, 2));
        shown.put(first, &stored(100, ""), &object);
        assert_eq!(kept(first) + kept(second), 4, "what is put again is not counted again");
        shown.forget(first);
        assert_eq!((kept(first), kept(second)), (0, 2));
        shown.put(first, &stored(1, ""), &Bytes::from(vec![0; 100_000]));
        assert_eq!((kept(first), shown.kept.lock().bytes), (0, 0), "what is too large is not kept");
    }

    #[test]
    fn other_bytes_of_the_same_resource_version_are_something_else() {
        let shown = Shown::new(1 << 20);
        shown.put(0, &stored(1, "real"), &Bytes::from_static(b"{}"));
        assert!(shown.get(0, &stored(1, "real")).is_some());
        assert_eq!(shown.get(0, &stored(1, "dry run")), None);
        assert_eq!(shown.get(1, &stored(1, "real")), None);
    }

    #[tokio::test]
    async fn who_comes_second_waits_for_who_came_first() {
        let shown = Shown::new(1 << 20);
        let [one, two, three] = [1, 2, 3].map(|revision| stored(revision, ""));
        let (found, claim) = shown.look(0, [&one, &two].into_iter());
        assert!(found.iter().all(|found| matches!(found, Found::Claimed)));
        let (found, own) = shown.look(0, [&two, &three].into_iter());
        let [Found::Pending(pending), Found::Claimed] = &found[..] else { panic!("one is pending, one is not") };
        let mut pending = pending.clone();
        drop(own);
        shown.put(0, &two, &Bytes::from_static(b"{}"));
        drop(claim);
        assert!(pending.wait_for(Option::is_some).await.is_err(), "it is done, or given up");
        let (found, claim) = shown.look(0, [&two, &three].into_iter());
        assert!(matches!(&found[..], [Found::Ready(_), Found::Claimed]), "what was given up is free again");
        let (found, _) = shown.look(0, [&three].into_iter());
        let Found::Pending(pending) = &found[0] else { panic!("it is pending") };
        let mut pending = pending.clone();
        claim.fail(&StatusError::internal_error("no"));
        assert!(pending.wait_for(Option::is_some).await.is_ok(), "who waits learns why it failed");
    }

    #[test]
    fn a_state_is_told_by_its_resource_version() {
        assert_eq!(revision_of(br#"{"metadata":{"name":"a","resourceVersion":"42"},"spec":{}}"#), 42);
        assert_eq!(revision_of(br#"{"metadata":{}}"#), 0);
        assert_eq!(revision_of(b"{}"), 0);
    }
}
