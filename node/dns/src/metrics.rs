//! Metrics, under CoreDNS's names.

use std::time::Instant;

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::Transport;

/// Labels of the counter of requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    server: &'static str,
    zone: String,
    proto: &'static str,
    r#type: &'static str,
}

/// Labels of the counter of responses.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResponseLabels {
    server: &'static str,
    zone: String,
    rcode: &'static str,
    plugin: &'static str,
}

/// Labels of the durations.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ZoneLabels {
    server: &'static str,
    zone: String,
}

const SERVER: &str = "dns://:53";

/// Metrics of the DNS server. Cheap to clone; clones share their values.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    responses: Family<ResponseLabels, Counter>,
    durations: Family<ZoneLabels, Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            responses: Family::default(),
            // CoreDNS's buckets, so that its dashboards fit.
            durations: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.000_25, 2.0, 16))),
        }
    }
}

impl Metrics {
    /// Adds them to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "coredns_dns_requests",
            "Counter of DNS requests made per zone, protocol and family",
            self.requests.clone(),
        );
        registry.register("coredns_dns_responses", "Counter of response status codes", self.responses.clone());
        registry.register_with_unit(
            "coredns_dns_request_duration",
            "Histogram of the time (in seconds) each request took per zone",
            Unit::Seconds,
            self.durations.clone(),
        );
    }

    pub(crate) fn answered(
        &self,
        query: &Query,
        transport: Transport,
        zone: Option<&Name>,
        code: ResponseCode,
        received: Instant,
    ) {
        let plugin = if zone.is_some() { "kubernetes" } else { "forward" };
        let zone = zone.map_or_else(|| ".".to_owned(), Name::to_ascii);
        let proto = match transport {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        };
        let labels =
            RequestLabels { server: SERVER, zone: zone.clone(), proto, r#type: type_label(query.query_type()) };
        self.requests.get_or_create(&labels).inc();
        let labels = ResponseLabels { server: SERVER, zone: zone.clone(), rcode: code_label(code), plugin };
        self.responses.get_or_create(&labels).inc();
        let duration = received.elapsed().as_secs_f64();
        self.durations.get_or_create(&ZoneLabels { server: SERVER, zone }).observe(duration);
    }

    /// What could not be read.
    pub(crate) fn broken(&self, code: ResponseCode) {
        let labels = ResponseLabels { server: SERVER, zone: "dropped".to_owned(), rcode: code_label(code), plugin: "" };
        self.responses.get_or_create(&labels).inc();
    }
}

/// A bounded number of words, as CoreDNS does.
fn type_label(kind: RecordType) -> &'static str {
    match kind {
        RecordType::A => "A",
        RecordType::AAAA => "AAAA",
        RecordType::ANY => "ANY",
        RecordType::CNAME => "CNAME",
        RecordType::HTTPS => "HTTPS",
        RecordType::MX => "MX",
        RecordType::NS => "NS",
        RecordType::PTR => "PTR",
        RecordType::SOA => "SOA",
        RecordType::SRV => "SRV",
        RecordType::TXT => "TXT",
        _ => "other",
    }
}

fn code_label(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::Refused => "REFUSED",
        ResponseCode::BADVERS => "BADVERS",
        _ => "other",
    }
}
