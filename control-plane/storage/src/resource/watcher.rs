//! Watches: cursors in the history that all watchers of a resource share.

use super::Shared;
use crate::error::Result;
use crate::event::Event;
use std::fmt;
use std::sync::Arc;

/// Events looked at while the state is locked once; keeps a watcher with much to skip from holding up the writer.
const SCAN: usize = 512;

/// A cursor in the history of a resource. Holds no buffer; one that falls behind the history gets `Expired`.
pub struct Watcher {
    shared: Arc<Shared>,
    scope: Box<str>,
    cursor: u64,
    generation: u64,
    /// Changes up to this revision were asked to be left out, or have been handed out.
    done: i64,
    from: i64,
}

impl Watcher {
    pub(super) fn new(shared: Arc<Shared>, scope: &str, cursor: u64, generation: u64, from: i64) -> Self {
        Self { shared, scope: scope.into(), cursor, generation, done: from, from }
    }

    /// The next change; waits for one. Cancel-safe. After an error it must be dropped.
    pub async fn next(&mut self) -> Result<Arc<Event>> {
        let mut one = None;
        self.wait(&mut |event| one = Some(event), 1).await?;
        match one {
            Some(event) => Ok(event),
            // `wait` returns only after it has handed out an event.
            None => Err(crate::Error::Closed),
        }
    }

    /// As [`Watcher::next`], but appends up to `max` changes that are there at once. Cancel-safe.
    pub async fn next_batch(&mut self, out: &mut Vec<Arc<Event>>, max: usize) -> Result<()> {
        self.wait(&mut |event| out.push(event), max.max(1)).await
    }

    /// Progress for a bookmark: every change up to this revision was handed out by this watcher.
    pub fn bookmark(&mut self) -> i64 {
        let shared = self.shared.clone();
        let progress = shared.progress.applied();
        let state = shared.state.read();
        if self.generation != state.generation {
            return self.done;
        }
        let Some(mut pending) = state.history.from(self.cursor) else { return self.done };
        let reached = match pending.next() {
            Some(event) => event.revision - 1,
            None => state.revision(progress),
        };
        self.done = self.done.max(reached);
        self.done
    }

    async fn wait(&mut self, out: &mut (dyn FnMut(Arc<Event>) + Send), max: usize) -> Result<()> {
        let shared = self.shared.clone();
        loop {
            let woken = shared.wake.notified();
            tokio::pin!(woken);
            // Enlisted before the look at the history, so that nothing can slip in between.
            woken.as_mut().enable();
            loop {
                let (taken, looked_at) = self.take(out, max)?;
                if taken > 0 {
                    self.shared.meters.dispatched.inc_by(taken as u64);
                    return Ok(());
                }
                if looked_at < SCAN {
                    break;
                }
            }
            woken.await;
        }
    }

    /// Hands out what is there; how many events that were, and how many were looked at.
    fn take(&mut self, out: &mut (dyn FnMut(Arc<Event>) + Send), max: usize) -> Result<(usize, usize)> {
        let state = self.shared.state.read();
        let events = (self.generation == state.generation).then(|| state.history.from(self.cursor)).flatten();
        let Some(events) = events else {
            self.shared.meters.expired.inc();
            return Err(state.expired(self.done));
        };
        let (mut taken, mut looked_at) = (0, 0);
        for event in events.take(SCAN) {
            looked_at += 1;
            self.cursor += 1;
            if event.revision > self.from && event.object.key().starts_with(&*self.scope) {
                out(event.clone());
                taken += 1;
                if taken == max {
                    break;
                }
            }
        }
        Ok((taken, looked_at))
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").field("scope", &self.scope).field("done", &self.done).finish_non_exhaustive()
    }
}
