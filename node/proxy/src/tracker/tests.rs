use serde_json::{Value, json};

use super::*;

fn service(spec: Value) -> core::Service {
    serde_json::from_value(json!({ "metadata": { "namespace": "ns", "name": "web" }, "spec": spec })).unwrap()
}

fn web() -> core::Service {
    service(json!({ "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [
        { "name": "http", "port": 80, "targetPort": "web", "protocol": "TCP" },
        { "name": "dns", "port": 53, "protocol": "UDP" },
    ]}))
}

fn slice(name: &str, service: &str, endpoints: Value, ports: Value) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": { "namespace": "ns", "name": name, "labels": { "kubernetes.io/service-name": service } },
        "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
    }))
    .unwrap()
}

fn http(port: u16) -> Value {
    json!([{ "name": "http", "port": port, "protocol": "TCP" }])
}

fn key() -> ServiceKey {
    ServiceKey { namespace: "ns".into(), name: "web".into() }
}

/// Backends of the port 80 of `tracker`'s Service.
fn backends(tracker: &Tracker) -> Vec<String> {
    let desired = tracker.desired(&key());
    let http = |service: &Service| service.frontends.keys().any(|frontend| frontend.port == 80);
    let (_, service) = desired.iter().find(|(_, service)| http(service)).unwrap();
    let chosen = if service.internal_local { &service.local } else { &service.cluster };
    chosen.iter().map(|backend| backend.address.to_string()).collect()
}

#[test]
fn ports_are_matched_by_name_and_protocol_and_take_the_slices_number() {
    let mut tracker = Tracker::default();
    assert_eq!(tracker.apply_service(&web()), Some(key()));
    let ports = json!([{ "name": "http", "port": 8080 }, { "name": "dns", "port": 5353, "protocol": "UDP" }]);
    tracker.apply_slice(&slice("a", "web", json!([{ "addresses": ["10.0.0.1"] }]), ports));
    let desired = tracker.desired(&key());
    assert_eq!(desired.len(), 2);
    let shown = |(port, service): &(ServicePort, Service)| {
        let frontends: Vec<String> = service.frontends.keys().map(ToString::to_string).collect();
        let backends: Vec<String> = service.cluster.iter().map(|backend| backend.address.to_string()).collect();
        format!("{port} {} {}", frontends.join(","), backends.join(","))
    };
    assert_eq!(shown(&desired[0]), "ns/web:http (IPv4) 10.96.0.1:80/TCP 10.0.0.1:8080");
    assert_eq!(shown(&desired[1]), "ns/web:dns (IPv4) 10.96.0.1:53/UDP 10.0.0.1:5353");
}

#[test]
fn several_slices_are_merged_and_an_endpoint_counts_once_with_its_best_state() {
    let mut tracker = Tracker::default();
    tracker.apply_service(&web());
    let not_ready = json!([{ "addresses": ["10.0.0.1"], "conditions": { "ready": false } }]);
    let both = json!([{ "addresses": ["10.0.0.1"] }, { "addresses": ["10.0.0.2"] }]);
    tracker.apply_slice(&slice("a", "web", not_ready, http(80)));
    tracker.apply_slice(&slice("b", "web", both, http(80)));
    assert_eq!(backends(&tracker), ["10.0.0.1:80", "10.0.0.2:80"]);
    let b = ServiceKey { namespace: "ns".into(), name: "b".into() };
    assert_eq!(tracker.delete_slice(&b), Some(key()));
    assert_eq!(tracker.delete_slice(&b), None);
    assert_eq!(backends(&tracker), [""; 0]);
}

