//! What a request costs, in seats.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::RwLock;
use skep_api::request::{RequestInfo, Verb};

use super::level::Work;

/// Objects of a list that cost one seat.
const OBJECTS_A_SEAT: usize = 100;
/// Watches that cost a write one seat.
const WATCHES_A_SEAT: usize = 10;
/// The most seats of one request, whatever it does.
const MOST: usize = 10;
/// How long a write's events keep the server busy, for each seat.
const EVENT: Duration = Duration::from_millis(5);

/// How many watches there are of each resource, by group and plural name.
#[derive(Default)]
pub(crate) struct Watchers(RwLock<HashMap<(String, String), Arc<AtomicUsize>>>);

/// A watch that is counted while it lives.
pub(crate) struct Watching(Arc<AtomicUsize>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Watchers {
    /// Counts a watch. Only for resources that exist: the table never shrinks.
    pub(crate) fn enter(&self, group: &str, plural: &str) -> Watching {
        let mut table = self.0.write();
        let count = table.entry((group.to_owned(), plural.to_owned())).or_default();
        count.fetch_add(1, Ordering::Relaxed);
        Watching(Arc::clone(count))
    }

    fn of(&self, request: &RequestInfo) -> usize {
        let table = self.0.read();
        let plural = request.resource.as_deref().unwrap_or_default();
        // Some dozen entries of different lengths: looked through faster than a key is made for them.
        let found = table.iter().find(|((group, own), _)| own == plural && *group == request.group);
        found.map_or(0, |(_, count)| count.load(Ordering::Relaxed))
    }
}

/// What a request will occupy, at most `widest` seats. `stored` counts the objects of its resource.
pub(super) fn estimate(
    request: &RequestInfo,
    widest: usize,
    watchers: &Watchers,
    stored: impl FnOnce() -> usize,
) -> Work {
    let most = MOST.min(widest).max(1);
    match request.verb {
        Verb::List if request.name.is_none() => {
            let stored = stored();
            let limit = request.query.get("limit").and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0);
            let objects = limit.map_or(stored, |limit: usize| limit.min(stored));
            Work { seats: objects.div_ceil(OBJECTS_A_SEAT).clamp(1, most), after: None }
        }
        Verb::Create | Verb::Update | Verb::Patch | Verb::Delete => {
            let seats = (watchers.of(request) / WATCHES_A_SEAT).min(most);
            let time = EVENT * u32::try_from(seats).unwrap_or(u32::MAX);
            Work { seats: 1, after: (seats > 0).then_some((seats, time)) }
        }
        _ => Work::ONE,
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, Uri};

    use super::*;

    fn of(method: Method, uri: &'static str, watchers: &Watchers, stored: usize) -> Work {
        let request = RequestInfo::parse(&method, &Uri::from_static(uri)).unwrap();
        estimate(&request, 100, watchers, || stored)
    }

    #[test]
    fn long_lists_take_more_seats() {
        let none = Watchers::default();
        let seats = |uri, stored| of(Method::GET, uri, &none, stored).seats;
        assert_eq!(seats("/api/v1/pods", 0), 1);
        assert_eq!(seats("/api/v1/pods", 450), 5);
        assert_eq!(seats("/api/v1/pods", 1_000_000), 10);
        assert_eq!(seats("/api/v1/pods?limit=250", 1_000_000), 3);
        assert_eq!(seats("/api/v1/namespaces/a/pods/b", 1_000_000), 1);
    }

    #[test]
    fn writes_that_many_watch_keep_seats_for_a_while() {
        let watchers = Watchers::default();
        let held: Vec<_> = (0..35).map(|_| watchers.enter("", "pods")).collect();
        let write = || of(Method::POST, "/api/v1/namespaces/a/pods", &watchers, 0);
        assert_eq!(write().after, Some((3, Duration::from_millis(15))));
        assert_eq!(of(Method::POST, "/api/v1/namespaces/a/secrets", &watchers, 0), Work::ONE);
        drop(held);
        assert_eq!(write(), Work::ONE);
    }
}
