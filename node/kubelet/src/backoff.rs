//! Growing pauses between attempts at the same thing, with upstream's rules (client-go's flowcontrol.Backoff).

use std::collections::HashMap;
use std::time::Duration;

/// Doubling pauses per key. Times are nanoseconds since the epoch, as the runtime tells when a container ended.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    entries: HashMap<String, Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    pause: Duration,
    updated: i64,
}

impl Backoff {
    /// 10 s doubling to 5 min: crash loops and image pulls.
    pub(crate) fn upstream() -> Self {
        Self::new(Duration::from_secs(10), Duration::from_secs(300))
    }

    /// `first` doubling to `longest`.
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, entries: HashMap::new() }
    }

    /// How long to wait still when the last attempt ended at `event`.
    pub(crate) fn remaining(&self, key: &str, event: i64, now: i64) -> Option<Duration> {
        let entry = self.entries.get(key)?;
        if self.expired(entry, event) {
            return None;
        }
        let since = Duration::from_nanos(u64::try_from(now.saturating_sub(event)).unwrap_or(0));
        entry.pause.checked_sub(since).filter(|left| !left.is_zero())
    }

    /// The pause that is in force for `key`.
    pub(crate) fn pause(&self, key: &str) -> Duration {
        self.entries.get(key).map_or(Duration::ZERO, |entry| entry.pause)
    }

    /// Notes an attempt that follows one that ended at `event`: the next pause is twice as long.
    pub(crate) fn next(&mut self, key: &str, event: i64, now: i64) {
        let pause = match self.entries.get(key) {
            Some(entry) if !self.expired(entry, event) => (entry.pause * 2).min(self.longest),
            _ => self.first,
        };
        self.entries.insert(key.to_owned(), Entry { pause, updated: now });
    }

    /// Forgets `key`: the attempt succeeded.
    pub(crate) fn reset(&mut self, key: &str) {
        self.entries.remove(key);
    }

    /// A thing that lasted twice the longest pause counts as healthy.
    fn expired(&self, entry: &Entry, event: i64) -> bool {
        let longest = i64::try_from(self.longest.as_nanos()).unwrap_or(i64::MAX);
        event.saturating_sub(entry.updated) > longest.saturating_mul(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn the_first_restart_is_immediate_and_pauses_double_to_five_minutes() {
        let mut backoff = Backoff::upstream();
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            pauses.push(backoff.remaining("c", now, now).map_or(0, |left| left.as_secs()));
            now += backoff.remaining("c", now, now).map_or(0, |left| left.as_nanos() as i64);
            backoff.next("c", now, now);
        }
        assert_eq!(pauses, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_good_minutes_reset_the_pause() {
        let mut backoff = Backoff::upstream();
        backoff.next("c", 0, 0);
        backoff.next("c", SECOND, SECOND);
        let ended = 602 * SECOND;
        assert_eq!(backoff.remaining("c", ended, ended), None);
        backoff.next("c", ended, ended);
        assert_eq!(backoff.pause("c"), Duration::from_secs(10));
    }
}
