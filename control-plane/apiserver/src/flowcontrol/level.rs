//! One priority level: its seats, and who waits for them.
//!
//! Requests of one flow wait in a few queues of the level (shuffle sharding), so that a flow with many requests fills its
//! own queues and not those of others. Seats go to the queue that has had the least service (start-time fair queuing):
//! a queue's clock advances by the seat-seconds its requests take, and the level's clock is that of the queue served
//! last. While seats are free and nobody waits, no queue is touched.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::{sync::oneshot, time::timeout};

use super::demand::{Demand, Period};

/// What a request is assumed to take until it is known, in seconds; upstream's figure.
const GUESS: f64 = 0.003;

/// How requests wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Queuing {
    pub(crate) queues: usize,
    pub(crate) hand: usize,
    /// The most that may wait in one queue.
    pub(crate) length: usize,
}

/// What a level is told to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Never waits.
    Exempt,
    /// So many seats; without queues nobody waits for them.
    Limited { seats: usize, queuing: Option<Queuing> },
}

impl Kind {
    /// The same with so many seats, if it has a limit.
    pub(super) fn with_seats(self, seats: usize) -> Self {
        match self {
            Self::Exempt => Self::Exempt,
            Self::Limited { queuing, .. } => Self::Limited { seats, queuing },
        }
    }
}

/// What a request occupies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    /// Seats while it runs.
    pub(crate) seats: usize,
    /// Seats for a while after it has run, and how long: what a write costs those who watch.
    pub(crate) after: Option<(usize, Duration)>,
}

impl Work {
    pub(crate) const ONE: Self = Self { seats: 1, after: None };
}

/// Why a request is turned away, as metrics call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    QueueFull,
    ConcurrencyLimit,
    TimeOut,
}

impl Rejection {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::ConcurrencyLimit => "concurrency-limit",
            Self::TimeOut => "time-out",
        }
    }
}

/// How a level is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) limit: usize,
    pub(crate) seats: usize,
    pub(crate) executing: usize,
    pub(crate) waiting: usize,
}

/// A priority level.
pub(crate) struct Level {
    state: Mutex<State>,
}

struct State {
    kind: Kind,
    limit: usize,
    in_use: usize,
    executing: usize,
    waiting: usize,
    /// Seats of those that wait.
    wanted: usize,
    demand: Demand,
    queues: Vec<Queue>,
    clock: f64,
    next_id: u64,
}

#[derive(Default)]
struct Queue {
    waiters: VecDeque<Waiter>,
    /// Seats of those that wait and of those that came from here and run.
    load: usize,
    clock: f64,
}

struct Waiter {
    id: u64,
    work: Work,
    grant: oneshot::Sender<Ticket>,
}

type Grants = SmallVec<[(oneshot::Sender<Ticket>, Ticket); 2]>;

/// Seats of one request; given back when dropped.
pub(crate) struct Ticket {
    level: Arc<Level>,
    work: Work,
    /// The queue it came from, and since when it runs.
    from: Option<(usize, Instant)>,
}

impl Level {
    pub(crate) fn new(kind: Kind) -> Arc<Self> {
        let level = Self {
            state: Mutex::new(State {
                kind,
                limit: 0,
                in_use: 0,
                executing: 0,
                waiting: 0,
                wanted: 0,
                demand: Demand::new(Instant::now()),
                queues: Vec::new(),
                clock: 0.0,
                next_id: 0,
            }),
        };
        level.state.lock().set(kind);
        Arc::new(level)
    }

    /// Changes the measures; those under way and those that wait stay.
    pub(crate) fn set(self: &Arc<Self>, kind: Kind) {
        let grants = {
            let mut state = self.state.lock();
            if state.kind == kind {
                return;
            }
            state.set(kind);
            state.dispatch(self)
        };
        hand_out(grants);
    }

    pub(crate) fn load(&self) -> Load {
        let state = self.state.lock();
        Load { limit: state.limit, seats: state.in_use, executing: state.executing, waiting: state.waiting }
    }

