//! How many requests may be under way at once.

use std::sync::Arc;

use skep_api::status::StatusError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Upstream's `--max-requests-inflight`.
pub const MAX_READS: usize = 400;
/// Upstream's `--max-mutating-requests-inflight`.
pub const MAX_WRITES: usize = 200;

/// Counts requests that are under way; watches and logs are not counted.
#[derive(Debug)]
pub(crate) struct Limits {
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    max_reads: usize,
    max_writes: usize,
}

/// Room for one request; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit(#[expect(dead_code, reason = "its drop gives the room back")] OwnedSemaphorePermit);

impl Limits {
    pub(crate) fn new(max_reads: usize, max_writes: usize) -> Self {
        let semaphore = |room: usize| Arc::new(Semaphore::new(room.min(Semaphore::MAX_PERMITS)));
        Self { reads: semaphore(max_reads), writes: semaphore(max_writes), max_reads, max_writes }
    }

    /// Room for one request, or 429.
    pub(crate) fn enter(&self, read_only: bool) -> Result<Permit, StatusError> {
        let semaphore = if read_only { &self.reads } else { &self.writes };
        Arc::clone(semaphore)
            .try_acquire_owned()
            .map(Permit)
            .map_err(|_| StatusError::too_many_requests("Too many requests, please try again later.", 1))
    }

    /// Reads and writes under way.
    pub(crate) fn in_flight(&self) -> (usize, usize) {
        (
            self.max_reads.saturating_sub(self.reads.available_permits()),
            self.max_writes.saturating_sub(self.writes.available_permits()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_house_answers_429_and_room_comes_back() {
        let limits = Limits::new(1, 1);
        let held = limits.enter(true).unwrap();
        let refused = limits.enter(true).unwrap_err();
        assert_eq!((refused.code().as_u16(), refused.retry_after_seconds()), (429, Some(1)));
        assert!(limits.enter(false).is_ok(), "writes are counted apart");
        assert_eq!(limits.in_flight(), (1, 0));
        drop(held);
        assert!(limits.enter(true).is_ok());
    }
}
