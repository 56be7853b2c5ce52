//! What is counted of priority and fairness, with upstream's names.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::flowcontrol::{Load, Share};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfFlow {
    priority_level: String,
    flow_schema: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Rejected {
    priority_level: String,
    flow_schema: String,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Waited {
    priority_level: String,
    flow_schema: String,
    execute: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfLevel {
    priority_level: String,
}

type Count = Counter<u64, AtomicU64>;
type Level = Family<OfLevel, Gauge<i64, AtomicI64>>;
type Fraction = Gauge<f64, AtomicU64>;
type Seconds<L> = Family<L, Histogram, fn() -> Histogram>;

/// The metrics of priority and fairness; cheap to clone.
#[derive(Clone)]
pub(crate) struct Meters {
    dispatched: Family<OfFlow, Count>,
    rejected: Family<Rejected, Count>,
    waited: Seconds<Waited>,
    executed: Seconds<OfFlow>,
    waiting: Level,
    executing: Level,
    seats: Level,
    limits: Limits,
    demand: Demand,
    fraction: Fraction,
}

/// Seats of the levels, as configured and as they are.
#[derive(Clone, Default)]
struct Limits {
    nominal: Level,
    lower: Level,
    upper: Level,
    current: Level,
}

/// What the levels could use, as of the last adjustment.
#[derive(Clone, Default)]
struct Demand {
    most: Level,
    average: Family<OfLevel, Fraction>,
    deviation: Family<OfLevel, Fraction>,
    smoothed: Family<OfLevel, Fraction>,
    target: Family<OfLevel, Fraction>,
}

fn seconds() -> Histogram {
    Histogram::new([0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0])
}

impl Meters {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let make: fn() -> Histogram = seconds;
        let meters = Self {
            dispatched: Family::default(),
            rejected: Family::default(),
            waited: Family::new_with_constructor(make),
            executed: Family::new_with_constructor(make),
            waiting: Family::default(),
            executing: Family::default(),
            seats: Family::default(),
            limits: Limits::default(),
            demand: Demand::default(),
            fraction: Fraction::default(),
        };
        registry.register(
            "apiserver_flowcontrol_dispatched_requests",
            "Number of requests executed by API Priority and Fairness subsystem",
            meters.dispatched.clone(),
        );
        registry.register(
            "apiserver_flowcontrol_rejected_requests",
            "Number of requests rejected by API Priority and Fairness subsystem",
            meters.rejected.clone(),
        );
        registry.register(
            "apiserver_flowcontrol_request_wait_duration_seconds",
            "Length of time a request spent waiting in its queue",
            meters.waited.clone(),
        );
        registry.register(
            "apiserver_flowcontrol_request_execution_seconds",
            "Duration of request execution in the API Priority and Fairness subsystem",
            meters.executed.clone(),
        );
        meters.register_levels(registry);
        meters
    }

    fn register_levels(&self, registry: &mut Registry) {
        let Self { limits, demand, .. } = self;
        for (name, help, family) in [
            ("current_inqueue_requests", "Number of requests currently pending in queues", &self.waiting),
            ("current_executing_requests", "Number of requests in execution", &self.executing),
            ("current_executing_seats", "Concurrency (number of seats) occupied by requests", &self.seats),
            ("nominal_limit_seats", "Nominal number of execution seats for each priority level", &limits.nominal),
            ("lower_limit_seats", "Seats that each priority level does not lend", &limits.lower),
            ("upper_limit_seats", "Seats that each priority level may have with what it borrows", &limits.upper),
            ("current_limit_seats", "Seats that each priority level has at the moment", &limits.current),
            ("demand_seats_high_watermark", "Most seats that could be used in the last period", &demand.most),
        ] {
            registry.register(format!("apiserver_flowcontrol_{name}"), help, family.clone());
        }
        for (name, help, family) in [
            ("demand_seats_average", "Time-weighted average of the seats that could be used", &demand.average),
            ("demand_seats_stdev", "Time-weighted standard deviation of those seats", &demand.deviation),
            ("demand_seats_smoothed", "Smoothed envelope of those seats", &demand.smoothed),
            ("target_seats", "Seats that each priority level asked for at the last adjustment", &demand.target),
        ] {
            registry.register(format!("apiserver_flowcontrol_{name}"), help, family.clone());
        }
        registry.register(
            "apiserver_flowcontrol_seat_fair_frac",
            "Fraction of its target that each priority level gets if it can use it",
            self.fraction.clone(),
        );
    }

    /// What is counted for each request of a flow: dispatched, waited, executed.
    pub(crate) fn of_flow(&self, flow_schema: &str, priority_level: &str) -> (Count, Histogram, Histogram) {
        let (flow_schema, priority_level) = (flow_schema.to_owned(), priority_level.to_owned());
        let waited =
            Waited { priority_level: priority_level.clone(), flow_schema: flow_schema.clone(), execute: "true" };
        let flow = OfFlow { priority_level, flow_schema };
        (
            self.dispatched.get_or_create(&flow).clone(),
            self.waited.get_or_create(&waited).clone(),
            self.executed.get_or_create(&flow).clone(),
        )
    }

    pub(crate) fn reject(&self, flow_schema: &str, priority_level: &str, reason: &'static str) {
        let (flow_schema, priority_level) = (flow_schema.to_owned(), priority_level.to_owned());
        self.rejected.get_or_create(&Rejected { priority_level, flow_schema, reason }).inc();
    }

    /// Notes how the levels are doing.
    pub(crate) fn note(&self, (levels, fraction): (Vec<(String, Load, Share)>, f64)) {
        self.fraction.set(fraction);
        for (priority_level, load, share) in levels {
            let level = OfLevel { priority_level };
            let seats = |family: &Level, value: usize| {
                family.get_or_create(&level).set(i64::try_from(value).unwrap_or(i64::MAX));
            };
            let exact = |family: &Family<OfLevel, Fraction>, value: f64| {
                family.get_or_create(&level).set(value);
            };
            seats(&self.waiting, load.waiting);
            seats(&self.executing, load.executing);
            seats(&self.seats, load.seats);
            seats(&self.limits.nominal, share.bounds.nominal);
            seats(&self.limits.lower, share.bounds.lower);
            seats(&self.limits.upper, share.bounds.upper);
            seats(&self.limits.current, share.current);
            seats(&self.demand.most, share.demand.most);
            exact(&self.demand.average, share.demand.average);
            exact(&self.demand.deviation, share.demand.deviation);
            exact(&self.demand.smoothed, share.demand.smoothed);
            exact(&self.demand.target, share.target);
        }
    }
}