    /// What seats could be used since this was last asked.
    pub(super) fn demand(&self) -> Period {
        self.state.lock().demand.take(Instant::now())
    }

    /// Seats for a request, at once or after a wait of at most `patience`. `flow` tells flows apart.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        work: Work,
        flow: impl FnOnce() -> u64,
        patience: Duration,
    ) -> Result<Ticket, Rejection> {
        let wait = {
            let mut state = self.state.lock();
            let (exempt, queuing) = match state.kind {
                Kind::Exempt => (true, None),
                Kind::Limited { queuing, .. } => (false, queuing),
            };
            if exempt || (state.waiting == 0 && state.has_room(work.seats)) {
                state.take(work.seats);
                state.note();
                // What nobody waits for need not be kept.
                let after = work.after.filter(|_| !exempt);
                return Ok(Ticket { level: Arc::clone(self), work: Work { after, ..work }, from: None });
            }
            let Some(queuing) = queuing else { return Err(Rejection::ConcurrencyLimit) };
            let (id, granted) = state.enqueue(work, flow(), queuing)?;
            Waiting { level: self, id: Some(id), granted }
        };
        // Boxed: few wait, and those who do not should not carry the room.
        Box::pin(wait.grant(patience)).await
    }

    fn leave(self: &Arc<Self>, ticket: &Ticket) {
        let grants = {
            let mut state = self.state.lock();
            state.executing -= 1;
            state.in_use -= ticket.work.seats;
            if let Some((queue, since)) = ticket.from
                && let Some(queue) = state.queues.get_mut(queue)
            {
                let seats = ticket.work.seats;
                queue.load = queue.load.saturating_sub(seats);
                queue.clock += seats as f64 * (since.elapsed().as_secs_f64() - GUESS);
            }
            if let Some((seats, _)) = ticket.work.after {
                state.in_use += seats;
            }
            state.note();
            state.dispatch(self)
        };
        if let Some((seats, time)) = ticket.work.after {
            self.give_back_later(seats, time);
        }
        hand_out(grants);
    }

    fn give_back_later(self: &Arc<Self>, seats: usize, time: Duration) {
        let level = Arc::clone(self);
        let give_back = move || {
            let grants = {
                let mut state = level.state.lock();
                state.in_use -= seats;
                state.note();
                state.dispatch(&level)
            };
            hand_out(grants);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn(async move {
                    tokio::time::sleep(time).await;
                    give_back();
                });
            }
            Err(_) => give_back(),
        }
    }
}

impl State {
    fn set(&mut self, kind: Kind) {
        self.kind = kind;
        let (limit, queues) = match kind {
            Kind::Exempt => (usize::MAX, 0),
            Kind::Limited { seats, queuing } => (seats, queuing.map_or(0, |queuing| queuing.queues)),
        };
        self.limit = limit;
        // Who waits in a queue that goes must not be lost: it waits in one that stays, or goes on at once.
        let homeless: Vec<Waiter> =
            self.queues.drain(queues.min(self.queues.len())..).flat_map(|queue| queue.waiters).collect();
        self.queues.resize_with(queues, Queue::default);
        for (at, waiter) in homeless.into_iter().enumerate() {
            match self.queues.get_mut(at % queues.max(1)) {
                Some(queue) => {
                    queue.load += waiter.work.seats;
                    queue.waiters.push_back(waiter);
                }
                // Its sender is dropped, which turns it away.
                None => {
                    self.waiting -= 1;
                    self.wanted -= waiter.work.seats;
                }
            }
        }
        self.note();
    }

    /// Notes the demand, when it has changed. To be called whenever seats are taken, given back, or waited for no longer;
    /// to hand seats to those that waited changes nothing.
    fn note(&mut self) {
        self.demand.set(self.in_use + self.wanted, Instant::now);
    }

    fn has_room(&self, seats: usize) -> bool {
        // One that is wider than the level runs alone.
        self.in_use.saturating_add(seats) <= self.limit || (self.in_use == 0 && self.limit > 0)
    }

