//! How many seats a level could use: those its requests occupy and those its waiting requests would.
//!
//! KEP-1040: at every adjustment of limits, the time-weighted mean and standard deviation since the last one are taken;
//! their sum, the envelope, is followed at once upwards and slowly downwards.

use std::time::Instant;

/// What is kept of the smoothed demand at each adjustment (upstream's coefficient): half of it is forgotten in five minutes.
const KEPT: f64 = 0.977;

/// The demand of one period, while it goes on.
pub(super) struct Demand {
    since: Instant,
    seats: usize,
    seconds: f64,
    /// Seats by time, and their squares.
    sum: f64,
    squares: f64,
    most: usize,
}

/// What a period was like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Period {
    pub(super) seconds: f64,
    pub(super) average: f64,
    pub(super) deviation: f64,
    pub(super) most: usize,
}

impl Demand {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, seats: 0, seconds: 0.0, sum: 0.0, squares: 0.0, most: 0 }
    }

    /// The demand is `seats` from now on.
    pub(super) fn set(&mut self, seats: usize, now: impl FnOnce() -> Instant) {
        if seats != self.seats {
            self.advance(now());
            self.seats = seats;
            self.most = self.most.max(seats);
        }
    }

    /// Ends the period, and begins the next.
    pub(super) fn take(&mut self, now: Instant) -> Period {
        self.advance(now);
        let per_second = |value: f64| if self.seconds > 0.0 { value / self.seconds } else { 0.0 };
        let average = per_second(self.sum);
        // Never below zero but by rounding.
        let variance = (per_second(self.squares) - average * average).max(0.0);
        let period = Period { seconds: self.seconds, average, deviation: variance.sqrt(), most: self.most };
        *self = Self { seats: self.seats, most: self.seats, ..Self::new(now) };
        period
    }

    fn advance(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.since).as_secs_f64();
        let seats = self.seats as f64;
        self.since = now;
        self.seconds += seconds;
        self.sum += seconds * seats;
        self.squares += seconds * seats * seats;
    }
}

/// The demand of a level over its periods, in seats.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Statistics {
    /// The most in the last period.
    pub(crate) most: usize,
    pub(crate) average: f64,
    pub(crate) deviation: f64,
    pub(crate) smoothed: f64,
}

impl Statistics {
    pub(super) fn update(&mut self, period: Period) {
        self.most = period.most;
        if period.seconds <= 0.0 {
            return;
        }
        let envelope = period.average + period.deviation;
        self.average = period.average;
        self.deviation = period.deviation;
        self.smoothed = envelope.max(KEPT * self.smoothed + (1.0 - KEPT) * envelope);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_period_is_weighted_by_time() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut demand = Demand::new(start);
        demand.set(10, || at(6));
        demand.set(30, || at(8));
        demand.set(10, || at(8));
        // Six seconds of none and four of ten; the thirty lasted no time, but they were there.
        let period = demand.take(at(10));
        assert!((period.average - 4.0).abs() < 1e-9 && (period.deviation - 24.0_f64.sqrt()).abs() < 1e-9);
        assert_eq!((period.seconds, period.most), (10.0, 30));
        let next = demand.take(at(20));
        assert_eq!(next, Period { seconds: 10.0, average: 10.0, deviation: 0.0, most: 10 });
    }

    #[test]
    fn a_demand_that_ends_is_forgotten_by_halves() {
        let period = |average| Period { seconds: 10.0, average, deviation: 0.0, most: 0 };
        let mut statistics = Statistics::default();
        statistics.update(period(100.0));
        assert_eq!(statistics.smoothed, 100.0);
        for _ in 0..30 {
            statistics.update(period(0.0));
        }
        assert!((45.0..55.0).contains(&statistics.smoothed), "{}", statistics.smoothed);
        statistics.update(period(70.0));
        assert_eq!(statistics.smoothed, 70.0, "a rise is followed at once");
    }

    #[test]
    fn a_period_without_time_tells_only_its_most() {
        let mut statistics = Statistics { most: 1, average: 2.0, deviation: 3.0, smoothed: 4.0 };
        let now = Instant::now();
        statistics.update(Demand::new(now).take(now));
        assert_eq!(statistics, Statistics { most: 0, average: 2.0, deviation: 3.0, smoothed: 4.0 });
    }
}
