//! Linearizable revisions: one question to etcd serves every reader that was waiting when it was asked.

use crate::cache::etcd_revision;
use crate::error::{Error, Result};
use crate::etcd::Pool;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

type Waiter = oneshot::Sender<Result<i64>>;

/// Asks for etcd's revision. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ReadIndex {
    queue: mpsc::Sender<Waiter>,
}

impl ReadIndex {
    /// Starts the task that asks; it ends when the last clone is dropped.
    pub(crate) fn start(pool: Arc<Pool>) -> Self {
        let (queue, mut waiting) = mpsc::channel::<Waiter>(4096);
        tokio::spawn(async move {
            let mut round = Vec::new();
            // Who arrives while a question is out waits for the next: its answer might predate a write that he knows of.
            while waiting.recv_many(&mut round, usize::MAX).await > 0 {
                pool.metrics.read_rounds.inc();
                let answer = etcd_revision(&pool).await;
                for waiter in round.drain(..) {
                    let _ = waiter.send(answer.clone());
                }
            }
        });
        Self { queue }
    }

    /// A revision at least as new as every write that was finished before the call.
    pub(crate) async fn revision(&self) -> Result<i64> {
        let (waiter, answer) = oneshot::channel();
        self.queue.send(waiter).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }
}
