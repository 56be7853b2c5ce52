//! The priority levels, and the seats they have at the moment: levels lend what they do not use, and borrow.
//!
//! KEP-1040, "Borrowing": a level's nominal seats follow from its shares. Of them it lends at most `lendablePercent`, and it
//! borrows at most `borrowingLimitPercent` (without a bound if unset). Every [`PERIOD`] the seats of all are divided anew by
//! what each could have used ([`demand`](super::demand)), in fair proportion ([`fair`](super::fair)).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::api::flowcontrol::v1::PriorityLevelConfiguration;

use super::{
    demand::Statistics,
    fair::{self, Claim},
    level::{Kind, Level, Load, Queuing},
};

/// How often seats are divided anew; upstream's period.
pub(super) const PERIOD: Duration = Duration::from_secs(10);

/// Between how many seats a level may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) nominal: usize,
    /// What it does not lend.
    pub(crate) lower: usize,
    /// With what it may borrow.
    pub(crate) upper: usize,
}

/// All levels, by name.
pub(super) struct Levels {
    /// Seats of the server.
    total: usize,
    all: BTreeMap<String, Entry>,
    fraction: f64,
}

struct Entry {
    level: Arc<Level>,
    /// Its seats are those it has at the moment.
    kind: Kind,
    share: Share,
}

/// A level's seats and why it has them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Share {
    pub(crate) bounds: Bounds,
    pub(crate) demand: Statistics,
    /// What it would have, were there enough for all.
    pub(crate) target: f64,
    pub(crate) current: usize,
}

impl Levels {
    pub(super) fn new(total: usize) -> Self {
        Self { total, all: BTreeMap::new(), fraction: 0.0 }
    }

    /// Makes these the levels. Those that stay keep who is in them and what is known of their demand.
    pub(super) fn configure(&mut self, objects: &[PriorityLevelConfiguration]) {
        let sum: f64 = objects.iter().map(shares).sum();
        let mut old = std::mem::take(&mut self.all);
        for object in objects {
            let name = object.metadata.name.clone().unwrap_or_default();
            let bounds = Bounds::new(object, sum, self.total);
            let kind = kind(object);
            let entry = match old.remove(&name) {
                Some(entry) => Entry { kind, share: Share { bounds, ..entry.share }, ..entry },
                None => Entry { level: Level::new(kind), kind, share: Share { bounds, ..Share::default() } },
            };
            self.all.insert(name, entry);
        }
        self.adjust();
    }

    /// Divides the seats by the demand since the last time.
    pub(super) fn adjust(&mut self) {
        let claims: Vec<Claim> = self.all.values_mut().map(Entry::claim).collect();
        let whole: usize = self.all.values().map(|entry| entry.share.bounds.nominal).sum();
        let (fraction, parts) = fair::divide(whole as f64, &claims);
        for (entry, part) in self.all.values_mut().zip(parts) {
            // Rounding may make all of them together some seats more or less, as upstream's does.
            entry.share.current = part.round() as usize;
            entry.level.set(entry.kind.with_seats(entry.share.current));
        }
        self.fraction = fraction;
    }

    /// A level, and its nominal seats.
    pub(super) fn get(&self, name: &str) -> Option<(&Arc<Level>, usize)> {
        self.all.get(name).map(|entry| (&entry.level, entry.share.bounds.nominal))
    }

    /// How all are doing, and the fraction of their targets that they got if no bound was in the way.
    pub(super) fn report(&self) -> (Vec<(String, Load, Share)>, f64) {
        let levels = self.all.iter().map(|(name, entry)| (name.clone(), entry.level.load(), entry.share));
        (levels.collect(), self.fraction)
    }
}

impl Entry {
    /// What the level asks for: the demand, and no less than what it used of its own seats or does not lend.
    fn claim(&mut self) -> Claim {
        let share = &mut self.share;
        share.demand.update(self.level.demand());
        let Bounds { nominal, lower, upper } = share.bounds;
        // Unlike upstream's, a level with seats of its own always keeps one: who comes first must not wait for the next
        // adjustment.
        let lower = lower.max(nominal.min(share.demand.most.max(1))) as f64;
        share.target = lower.max(share.demand.smoothed);
        Claim { target: share.target, lower, upper: upper as f64 }
    }
}

impl Bounds {
    /// `sum` is that of all shares, `total` the server's seats.
    fn new(level: &PriorityLevelConfiguration, sum: f64, total: usize) -> Self {
        let nominal = (total as f64 * shares(level) / sum.max(1.0)).ceil() as usize;
        let percent = |percent: i32| (nominal as f64 * f64::from(percent.max(0)) / 100.0).round() as usize;
        let spec = level.spec.as_ref();
        let exempt = spec.and_then(|spec| spec.exempt.as_ref());
        let limited = spec.and_then(|spec| spec.limited.as_ref());
        let lendable = exempt.map_or(limited.and_then(|limited| limited.lendable_percent), |it| it.lendable_percent);
        let borrowed = limited.and_then(|limited| limited.borrowing_limit_percent).map_or(total, percent);
        let lower = nominal.saturating_sub(percent(lendable.unwrap_or(0)));
        Self { nominal, lower, upper: nominal.saturating_add(borrowed) }
    }
}

fn shares(level: &PriorityLevelConfiguration) -> f64 {
    let Some(spec) = &level.spec else { return 0.0 };
    let shares = match (&spec.exempt, &spec.limited) {
        (Some(exempt), _) => exempt.nominal_concurrency_shares.unwrap_or(0),
        (_, Some(limited)) => limited.nominal_concurrency_shares.unwrap_or(30),
        _ => 0,
    };
    f64::from(shares.max(0))
}

fn kind(level: &PriorityLevelConfiguration) -> Kind {
    let Some(spec) = level.spec.as_ref().filter(|spec| spec.type_ != "Exempt") else { return Kind::Exempt };
    let response = spec.limited.as_ref().and_then(|limited| limited.limit_response.as_ref());
    let queuing = response.filter(|response| response.type_ == "Queue").map(|response| {
        let given = response.queuing.clone().unwrap_or_default();
        let number = |value: Option<i32>, or: usize| {
            value.and_then(|value| usize::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(or)
        };
        let queues = number(given.queues, 64);
        Queuing { queues, hand: number(given.hand_size, 8).min(queues), length: number(given.queue_length_limit, 50) }
    });
    Kind::Limited { seats: 0, queuing }
}

#[cfg(test)]
mod tests;
