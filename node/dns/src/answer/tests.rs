use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;

fn index(services: Value, slices: Value) -> Index {
    let mut index = Index::default();
    // A slice may come before its Service.
    let slices: Vec<k8s_openapi::api::discovery::v1::EndpointSlice> = serde_json::from_value(slices).unwrap();
    slices.iter().for_each(|slice| index.apply_slice(slice));
    let services: Vec<k8s_openapi::api::core::v1::Service> = serde_json::from_value(services).unwrap();
    services.iter().for_each(|service| index.apply_service(service));
    index.complete();
    index
}

fn service(name: &str, spec: Value) -> Value {
    json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec})
}

fn slice(name: &str, service: &str, family: &str, endpoints: Value) -> Value {
    json!({
        "metadata": {"namespace": "ns", "name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": family,
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": endpoints,
    })
}

fn example() -> Index {
    let http = json!([{"name": "http", "protocol": "TCP", "port": 80}, {"name": "dns", "protocol": "UDP", "port": 53}]);
    index(
        json!([
            service("web", json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"], "ports": http})),
            service("db", json!({"clusterIP": "None", "ports": [{"name": "http", "protocol": "TCP", "port": 8080}]})),
            service("empty", json!({"clusterIP": "None"})),
            service("out", json!({"type": "ExternalName", "externalName": "example.org"})),
            service("in", json!({"type": "ExternalName", "externalName": "web.ns.svc.cluster.local"})),
            service("circle", json!({"type": "ExternalName", "externalName": "circle.ns.svc.cluster.local."})),
        ]),
        json!([
            slice(
                "db-1",
                "db",
                "IPv4",
                json!([
                    {"addresses": ["10.1.0.1"], "hostname": "db-0", "conditions": {"ready": true}},
                    {"addresses": ["10.1.0.2"]},
                    {"addresses": ["10.1.0.3"], "hostname": "db-2", "conditions": {"ready": false}},
                ])
            ),
            slice("db-2", "db", "IPv6", json!([{"addresses": ["fd01::1"], "hostname": "db-0"}])),
            slice("web-1", "web", "IPv4", json!([{"addresses": ["10.1.0.9"]}])),
            slice("other", "", "IPv4", json!([{"addresses": ["10.1.0.10"]}])),
        ]),
    )
}

fn zone() -> Zone {
    let domain = Name::from_ascii("cluster.local").unwrap();
    Zone::new(domain, vec!["10.96.0.0/12".parse().unwrap()], vec![[10, 96, 0, 10].into()]).unwrap()
}

/// Code and records, in a word each; `None` when it is for others to answer.
fn ask(index: &Index, name: &str, kind: RecordType) -> Option<(ResponseCode, BTreeSet<String>)> {
    let answer = zone().answer(index, &Name::from_ascii(name).unwrap(), kind)?;
    let negative = answer.answers.is_empty() && answer.code != ResponseCode::ServFail;
    assert_eq!(negative, answer.authorities.iter().any(|record| record.record_type() == RecordType::SOA), "{name}");
    assert!(answer.answers.iter().all(|record| record.ttl == TTL && record.name.to_ascii() == name), "{name}");
    Some((answer.code, answer.answers.iter().map(|record| record.data.to_string()).collect()))
}

#[test]
fn names_have_the_records_of_the_specification() {
    use RecordType::{A, AAAA, CNAME, NS, PTR, SRV, TXT};
    let index = example();
    let ok = ResponseCode::NoError;
    let absent = ResponseCode::NXDomain;
    let cases: &[(&str, RecordType, ResponseCode, &[&str])] = &[
        // ClusterIP
        ("web.ns.svc.cluster.local.", A, ok, &["10.96.0.7"]),
        ("web.ns.svc.cluster.local.", AAAA, ok, &["fd00::7"]),
        ("WEB.Ns.sVc.Cluster.LOCAL.", A, ok, &["10.96.0.7"]),
        ("web.ns.svc.cluster.local.", TXT, ok, &[]),
        ("_http._tcp.web.ns.svc.cluster.local.", SRV, ok, &["0 100 80 web.ns.svc.cluster.local."]),
        ("_dns._udp.web.ns.svc.cluster.local.", SRV, ok, &["0 100 53 web.ns.svc.cluster.local."]),
        ("_http._tcp.web.ns.svc.cluster.local.", A, ok, &[]),
        ("_tcp.web.ns.svc.cluster.local.", SRV, ok, &[]),
        ("_sctp.web.ns.svc.cluster.local.", SRV, absent, &[]),
        ("_dns._tcp.web.ns.svc.cluster.local.", SRV, absent, &[]),
        ("http.tcp.web.ns.svc.cluster.local.", SRV, absent, &[]),
        ("10-1-0-9.web.ns.svc.cluster.local.", A, ok, &["10.1.0.9"]),
        // headless: of those ready, by host name or by address
        ("db.ns.svc.cluster.local.", A, ok, &["10.1.0.1", "10.1.0.2"]),
        ("db.ns.svc.cluster.local.", AAAA, ok, &["fd01::1"]),
        ("db-0.db.ns.svc.cluster.local.", A, ok, &["10.1.0.1"]),
        ("db-0.db.ns.svc.cluster.local.", AAAA, ok, &["fd01::1"]),
        ("10-1-0-2.db.ns.svc.cluster.local.", A, ok, &["10.1.0.2"]),
        ("10-1-0-1.db.ns.svc.cluster.local.", A, absent, &[]),
        ("db-2.db.ns.svc.cluster.local.", A, absent, &[]),
        (
            "_http._tcp.db.ns.svc.cluster.local.",
            SRV,
            ok,
            &["0 50 8080 10-1-0-2.db.ns.svc.cluster.local.", "0 50 8080 db-0.db.ns.svc.cluster.local."],
        ),
        ("empty.ns.svc.cluster.local.", A, ok, &[]),
        // other names
        ("out.ns.svc.cluster.local.", CNAME, ok, &["example.org."]),
        ("out.ns.svc.cluster.local.", A, ok, &["example.org."]),
        ("x.out.ns.svc.cluster.local.", A, absent, &[]),
        // pods
        ("10-1-0-1.ns.pod.cluster.local.", A, ok, &["10.1.0.1"]),
        ("10-1-0-1.ns.pod.cluster.local.", AAAA, ok, &[]),
        ("fd01--1.ns.pod.cluster.local.", AAAA, ok, &["fd01::1"]),
        ("10-1-0.ns.pod.cluster.local.", A, absent, &[]),
        // reverse
        ("7.0.96.10.in-addr.arpa.", PTR, ok, &["web.ns.svc.cluster.local."]),
        ("1.0.1.10.in-addr.arpa.", PTR, ok, &["db-0.db.ns.svc.cluster.local."]),
        ("2.0.1.10.in-addr.arpa.", PTR, ok, &["10-1-0-2.db.ns.svc.cluster.local."]),
        ("8.0.96.10.in-addr.arpa.", PTR, absent, &[]),
        ("7.0.96.10.in-addr.arpa.", A, ok, &[]),
        ("0.96.10.in-addr.arpa.", PTR, ok, &[]),
        // the zone
        ("cluster.local.", NS, ok, &["ns.dns.cluster.local."]),
        ("cluster.local.", A, ok, &[]),
        ("ns.dns.cluster.local.", A, ok, &["10.96.0.10"]),
        ("svc.cluster.local.", A, ok, &[]),
        ("ns.svc.cluster.local.", A, ok, &[]),
        ("nowhere.svc.cluster.local.", A, absent, &[]),
        ("no.ns.svc.cluster.local.", A, absent, &[]),
        ("*.ns.svc.cluster.local.", A, absent, &[]),
        ("a.b.c.web.ns.svc.cluster.local.", A, absent, &[]),
        ("x.cluster.local.", A, absent, &[]),
    ];
    for (name, kind, code, records) in cases {
        let records = records.iter().map(|&record| record.to_owned()).collect();
        assert_eq!(ask(&index, name, *kind), Some((*code, records)), "{name} {kind}");
    }
    let version = zone().answer(&index, &Name::from_ascii("dns-version.cluster.local.").unwrap(), TXT).unwrap();
    assert_eq!(version.answers[0].data, RData::TXT(hickory_proto::rr::rdata::TXT::new(vec!["1.1.0".to_owned()])));
}

#[test]
fn names_of_elsewhere_are_for_others() {
    let index = example();
    for (name, kind) in [
        ("example.org.", RecordType::A),
        ("local.", RecordType::A),
        ("xcluster.local.", RecordType::A),
        // An endpoint of a Service with a ClusterIP has no reverse name, and nobody said that this range is ours.
        ("9.0.1.10.in-addr.arpa.", RecordType::PTR),
        ("1.0.0.127.in-addr.arpa.", RecordType::PTR),
    ] {
        assert_eq!(ask(&index, name, kind), None, "{name}");
    }
}

#[test]
fn an_alias_says_what_to_ask_next() {
    let answer = zone().answer(&example(), &Name::from_ascii("out.ns.svc.cluster.local.").unwrap(), RecordType::A);
    assert_eq!(answer.unwrap().next, Some(Name::from_ascii("example.org.").unwrap()));
    let answer = zone().answer(&example(), &Name::from_ascii("out.ns.svc.cluster.local.").unwrap(), RecordType::CNAME);
    assert_eq!(answer.unwrap().next, None);
}

#[test]
fn srv_answers_bring_the_addresses_along() {
    let name = Name::from_ascii("_http._tcp.db.ns.svc.cluster.local.").unwrap();
    let answer = zone().answer(&example(), &name, RecordType::SRV).unwrap();
    let extra: BTreeSet<String> =
        answer.additionals.iter().map(|record| format!("{} {}", record.name, record.data)).collect();
    let expected = [
        "10-1-0-2.db.ns.svc.cluster.local. 10.1.0.2",
        "db-0.db.ns.svc.cluster.local. 10.1.0.1",
        "db-0.db.ns.svc.cluster.local. fd01::1",
    ];
    assert_eq!(extra, expected.map(str::to_owned).into());
}

#[test]
fn nothing_is_denied_before_all_is_known() {
    let mut index = Index::default();
    let web = service("web", json!({"clusterIP": "10.96.0.7"}));
    index.apply_service(&serde_json::from_value(web).unwrap());
    for name in ["web.ns.svc.cluster.local.", "7.0.96.10.in-addr.arpa."] {
        assert_eq!(ask(&index, name, RecordType::A), Some((ResponseCode::ServFail, BTreeSet::new())));
    }
    assert_eq!(ask(&index, "example.org.", RecordType::A), None);
}

#[test]
fn changes_leave_nothing_behind() {
    let mut index = example();
    let parsed = |value| serde_json::from_value(value).unwrap();
    // From headless to a ClusterIP and on to nothing.
    index.apply_service(&parsed(service("db", json!({"clusterIP": "10.96.0.8"}))));
    assert_eq!(ask(&index, "1.0.1.10.in-addr.arpa.", RecordType::PTR), None);
    assert_eq!(ask(&index, "8.0.96.10.in-addr.arpa.", RecordType::PTR).unwrap().1.len(), 1);
    index.delete_service(&parsed(service("db", json!({}))));
    assert_eq!(ask(&index, "8.0.96.10.in-addr.arpa.", RecordType::PTR).unwrap().0, ResponseCode::NXDomain);
    assert_eq!(ask(&index, "db.ns.svc.cluster.local.", RecordType::A).unwrap().0, ResponseCode::NXDomain);
    // A list that has nothing any more.
    index.services_listed(&Default::default());
    index.slices_listed(&Default::default());
    assert_eq!(index.services(), 0);
    assert!(!index.has_namespace("ns"));
    assert_eq!(format!("{index:?}"), {
        let mut empty = Index::default();
        empty.complete();
        format!("{empty:?}")
    });
}

#[test]
fn a_slice_that_changes_hands_is_the_new_services() {
    let mut index = example();
    let moved = slice("db-1", "empty", "IPv4", json!([{"addresses": ["10.1.0.1"]}]));
    index.apply_slice(&serde_json::from_value(moved).unwrap());
    assert!(ask(&index, "db.ns.svc.cluster.local.", RecordType::A).unwrap().1.is_empty());
    assert_eq!(ask(&index, "empty.ns.svc.cluster.local.", RecordType::A).unwrap().1.len(), 1);
    assert_eq!(ask(&index, "1.0.1.10.in-addr.arpa.", RecordType::PTR).unwrap().1, {
        ["10-1-0-1.empty.ns.svc.cluster.local.".to_owned()].into()
    });
}

#[test]
fn reverse_zones_are_named_by_whole_labels() {
    for (range, zone) in [
        ("10.96.0.0/12", "10.in-addr.arpa."),
        ("10.112.0.0/16", "112.10.in-addr.arpa."),
        ("fd00:111::/32", "1.1.1.0.0.0.d.f.ip6.arpa."),
    ] {
        assert_eq!(arpa(&range.parse().unwrap()).unwrap().to_ascii(), zone);
    }
}