#[test]
fn terminating_endpoints_that_serve_are_used_only_when_none_is_ready() {
    let mut tracker = Tracker::default();
    tracker.apply_service(&web());
    let leaving = json!({ "addresses": ["10.0.0.1"],
        "conditions": { "ready": false, "serving": true, "terminating": true } });
    let gone = json!({ "addresses": ["10.0.0.2"],
        "conditions": { "ready": false, "serving": false, "terminating": true } });
    let starting = json!({ "addresses": ["10.0.0.3"],
        "conditions": { "ready": false, "serving": true, "terminating": false } });
    let ready = json!({ "addresses": ["10.0.0.4"], "conditions": { "ready": true } });
    tracker.apply_slice(&slice("a", "web", json!([leaving, gone, starting]), http(80)));
    assert_eq!(backends(&tracker), ["10.0.0.1:80"]);
    tracker.apply_slice(&slice("a", "web", json!([leaving, gone, starting, ready]), http(80)));
    assert_eq!(backends(&tracker), ["10.0.0.4:80"]);
}

#[test]
fn headless_external_name_and_foreign_services_are_left_out() {
    let mut tracker = Tracker::default();
    let ports = json!([{ "port": 80 }]);
    for spec in [
        json!({ "clusterIP": "None", "clusterIPs": ["None"], "ports": ports }),
        json!({ "type": "ExternalName", "externalName": "example.com", "ports": ports }),
        json!({ "clusterIP": "", "ports": ports }),
    ] {
        assert_eq!(tracker.apply_service(&service(spec.clone())), None, "{spec}");
    }
    for label in [SERVICE_PROXY_NAME, HEADLESS] {
        let mut foreign = web();
        foreign.metadata.labels = Some([(label.to_owned(), String::new())].into());
        assert_eq!(tracker.apply_service(&foreign), None);
    }
    assert!(tracker.desired(&key()).is_empty());
}

#[test]
fn a_service_that_becomes_headless_is_given_up() {
    let mut tracker = Tracker::default();
    tracker.apply_service(&web());
    assert_eq!(tracker.apply_service(&service(json!({ "type": "ExternalName" }))), Some(key()));
    assert!(tracker.desired(&key()).is_empty());
}

#[test]
fn what_changes_nothing_is_not_reported() {
    let mut tracker = Tracker::default();
    tracker.apply_service(&web());
    let mut same = web();
    same.metadata.resource_version = Some("7".into());
    assert_eq!(tracker.apply_service(&same), None);
    let one = slice("a", "web", json!([{ "addresses": ["10.0.0.1"] }]), http(80));
    assert_eq!(tracker.apply_slice(&one), [key()]);
    assert!(tracker.apply_slice(&one).is_empty());
}

#[test]
fn a_slice_that_changes_hands_leaves_its_former_service() {
    let mut tracker = Tracker::default();
    tracker.apply_service(&web());
    let endpoints = json!([{ "addresses": ["10.0.0.1"] }]);
    tracker.apply_slice(&slice("a", "web", endpoints.clone(), http(80)));
    let other = ServiceKey { namespace: "ns".into(), name: "other".into() };
    assert_eq!(tracker.apply_slice(&slice("a", "other", endpoints, http(80))), [key(), other]);
    assert_eq!(backends(&tracker), [""; 0]);
}

#[test]
fn internal_traffic_policy_local_keeps_to_this_node() {
    let mut tracker = Tracker::new(Some("here".into()), 0);
    let mut local = web();
    local.spec.as_mut().unwrap().internal_traffic_policy = Some("Local".into());
    tracker.apply_service(&local);
    let endpoints = json!([{ "addresses": ["10.0.0.1"], "nodeName": "here" },
                           { "addresses": ["10.0.0.2"], "nodeName": "there" }, { "addresses": ["10.0.0.3"] }]);
    tracker.apply_slice(&slice("a", "web", endpoints, http(80)));
    assert_eq!(backends(&tracker), ["10.0.0.1:80"]);
}

#[test]
fn slices_of_other_address_types_and_ports_without_number_are_left_out() {
    let mut tracker = Tracker::default();
    tracker.apply_service(&web());
    let mut six = slice("six", "web", json!([{ "addresses": ["10.0.0.9"] }]), http(80));
    six.address_type = "IPv6".into();
    tracker.apply_slice(&six);
    let ports = json!([{ "name": "http" }]);
    tracker.apply_slice(&slice("a", "web", json!([{ "addresses": ["10.0.0.1"] }]), ports));
    assert_eq!(backends(&tracker), [""; 0]);
}
