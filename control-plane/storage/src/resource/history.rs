//! The recent events of a resource, in a ring that watchers read by sequence number.

use crate::config::Tuning;
use crate::event::Event;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct History {
    ring: VecDeque<(Instant, Arc<Event>)>,
    /// Sequence number of the ring's first event.
    first: u64,
    /// Everything after this revision is in the ring.
    floor: i64,
    /// What its events weigh.
    weight: usize,
    bounds: Bounds,
}

/// How much history is kept: never more than the maxima; of events that are no longer fresh, no more than the minima.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    fresh: Duration,
    max_events: usize,
    max_bytes: usize,
    min_events: usize,
    min_bytes: usize,
}

impl History {
    pub(super) fn new(tuning: &Tuning) -> Self {
        let bounds = Bounds {
            fresh: tuning.history_fresh,
            max_events: tuning.history_max.max(1),
            max_bytes: tuning.history_max_bytes,
            min_events: tuning.history_min,
            min_bytes: tuning.history_min_bytes,
        };
        Self { ring: VecDeque::new(), first: 0, floor: 0, weight: 0, bounds }
    }

    /// Forgets everything; watches can start at `floor`.
    pub(super) fn reset(&mut self, floor: i64) {
        self.first += self.ring.len() as u64;
        self.ring = VecDeque::new();
        self.weight = 0;
        self.floor = floor;
    }

    /// Appends, and drops what has become too much.
    pub(super) fn push(&mut self, event: Arc<Event>, now: Instant) {
        self.weight += event.weight();
        self.ring.push_back((now, event));
        // The newest always stays, however heavy it is.
        while self.ring.len() > 1 && self.is_too_much(now) {
            self.pop();
        }
    }

    /// Drops events that are no longer fresh, unless they are few; they are returned, so that their memory can be freed
    /// when no lock is held.
    pub(super) fn trim(&mut self, now: Instant) -> Vec<Arc<Event>> {
        let mut dropped = Vec::new();
        while self.is_too_much(now) {
            dropped.extend(self.pop());
        }
        if self.ring.capacity() > 4 * self.ring.len() + 64 {
            self.ring.shrink_to_fit();
        }
        dropped
    }

    fn is_too_much(&self, now: Instant) -> bool {
        let (events, bounds) = (self.ring.len(), &self.bounds);
        if events > bounds.max_events || self.weight > bounds.max_bytes {
            return events > 0;
        }
        let much = events > bounds.min_events || self.weight > bounds.min_bytes;
        much && self.ring.front().is_some_and(|(time, _)| now.duration_since(*time) >= bounds.fresh)
    }

    fn pop(&mut self) -> Option<Arc<Event>> {
        let (_, event) = self.ring.pop_front()?;
        self.weight -= event.weight();
        self.floor = event.revision;
        self.first += 1;
        Some(event)
    }

    /// Events that fit before more room is made.
    pub(super) fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    pub(super) fn floor(&self) -> i64 {
        self.floor
    }

    /// The sequence number after the newest event.
    pub(super) fn end(&self) -> u64 {
        self.first + self.ring.len() as u64
    }

    /// The sequence number of the first event after `revision`; `None`: it is too old.
    pub(super) fn after(&self, revision: i64) -> Option<u64> {
        (revision >= self.floor)
            .then(|| self.first + self.ring.partition_point(|(_, event)| event.revision <= revision) as u64)
    }

    /// Events from a sequence number on; `None`: it has left the ring.
    pub(super) fn from(&self, sequence: u64) -> Option<impl Iterator<Item = &Arc<Event>>> {
        let skip = sequence.checked_sub(self.first)? as usize;
        Some(self.ring.range(skip.min(self.ring.len())..).map(|(_, event)| event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventKind;
    use crate::object::Object;
    use crate::schema::FieldExtractor;
    use prometheus_client::metrics::counter::Counter;

    /// Keeps three events at most, two that are no longer fresh.
    fn history(max_bytes: usize, min_bytes: usize) -> History {
        History::new(&Tuning {
            history_min: 2,
            history_max: 3,
            history_max_bytes: max_bytes,
            history_min_bytes: min_bytes,
            history_fresh: Duration::from_secs(75),
            ..Tuning::default()
        })
    }

    fn event(revision: i64) -> Arc<Event> {
        let fields = FieldExtractor::default();
        let object = Object::parse("/registry/a/b".into(), 12, br#"{"metadata":{}}"#, (revision, 1), &fields).unwrap();
        Arc::new(Event::new(EventKind::Added, Arc::new(object), None, revision, Counter::default()))
    }

    fn revisions(h: &History, from: u64) -> Option<Vec<i64>> {
        h.from(from).map(|events| events.map(|e| e.revision).collect())
    }

    #[test]
    fn a_full_ring_drops_its_oldest_and_refuses_older_starts() {
        let mut h = history(usize::MAX, usize::MAX);
        h.reset(10);
        let now = Instant::now();
        for revision in [11, 13, 15, 17] {
            h.push(event(revision), now);
        }
        assert_eq!(h.after(10), None);
        assert_eq!(h.after(11), Some(1));
        assert_eq!((h.after(14), h.after(99)), (Some(2), Some(4)));
        assert_eq!(revisions(&h, 0), None);
        assert_eq!(revisions(&h, 2), Some(vec![15, 17]));
        assert_eq!(revisions(&h, 4), Some(vec![]));
    }

    #[test]
    fn what_is_no_longer_fresh_goes_but_for_a_few() {
        let mut h = history(usize::MAX, usize::MAX);
        let start = Instant::now();
        for revision in 1..=3 {
            h.push(event(revision), start);
        }
        assert!(h.trim(start).is_empty());
        let later = start + Duration::from_secs(80);
        assert_eq!(h.trim(later).len(), 1);
        assert_eq!((h.floor(), revisions(&h, 1)), (1, Some(vec![2, 3])));
        h.push(event(4), later);
        assert_eq!(revisions(&h, h.first), Some(vec![3, 4]), "a push drops the stale one above the minimum");
    }

    #[test]
    fn its_bytes_are_bounded_and_the_newest_event_always_stays() {
        let weight = event(1).weight();
        let mut h = history(2 * weight, 0);
        let start = Instant::now();
        for revision in 1..=3 {
            h.push(event(revision), start);
        }
        assert_eq!((h.floor(), h.weight), (1, 2 * weight));
        let mut h = history(0, 0);
        h.push(event(7), start);
        assert_eq!(revisions(&h, 0), Some(vec![7]));
        h.trim(start);
        assert_eq!((h.floor(), h.weight, revisions(&h, 1)), (7, 0, Some(vec![])));
    }
}
