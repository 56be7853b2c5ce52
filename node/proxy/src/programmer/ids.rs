//! Numbers for services and backends.

use std::collections::HashSet;

/// Hands out numbers, never zero, as late as possible a second time: what remembers an old number must not mistake a new
/// owner for the old one.
#[derive(Debug)]
pub(super) struct Ids {
    next: u32,
    used: HashSet<u32>,
}

impl Ids {
    /// With these in use already; continues after `highest`.
    pub(super) fn new(used: HashSet<u32>, highest: u32) -> Self {
        Self { next: highest.wrapping_add(1), used }
    }

    pub(super) fn take(&mut self) -> u32 {
        // Ends: maps hold far fewer entries than there are numbers.
        loop {
            let id = self.next;
            self.next = self.next.wrapping_add(1);
            if id != 0 && self.used.insert(id) {
                return id;
            }
        }
    }

    pub(super) fn release(&mut self, id: u32) {
        self.used.remove(&id);
    }

    pub(super) fn len(&self) -> usize {
        self.used.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_not_reused_before_all_others_were_and_zero_never_appears() {
        let mut ids = Ids::new(HashSet::from([2]), u32::MAX - 1);
        assert_eq!([ids.take(), ids.take(), ids.take()], [u32::MAX, 1, 3]);
        ids.release(1);
        assert_eq!(ids.take(), 4);
        assert_eq!(ids.len(), 4);
    }
}
