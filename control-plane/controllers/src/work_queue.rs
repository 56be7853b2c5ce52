//! A rate-limited work queue with client-go's semantics: an item waits at most once, is never given to two workers at
//! the same time, and comes back after it was added again while being worked on.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metrics::QueueMetrics;

mod backoff;

pub use backoff::ItemBackoff;

/// What can be queued.
pub trait Item: Clone + Eq + Hash + Debug + Send + Sync + 'static {}
impl<T: Clone + Eq + Hash + Debug + Send + Sync + 'static> Item for T {}

/// The queue. Share it in an `Arc`.
pub struct WorkQueue<T: Item> {
    state: Mutex<State<T>>,
    wake: Notify,
    metrics: QueueMetrics,
}

struct State<T: Item> {
    /// Waiting to be handed out, in order; `dirty` has the same items and those added again while in work.
    ready: VecDeque<T>,
    dirty: HashMap<T, Instant>,
    in_work: HashMap<T, Instant>,
    delayed: BinaryHeap<Reverse<(Instant, u64)>>,
    delayed_items: HashMap<u64, T>,
    delayed_until: HashMap<T, (Instant, u64)>,
    sequence: u64,
    backoff: ItemBackoff<T>,
    closed: bool,
}

impl<T: Item> WorkQueue<T> {
    /// An empty queue with upstream's default backoff (5 ms doubling to 1000 s per item).
    pub fn new(metrics: QueueMetrics) -> Self {
        Self::with_backoff(metrics, ItemBackoff::default())
    }

    /// An empty queue with its own backoff.
    pub fn with_backoff(metrics: QueueMetrics, backoff: ItemBackoff<T>) -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashMap::new(),
            in_work: HashMap::new(),
            delayed: BinaryHeap::new(),
            delayed_items: HashMap::new(),
            delayed_until: HashMap::new(),
            sequence: 0,
            backoff,
            closed: false,
        };
        Self { state: Mutex::new(state), wake: Notify::new(), metrics }
    }

    /// Adds an item, unless it waits already.
    pub fn add(&self, item: T) {
        let added = {
            let mut state = self.state.lock();
            self.push(&mut state, item)
        };
        if added {
            self.wake.notify_one();
        }
    }

    /// Adds an item after a delay. Of several delays of one item the shortest counts.
    pub fn add_after(&self, item: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(item);
        }
        {
            let mut state = self.state.lock();
            if state.closed {
                return;
            }
            let at = Instant::now() + delay;
            match state.delayed_until.get(&item) {
                Some((known, _)) if *known <= at => return,
                Some((_, sequence)) => {
                    let sequence = *sequence;
                    state.delayed_items.remove(&sequence);
                }
                None => {}
            }
            state.sequence += 1;
            let sequence = state.sequence;
            state.delayed.push(Reverse((at, sequence)));
            state.delayed_items.insert(sequence, item.clone());
            state.delayed_until.insert(item, (at, sequence));
        }
        self.wake.notify_one();
    }

    /// Adds an item after the delay its failures have earned it.
    pub fn add_rate_limited(&self, item: T) {
        let delay = self.state.lock().backoff.next(&item);
        self.metrics.retries.inc();
        self.add_after(item, delay);
    }

    /// Forgets an item's failures.
    pub fn forget(&self, item: &T) {
        self.state.lock().backoff.forget(item);
    }

    /// How often the item has failed since it was last forgotten.
    pub fn failures(&self, item: &T) -> u32 {
        self.state.lock().backoff.failures(item)
    }

    /// Items waiting to be handed out.
    pub fn len(&self) -> usize {
        self.state.lock().ready.len()
    }

    /// True if nothing waits to be handed out.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True if nothing waits and nothing is in work; delayed items do not count.
    pub fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.ready.is_empty() && state.in_work.is_empty()
    }

    /// The next item; pass it to [`WorkQueue::done`] afterwards. None once the queue is shut down.
    pub async fn get(&self) -> Option<T> {
        loop {
            let notified = self.wake.notified();
            tokio::pin!(notified);
            // Registered before looking, so that an addition in between is not missed.
            notified.as_mut().enable();
            let deadline = {
                let mut state = self.state.lock();
                if state.closed {
                    return None;
                }
                self.release_delayed(&mut state);
                if let Some(item) = state.ready.pop_front() {
                    let now = Instant::now();
                    if let Some(since) = state.dirty.remove(&item) {
                        self.metrics.queue_seconds.observe((now - since).as_secs_f64());
                    }
                    state.in_work.insert(item.clone(), now);
                    self.metrics.depth.set(i64::try_from(state.ready.len()).unwrap_or(i64::MAX));
                    if !state.ready.is_empty() || !state.delayed.is_empty() {
                        self.wake.notify_one();
                    }
                    return Some(item);
                }
                state.delayed.peek().map(|Reverse((at, _))| *at)
            };
            match deadline {
                Some(at) => tokio::select! {
                    () = notified => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => notified.await,
            }
        }
    }

    /// Ends the work on an item; if it was added meanwhile it is queued again.
    pub fn done(&self, item: &T) {
        let again = {
            let mut state = self.state.lock();
            if let Some(since) = state.in_work.remove(item) {
                self.metrics.work_seconds.observe(since.elapsed().as_secs_f64());
            }
            let again = state.dirty.contains_key(item);
            if again {
                state.ready.push_back(item.clone());
                self.metrics.depth.set(i64::try_from(state.ready.len()).unwrap_or(i64::MAX));
            }
            again
        };
        if again {
            self.wake.notify_one();
        }
    }

    /// Ends the queue: every waiting and future [`WorkQueue::get`] returns None.
    pub fn shut_down(&self) {
        self.state.lock().closed = true;
        self.wake.notify_waiters();
        self.wake.notify_one();
    }

    fn push(&self, state: &mut State<T>, item: T) -> bool {
        if state.closed || state.dirty.contains_key(&item) {
            return false;
        }
        self.metrics.adds.inc();
        state.dirty.insert(item.clone(), Instant::now());
        if state.in_work.contains_key(&item) {
            return false;
        }
        state.ready.push_back(item);
        self.metrics.depth.set(i64::try_from(state.ready.len()).unwrap_or(i64::MAX));
        true
    }

    fn release_delayed(&self, state: &mut State<T>) {
        let now = Instant::now();
        while state.delayed.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((_, sequence))) = state.delayed.pop() else { return };
            // An entry without item was replaced by an earlier one.
            if let Some(item) = state.delayed_items.remove(&sequence) {
                state.delayed_until.remove(&item);
                self.push(state, item);
            }
        }
    }
}

