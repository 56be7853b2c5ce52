//! The driver every controller runs on: a work queue, a pool of workers, and the retry rule.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::error::Error;
use crate::meta::ObjectKey;
use crate::work_queue::{Item, WorkQueue};

/// A shared queue of object keys.
pub type Queue = Arc<WorkQueue<ObjectKey>>;

/// One controller's way to bring one object to its desired state.
pub trait Reconciler: Send + Sync + 'static {
    /// What its queue holds.
    type Key: Item;

    /// The controller's name, as upstream names it.
    fn name(&self) -> &'static str;

    /// Brings the object behind `key` closer to what it should be. `Ok(Some(delay))` asks to be called again.
    fn reconcile(&self, key: &Self::Key) -> impl Future<Output = Result<Option<Duration>, Error>> + Send;
}

/// Runs `workers` workers over `queue` until `shutdown`; work in progress is finished.
pub async fn drive<R: Reconciler>(
    reconciler: Arc<R>,
    queue: Arc<WorkQueue<R::Key>>,
    workers: usize,
    shutdown: CancellationToken,
) {
    let mut pool = JoinSet::new();
    for _ in 0..workers.max(1) {
        pool.spawn(work(reconciler.clone(), queue.clone()));
    }
    shutdown.cancelled().await;
    queue.shut_down();
    while pool.join_next().await.is_some() {}
}

async fn work<R: Reconciler>(reconciler: Arc<R>, queue: Arc<WorkQueue<R::Key>>) {
    while let Some(key) = queue.get().await {
        // One object that trips a bug must not take the controller down for all the others.
        let result = std::panic::AssertUnwindSafe(reconciler.reconcile(&key)).catch_unwind().await;
        match result {
            Ok(Ok(None)) => queue.forget(&key),
            Ok(Ok(Some(delay))) => {
                queue.forget(&key);
                queue.add_after(key.clone(), delay);
            }
            Ok(Err(error)) => {
                debug!(controller = reconciler.name(), ?key, %error, "reconcile failed, will retry");
                queue.add_rate_limited(key.clone());
            }
            Err(_) => {
                error!(controller = reconciler.name(), ?key, "reconcile panicked, will retry");
                queue.add_rate_limited(key.clone());
            }
        }
        queue.done(&key);
    }
}
