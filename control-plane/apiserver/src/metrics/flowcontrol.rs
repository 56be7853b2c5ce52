//! What is counted of priority and fairness, with upstream's names.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::flowcontrol::Load;

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
    limit: Level,
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
            limit: Family::default(),
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
        for (name, help, family) in [
            ("current_inqueue_requests", "Number of requests currently pending in queues", &meters.waiting),
            ("current_executing_requests", "Number of requests in execution", &meters.executing),
            ("current_executing_seats", "Concurrency (number of seats) occupied by requests", &meters.seats),
            ("nominal_limit_seats", "Nominal number of execution seats for each priority level", &meters.limit),
        ] {
            registry.register(format!("apiserver_flowcontrol_{name}"), help, family.clone());
        }
        meters
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
    pub(crate) fn note(&self, loads: Vec<(String, Load)>) {
        let number = |value: usize| i64::try_from(value).unwrap_or(0);
        for (priority_level, load) in loads {
            let level = OfLevel { priority_level };
            self.waiting.get_or_create(&level).set(number(load.waiting));
            self.executing.get_or_create(&level).set(number(load.executing));
            self.seats.get_or_create(&level).set(number(load.seats));
            self.limit.get_or_create(&level).set(number(load.limit));
        }
    }
}
