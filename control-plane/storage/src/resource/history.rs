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
    capacity: usize,
    bounds: (usize, usize),
    fresh: Duration,
}

impl History {
    pub(super) fn new(tuning: &Tuning) -> Self {
        let min = tuning.history_min.max(1);
        Self {
            ring: VecDeque::new(),
            first: 0,
            floor: 0,
            capacity: min,
            bounds: (min, tuning.history_max.max(min)),
            fresh: tuning.history_fresh,
        }
    }

    /// Forgets everything; watches can start at `floor`.
    pub(super) fn reset(&mut self, floor: i64) {
        self.first += self.ring.len() as u64;
        self.ring = VecDeque::new();
        self.capacity = self.bounds.0;
        self.floor = floor;
    }

    /// Appends. A full ring first grows, if its oldest event is fresh, or shrinks, if only its newest quarter is
    /// (as upstream does: history should cover about [`Tuning::history_fresh`]).
    pub(super) fn push(&mut self, event: Arc<Event>, now: Instant) {
        if self.ring.len() >= self.capacity {
            let (min, max) = self.bounds;
            let stale = |at: Option<&(Instant, _)>| at.is_some_and(|(time, _)| now.duration_since(*time) >= self.fresh);
            if self.capacity < max && !stale(self.ring.front()) {
                self.capacity = (self.capacity * 2).min(max);
            } else if self.capacity > min && stale(self.ring.get(self.ring.len() - self.ring.len() / 4)) {
                self.capacity = (self.capacity / 2).max(min);
            }
        }
        while self.ring.len() >= self.capacity {
            if let Some((_, dropped)) = self.ring.pop_front() {
                self.floor = dropped.revision;
                self.first += 1;
            }
        }
        if self.ring.capacity() > 4 * self.capacity {
            self.ring.shrink_to(self.capacity);
        }
        self.ring.push_back((now, event));
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
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

    fn history(min: usize, max: usize) -> History {
        History::new(&Tuning {
            history_min: min,
            history_max: max,
            history_fresh: Duration::from_secs(75),
            ..Tuning::default()
        })
    }

    fn event(revision: i64) -> Arc<Event> {
        let fields = FieldExtractor::default();
        let object = Object::parse("/registry/a/b".into(), 12, br#"{"metadata":{}}"#, (revision, 1), &fields).unwrap();
        Arc::new(Event::new(EventKind::Added, Arc::new(object), None, revision))
    }

    fn revisions(h: &History, from: u64) -> Option<Vec<i64>> {
        h.from(from).map(|events| events.map(|e| e.revision).collect())
    }

    #[test]
    fn a_full_ring_drops_its_oldest_and_refuses_older_starts() {
        let mut h = history(3, 3);
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
    fn it_grows_under_load_and_shrinks_in_quiet() {
        let mut h = history(4, 16);
        let mut now = Instant::now();
        for revision in 0..40 {
            h.push(event(revision), now);
        }
        assert_eq!((h.capacity(), h.from(h.first).unwrap().count()), (16, 16));
        for revision in 40..80 {
            now += Duration::from_secs(60);
            h.push(event(revision), now);
        }
        assert_eq!((h.capacity(), h.from(h.first).unwrap().count()), (4, 4));
        assert_eq!(h.floor(), 75);
    }
}