/// Items in work per queue, for tests and metrics.
impl<T: Item> WorkQueue<T> {
    /// The items handed out and not done.
    pub fn in_work(&self) -> HashSet<T> {
        self.state.lock().in_work.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn queue() -> Arc<WorkQueue<&'static str>> {
        Arc::new(WorkQueue::new(QueueMetrics::default()))
    }

    #[tokio::test]
    async fn an_item_added_twice_is_handed_out_once() {
        let queue = queue();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.get().await, Some("a"));
        assert!(queue.is_empty());
    }

    #[tokio::test]
    async fn an_item_added_while_in_work_comes_back_only_when_done() {
        let queue = queue();
        queue.add("a");
        let item = queue.get().await.unwrap();
        queue.add("a");
        assert!(queue.is_empty(), "never given to two workers");
        queue.done(&item);
        assert_eq!(queue.get().await, Some("a"));
        queue.done(&"a");
        assert!(queue.is_empty());
    }

    #[tokio::test]
    async fn of_two_delays_the_shorter_counts() {
        let queue = queue();
        queue.add_after("a", Duration::from_secs(3600));
        queue.add_after("a", Duration::from_millis(1));
        assert_eq!(queue.get().await, Some("a"));
    }

    #[tokio::test]
    async fn every_waiting_worker_is_woken_for_its_item() {
        let queue = queue();
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.get().await })
            })
            .collect();
        tokio::task::yield_now().await;
        for item in ["a", "b", "c", "d"] {
            queue.add(item);
        }
        let mut got = Vec::new();
        for worker in workers {
            got.push(worker.await.unwrap().unwrap());
        }
        got.sort_unstable();
        assert_eq!(got, ["a", "b", "c", "d"]);
    }

    #[tokio::test]
    async fn shutting_down_ends_all_workers() {
        let queue = queue();
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.get().await })
            })
            .collect();
        tokio::task::yield_now().await;
        queue.shut_down();
        for worker in workers {
            assert_eq!(worker.await.unwrap(), None);
        }
    }
}
