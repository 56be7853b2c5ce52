//! When something was carried last.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::Error;

/// The last time a connection carried something, shared by its two directions.
pub(crate) struct Activity {
    start: Instant,
    /// Milliseconds since `start`.
    last: AtomicU64,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), last: AtomicU64::new(0) }
    }

    /// Something was carried.
    pub(crate) fn touch(&self) {
        let elapsed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(elapsed, Ordering::Relaxed);
    }

    /// Waits until nothing has been carried for `limit`.
    pub(crate) async fn idle(&self, limit: Duration) -> Error {
        loop {
            let last = self.start + Duration::from_millis(self.last.load(Ordering::Relaxed));
            if last.elapsed() >= limit {
                return Error::Idle(limit);
            }
            sleep_until(last + limit).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_silence_counts_as_idle() {
        let activity = Activity::new();
        let limit = Duration::from_secs(3600);
        assert!(tokio::time::timeout(Duration::from_millis(10), activity.idle(limit)).await.is_err());
        activity.touch();
        assert!(matches!(activity.idle(Duration::from_millis(1)).await, Error::Idle(_)));
    }
}
