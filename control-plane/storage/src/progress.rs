//! How far the cache has got.

use std::sync::atomic::{AtomicI64, Ordering};
use tokio::sync::watch;

/// Revision up to which every resource has been brought.
#[derive(Debug)]
pub(crate) struct Progress {
    applied: AtomicI64,
    changed: watch::Sender<i64>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { applied: AtomicI64::new(0), changed: watch::Sender::new(0) }
    }

    pub(crate) fn applied(&self) -> i64 {
        self.applied.load(Ordering::Acquire)
    }

    /// Everything up to `revision` has been applied. (It falls only when etcd was restored from a backup.)
    pub(crate) fn reach(&self, revision: i64) {
        self.applied.store(revision, Ordering::Release);
        self.changed.send_replace(revision);
    }

    /// Waits, without bound, until `revision` is applied.
    pub(crate) async fn reached(&self, revision: i64) {
        if self.applied() < revision {
            // The sender lives in self, so this cannot fail.
            let _ = self.changed.subscribe().wait_for(|at| *at >= revision).await;
        }
    }
}
