//! What is compiled from stored objects, kept up with them.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::RwLock;
use skep_storage::{Object as Cached, Resource};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long a watch that broke waits before it begins again.
const RETRY: Duration = Duration::from_millis(100);

/// One compiled form for each object of a resource, in the order of their keys.
///
/// Whether there is any is one load of a flag; the list itself is one pointer. A task follows the cache's changes and compiles
/// what changed, so requests never do.
pub(super) struct Followed<T> {
    state: Arc<State<T>>,
    _stop: DropGuard,
}

struct State<T> {
    any: AtomicBool,
    all: RwLock<Arc<Vec<Arc<T>>>>,
}

type Known<T> = HashMap<Arc<str>, (i64, Arc<T>)>;

impl<T: Send + Sync + 'static> Followed<T> {
    /// Follows a resource; objects `compile` makes nothing of are left out.
    pub(super) fn new(resource: Resource, compile: fn(&Cached) -> Option<T>) -> Self {
        let state = Arc::new(State { any: AtomicBool::new(false), all: RwLock::default() });
        let stop = CancellationToken::new();
        let mut known = Known::new();
        // What is there now holds from the first request on.
        let (snapshot, watcher) = resource.snapshot_and_watch("");
        state.renew(&snapshot, &mut known, compile);
        let following = follow(resource, watcher, Arc::clone(&state), known, compile);
        let stopped = stop.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(following).await });
        Self { state, _stop: stop.drop_guard() }
    }

    /// Whether there is any.
    pub(super) fn any(&self) -> bool {
        self.state.any.load(Ordering::Relaxed)
    }

    /// All of them.
    pub(super) fn all(&self) -> Arc<Vec<Arc<T>>> {
        Arc::clone(&self.state.all.read())
    }
}

async fn follow<T: Send + Sync + 'static>(
    resource: Resource,
    mut watcher: skep_storage::Watcher,
    state: Arc<State<T>>,
    mut known: Known<T>,
    compile: fn(&Cached) -> Option<T>,
) {
    loop {
        let changed = watcher.next().await;
        if changed.is_err() {
            // Fell behind, or the cache was rebuilt.
            tokio::time::sleep(RETRY).await;
        }
        let (snapshot, next) = resource.snapshot_and_watch("");
        watcher = next;
        state.renew(&snapshot, &mut known, compile);
    }
}

impl<T> State<T> {
    fn renew(&self, snapshot: &skep_storage::Snapshot, known: &mut Known<T>, compile: fn(&Cached) -> Option<T>) {
        let mut next = Known::new();
        let mut all = Vec::with_capacity(snapshot.len());
        for cached in snapshot.iter() {
            let revision = cached.mod_revision();
            let compiled = match known.get(cached.key()) {
                Some((same, compiled)) if *same == revision => Some(Arc::clone(compiled)),
                _ => compile(cached).map(Arc::new),
            };
            if let Some(compiled) = compiled {
                next.insert(Arc::clone(cached.key()), (revision, Arc::clone(&compiled)));
                all.push(compiled);
            }
        }
        *known = next;
        self.any.store(!all.is_empty(), Ordering::Relaxed);
        *self.all.write() = Arc::new(all);
    }
}
