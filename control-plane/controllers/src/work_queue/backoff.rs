//! Exponential backoff per item.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// Doubles an item's delay with every failure: base, 2*base, 4*base .. max.
#[derive(Debug)]
pub struct ItemBackoff<T> {
    base: Duration,
    max: Duration,
    failures: HashMap<T, u32>,
}

impl<T> Default for ItemBackoff<T> {
    /// Upstream's default for controllers: 5 ms to 1000 s.
    fn default() -> Self {
        Self::new(Duration::from_millis(5), Duration::from_secs(1000))
    }
}

impl<T> ItemBackoff<T> {
    /// A backoff between two delays.
    pub fn new(base: Duration, max: Duration) -> Self {
        Self { base, max, failures: HashMap::new() }
    }

    /// The delay after so many earlier failures.
    fn delay(&self, failures: u32) -> Duration {
        let factor = 2f64.powi(i32::try_from(failures).unwrap_or(i32::MAX));
        Duration::try_from_secs_f64(self.base.as_secs_f64() * factor).map_or(self.max, |delay| delay.min(self.max))
    }
}

impl<T: Clone + Eq + Hash> ItemBackoff<T> {
    /// Counts a failure and says how long to wait.
    pub fn next(&mut self, item: &T) -> Duration {
        let failures = self.failures.entry(item.clone()).or_insert(0);
        let earlier = *failures;
        *failures = failures.saturating_add(1);
        self.delay(earlier)
    }

    /// Forgets an item's failures.
    pub fn forget(&mut self, item: &T) {
        self.failures.remove(item);
    }

    /// How often an item has failed.
    pub fn failures(&self, item: &T) -> u32 {
        self.failures.get(item).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_from_5_ms_up_to_1000_s() {
        let mut backoff = ItemBackoff::default();
        let delays: Vec<_> = (0..4).map(|_| backoff.next(&"a").as_millis()).collect();
        assert_eq!(delays, [5, 10, 20, 40]);
        for _ in 0..5000 {
            backoff.next(&"a");
        }
        assert_eq!(backoff.next(&"a"), Duration::from_secs(1000));
        backoff.forget(&"a");
        assert_eq!(backoff.next(&"a"), Duration::from_millis(5));
    }
}
