//! `/metrics`, with upstream's names.

pub(crate) mod flowcontrol;

use std::{
    sync::atomic::{AtomicI64, AtomicU64},
    time::Duration,
};

use http::{Response, StatusCode};
use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use skep_api::{
    request::{RequestInfo, Verb},
    resource::{ResourceInfo, Str},
    status::StatusError,
};
use skep_storage::Storage;

use crate::{
    flowcontrol::FlowControl,
    http::{body::Body, response},
};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Request {
    verb: &'static str,
    group: Str,
    version: Str,
    resource: Str,
    subresource: Str,
    scope: &'static str,
    component: &'static str,
    code: u32,
    dry_run: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Timed {
    verb: &'static str,
    group: Str,
    version: Str,
    resource: Str,
    subresource: Str,
    scope: &'static str,
    component: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    request_kind: &'static str,
}

type Seconds = Family<Timed, Histogram, fn() -> Histogram>;

/// What is counted.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<Request, Counter<u64, AtomicU64>>,
    durations: Seconds,
    in_flight: Family<Kind, Gauge<i64, AtomicI64>>,
    pub(crate) long_running: Gauge<i64, AtomicI64>,
    pub(crate) flow: flowcontrol::Meters,
}

/// What a request counts as. Only names that exist are used, so a client cannot make labels up.
pub(crate) struct Counted {
    timed: Timed,
    dry_run: &'static str,
}

impl Counted {
    /// `resource` is the request's, if it is served.
    pub(crate) fn new(request: &RequestInfo, resource: Option<&ResourceInfo>) -> Self {
        let text = |of: fn(&ResourceInfo) -> &Str| resource.map(of).cloned().unwrap_or_default();
        let subresource = request.subresource.as_deref();
        let subresource = resource.zip(subresource).and_then(|(resource, name)| resource.subresource(name));
        let verb = match request.verb {
            Verb::Get | Verb::Head => "GET",
            Verb::List => "LIST",
            Verb::Watch => "WATCH",
            Verb::Create | Verb::Post => "POST",
            Verb::Update | Verb::Put => "PUT",
            Verb::Patch => "PATCH",
            Verb::Delete => "DELETE",
            Verb::DeleteCollection => "DELETECOLLECTION",
            Verb::Options => "OPTIONS",
            Verb::Proxy | Verb::Other => "other",
        };
        let scope = match (request.is_resource_request, &request.name, &request.namespace) {
            (false, ..) => "",
            (true, Some(_), _) => "resource",
            (true, None, Some(_)) => "namespace",
            (true, None, None) => "cluster",
        };
        let dry_run = if request.query.get("dryRun") == Some("All") { "All" } else { "" };
        Self {
            timed: Timed {
                verb,
                group: text(|resource| &resource.group),
                version: text(|resource| &resource.version),
                resource: text(|resource| &resource.plural),
                subresource: subresource.map(|subresource| subresource.name.clone()).unwrap_or_default(),
                scope,
                component: "apiserver",
            },
            dry_run,
        }
    }
}

impl Metrics {
    pub(crate) fn new(storage: &Storage) -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        registry.register(
            "apiserver_request",
            "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, \
             component, and HTTP response code",
            requests.clone(),
        );
        let make: fn() -> Histogram = || {
            Histogram::new([
                0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
                20.0, 30.0, 45.0, 60.0,
            ])
        };
        let durations = Family::new_with_constructor(make);
        registry.register(
            "apiserver_request_duration_seconds",
            "Response latency distribution in seconds for each verb, group, version, resource, subresource, scope and \
             component",
            durations.clone(),
        );
        let in_flight = Family::default();
        registry.register(
            "apiserver_current_inflight_requests",
            "Number of requests under way, by kind (mutating, readOnly)",
            in_flight.clone(),
        );
        let long_running = Gauge::default();
        registry.register(
            "apiserver_longrunning_requests",
            "Number of watches and logs under way",
            long_running.clone(),
        );
        storage.register_metrics(&mut registry);
        let flow = flowcontrol::Meters::new(&mut registry);
        Self { registry: Mutex::new(registry), requests, durations, in_flight, long_running, flow }
    }

    /// Counts an answered request.
    pub(crate) fn count(&self, counted: Counted, code: StatusCode, took: Duration) {
        let Counted { timed, dry_run } = counted;
        if timed.verb != "WATCH" {
            self.durations.get_or_create(&timed).observe(took.as_secs_f64());
        }
        self.requests
            .get_or_create(&Request {
                verb: timed.verb,
                group: timed.group,
                version: timed.version,
                resource: timed.resource,
                subresource: timed.subresource,
                scope: timed.scope,
                component: timed.component,
                code: u32::from(code.as_u16()),
                dry_run,
            })
            .inc();
    }

    /// The answer of `/metrics`.
    pub(crate) fn respond(&self, flow: &FlowControl) -> Response<Body> {
        let (reads, writes) = flow.in_flight();
        self.flow.note(flow.report());
        for (request_kind, count) in [("readOnly", reads), ("mutating", writes)] {
            self.in_flight.get_or_create(&Kind { request_kind }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let mut text = String::new();
        match encode(&mut text, &self.registry.lock()) {
            Ok(()) => {
                response::with_type(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text)
            }
            Err(error) => response::status_error(&StatusError::internal_error(error)),
        }
    }
}