    fn take(&mut self, seats: usize) {
        self.in_use += seats;
        self.executing += 1;
    }

    fn enqueue(
        &mut self,
        work: Work,
        flow: u64,
        queuing: Queuing,
    ) -> Result<(u64, oneshot::Receiver<Ticket>), Rejection> {
        let hand = super::shuffle::deal(flow, self.queues.len(), queuing.hand);
        let chosen = hand.into_iter().min_by_key(|at| self.queues[*at].load).ok_or(Rejection::ConcurrencyLimit)?;
        let clock = self.clock;
        let queue = &mut self.queues[chosen];
        if queue.waiters.len() >= queuing.length {
            return Err(Rejection::QueueFull);
        }
        if queue.waiters.is_empty() {
            // Time in which it asked for nothing gives it no claim.
            queue.clock = queue.clock.max(clock);
        }
        let (grant, granted) = oneshot::channel();
        let id = self.next_id;
        self.next_id += 1;
        queue.load += work.seats;
        queue.waiters.push_back(Waiter { id, work, grant });
        self.waiting += 1;
        self.wanted += work.seats;
        self.note();
        Ok((id, granted))
    }

    /// Gives free seats to those that wait. The caller hands them out once the lock is free: whoever has gone meanwhile
    /// gives them back at once.
    fn dispatch(&mut self, level: &Arc<Level>) -> Grants {
        let mut grants = Grants::new();
        while self.waiting > 0 {
            let finish =
                |queue: &Queue| queue.waiters.front().map(|waiter| queue.clock + waiter.work.seats as f64 * GUESS);
            let next = self.queues.iter().enumerate().filter_map(|(at, queue)| Some((at, finish(queue)?)));
            let Some((at, _)) = next.min_by(|(_, a), (_, b)| a.total_cmp(b)) else { break };
            let Some(seats) = self.queues[at].waiters.front().map(|waiter| waiter.work.seats) else { break };
            if !self.has_room(seats) {
                break;
            }
            let queue = &mut self.queues[at];
            let Some(waiter) = queue.waiters.pop_front() else { break };
            self.clock = self.clock.max(queue.clock);
            queue.clock += seats as f64 * GUESS;
            self.waiting -= 1;
            self.wanted -= seats;
            self.take(seats);
            let from = Some((at, Instant::now()));
            let ticket = Ticket { level: Arc::clone(level), work: waiter.work, from };
            grants.push((waiter.grant, ticket));
        }
        grants
    }

    fn forget(&mut self, id: u64) {
        for queue in &mut self.queues {
            if let Some(at) = queue.waiters.iter().position(|waiter| waiter.id == id) {
                if let Some(waiter) = queue.waiters.remove(at) {
                    queue.load = queue.load.saturating_sub(waiter.work.seats);
                    self.wanted -= waiter.work.seats;
                }
                self.waiting -= 1;
                self.note();
                return;
            }
        }
    }
}

fn hand_out(grants: Grants) {
    for (grant, ticket) in grants {
        // One that nobody takes is dropped, and its seats are free again.
        let _ = grant.send(ticket);
    }
}

/// A place in a queue, given up when dropped.
struct Waiting<'a> {
    level: &'a Arc<Level>,
    /// None once it is no longer in a queue.
    id: Option<u64>,
    granted: oneshot::Receiver<Ticket>,
}

impl Waiting<'_> {
    async fn grant(mut self, patience: Duration) -> Result<Ticket, Rejection> {
        match timeout(patience, &mut self.granted).await {
            Ok(granted) => {
                self.id = None;
                granted.map_err(|_| Rejection::ConcurrencyLimit)
            }
            Err(_) => Err(Rejection::TimeOut),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // Closed first: a grant that comes from here on goes back to the level by itself.
        self.granted.close();
        if let Some(id) = self.id {
            self.level.state.lock().forget(id);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let level = Arc::clone(&self.level);
        level.leave(self);
    }
}

#[cfg(test)]
mod tests;
