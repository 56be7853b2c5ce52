use std::collections::HashSet;
use std::sync::Mutex;

use serde_json::json;
use skep_api::field::Error;

use super::*;
use crate::user::UserInfo;

mod dual_stack;

/// Services of a cluster with these ranges, `10.96.0.0/24,fd00::/112`.
fn services(cidrs: &str, taken: &[&str]) -> Services {
    let taken: Mutex<HashSet<String>> = Mutex::new(taken.iter().map(|s| (*s).to_owned()).collect());
    let is_taken = Box::new(move |key: &str| taken.lock().unwrap().contains(key));
    let configured: Vec<ipnet::IpNet> = cidrs.split(',').map(|cidr| cidr.parse().unwrap()).collect();
    let networks = configured.clone();
    let allocators = Allocators::new(&configured, Box::new(move || networks.clone()), 30000..=30003, is_taken);
    Services::new(Some(Arc::new(allocators)))
}

fn service(spec: Value) -> Service {
    serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec})).unwrap()
}

fn ctx(user: &UserInfo) -> Context<'_> {
    Context { user, namespace: Some("default"), now: Timestamp::UNIX_EPOCH, dry_run: false }
}

fn prepared(strategy: &Services, spec: Value) -> Service {
    let user = UserInfo::master("test");
    let mut service = service(spec);
    strategy.default(&mut service);
    strategy.prepare_for_create(&ctx(&user), &mut service);
    service
}

fn created(strategy: &Services, spec: Value) -> (Service, Reservation) {
    let mut service = prepared(strategy, spec);
    assert_eq!(strategy.validate(&service), []);
    assert_eq!(strategy.validate_create(&service), []);
    let mut reservation = Reservation::default();
    strategy.reserve(Change::Create { object: &mut service }, &mut reservation).unwrap();
    (service, reservation)
}

fn updated(strategy: &Services, spec: Value, old: &Service) -> (Service, Errors, Reservation) {
    let user = UserInfo::master("test");
    let mut new = service(spec);
    strategy.default(&mut new);
    strategy.prepare_for_update(&ctx(&user), &mut new, old);
    let mut errors = strategy.validate(&new);
    errors.extend(strategy.validate_update(&new, old));
    let mut reservation = Reservation::default();
    if errors.is_empty() {
        strategy.reserve(Change::Update { object: &mut new, old }, &mut reservation).unwrap();
    }
    (new, errors, reservation)
}

fn problems(spec: Value) -> Vec<String> {
    problems_in("10.96.0.0/24", spec)
}

fn problems_in(cidrs: &str, spec: Value) -> Vec<String> {
    let strategy = services(cidrs, &[]);
    let service = prepared(&strategy, spec);
    let mut errors = strategy.validate(&service);
    errors.extend(strategy.validate_create(&service));
    errors.iter().map(Error::to_string).collect()
}

#[test]
fn a_plain_service_gets_an_address_and_upstreams_defaults() {
    let (service, reservation) =
        created(&services("10.96.0.0/24", &[]), json!({"ports": [{"port": 80}], "selector": {"a": "b"}}));
    let spec = service.spec.unwrap();
    let ip = spec.cluster_ip.clone().unwrap();
    assert_eq!(
        serde_json::to_value(&spec).unwrap(),
        json!({
            "clusterIP": ip, "clusterIPs": [ip], "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
            "selector": {"a": "b"}, "sessionAffinity": "None", "type": "ClusterIP",
        })
    );
    let (key, value) = &reservation.take[0];
    assert_eq!(key, &format!("/registry/ipaddresses/{ip}"));
    let object: Value = serde_json::from_slice(value).unwrap();
    assert_eq!(
        object["spec"]["parentRef"],
        json!({"group": "", "resource": "services", "namespace": "default", "name": "web"})
    );
    assert!(ip.rsplit('.').next().unwrap().parse::<u8>().unwrap() > 16, "{ip} should come from the upper part");
}

#[test]
fn only_free_addresses_are_given_until_there_are_none() {
    let key = |last: u8| format!("/registry/ipaddresses/10.0.0.{last}");
    let strategy = services("10.0.0.0/30", &[&key(1)]);
    let (service, _) = created(&strategy, json!({"ports": [{"port": 80}]}));
    assert_eq!(service.spec.unwrap().cluster_ip.as_deref(), Some("10.0.0.2"));
    let mut service = prepared(&strategy, json!({"ports": [{"port": 80}]}));
    // What is known to be taken is tried when nothing else is left: it may have come free.
    let mut reservation = Reservation { lost: vec![key(2)], ..Default::default() };
    strategy.reserve(Change::Create { object: &mut service }, &mut reservation).unwrap();
    assert_eq!(reservation.take[0].0, key(1));
    let mut service = prepared(&strategy, json!({"ports": [{"port": 80}]}));
    let mut reservation = Reservation { lost: vec![key(1), key(2)], ..Default::default() };
    let error = strategy.reserve(Change::Create { object: &mut service }, &mut reservation).unwrap_err();
    assert!(error.message().contains("range is full"));
}

#[test]
fn an_address_asked_for_is_given_unless_it_is_taken_or_elsewhere() {
    let strategy = services("10.96.0.0/24", &[]);
    let (service, _) = created(&strategy, json!({"clusterIP": "10.96.0.1", "ports": [{"port": 443}]}));
    assert_eq!(service.spec.unwrap().cluster_ips, Some(vec!["10.96.0.1".to_owned()]));
    for (ip, lost, why) in [
        ("10.96.0.1", vec!["/registry/ipaddresses/10.96.0.1".to_owned()], "provided IP is already allocated"),
        ("10.97.0.1", vec![], "the provided network does not match the current range"),
    ] {
        let mut service = prepared(&strategy, json!({"clusterIP": ip, "ports": [{"port": 443}]}));
        let mut reservation = Reservation { lost, ..Default::default() };
        let error = strategy.reserve(Change::Create { object: &mut service }, &mut reservation).unwrap_err();
        assert_eq!(error.code(), 422);
        assert!(error.message().starts_with(&format!(
            "Service \"web\" is invalid: spec.clusterIPs: Invalid value: [\"{ip}\"]: failed to allocate IP {ip}: "
        )));
        assert!(error.message().ends_with(why), "{}", error.message());
    }
}

#[test]
fn headless_and_external_services_hold_nothing() {
    let strategy = services("10.96.0.0/24", &[]);
    let (service, reservation) = created(&strategy, json!({"clusterIP": "None", "selector": {"a": "b"}}));
    assert!(reservation.take.is_empty());
    assert_eq!(service.spec.as_ref().unwrap().ip_families, Some(vec!["IPv4".to_owned()]));
    assert_eq!(strategy.row(&service, Timestamp::UNIX_EPOCH)[2], "None");
    let (service, reservation) = created(&strategy, json!({"type": "ExternalName", "externalName": "example.com"}));
    assert!(reservation.take.is_empty());
    assert_eq!(strategy.row(&service, Timestamp::UNIX_EPOCH)[3], "example.com");
    assert_eq!(service.spec.unwrap().ip_families, None);
}

#[test]
fn node_ports_are_distinct_and_in_range() {
    let strategy = services("10.96.0.0/24", &["/registry/ranges/servicenodeports/30001"]);
    let (service, reservation) = created(
        &strategy,
        json!({"type": "NodePort", "ports": [{"name": "a", "port": 1}, {"name": "b", "port": 2}, {"name": "c", "port": 3, "nodePort": 30002}]}),
    );
    let ports: HashSet<i32> =
        service.spec.as_ref().unwrap().ports.iter().flatten().filter_map(|p| p.node_port).collect();
    assert_eq!(ports, HashSet::from([30000, 30002, 30003]));
    assert_eq!(reservation.take.len(), 4);
    let mut bad = prepared(&strategy, json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 80}]}));
    let error = strategy.reserve(Change::Create { object: &mut bad }, &mut Reservation::default()).unwrap_err();
    assert_eq!(
        error.message(),
        "Service \"web\" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. \
         The range of valid ports is 30000-30003"
    );
}

#[test]
fn what_was_allocated_stays_through_updates_and_goes_with_its_type() {
    let strategy = services("10.96.0.0/24", &[]);
    let (old, _) = created(&strategy, json!({"type": "NodePort", "ports": [{"port": 80}]}));
    let before = old.spec.clone().unwrap();
    let (new, errors, reservation) =
        updated(&strategy, json!({"type": "NodePort", "ports": [{"port": 80, "targetPort": 8080}]}), &old);
    assert_eq!(errors, []);
    let after = new.spec.clone().unwrap();
    assert_eq!(after.cluster_ip, before.cluster_ip);
    assert_eq!(after.ports.unwrap()[0].node_port, before.ports.as_ref().unwrap()[0].node_port);
    assert!(reservation.take.is_empty() && reservation.release.is_empty());

    let mut as_cluster_ip = serde_json::to_value(&before).unwrap();
    as_cluster_ip["type"] = json!("ClusterIP");
    let (new, errors, reservation) = updated(&strategy, as_cluster_ip, &old);
    assert_eq!(errors, []);
    let after = new.spec.clone().unwrap();
    assert_eq!(after.ports.unwrap()[0].node_port, None);
    assert_eq!(after.external_traffic_policy, None);
    assert_eq!(reservation.release.len(), 1);

    let mut reservation = Reservation::default();
    strategy.reserve(Change::Delete { old: &old }, &mut reservation).unwrap();
    assert_eq!(reservation.release.len(), 2);
}

#[test]
fn an_address_does_not_change() {
    let strategy = services("10.96.0.0/24", &[]);
    let (old, _) = created(&strategy, json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}]}));
    let (_, errors, _) = updated(&strategy, json!({"clusterIP": "10.96.0.8", "ports": [{"port": 80}]}), &old);
    assert_eq!(
        errors.iter().map(Error::to_string).collect::<Vec<_>>(),
        ["spec.clusterIPs[0]: Invalid value: [\"10.96.0.8\"]: may not change once set"]
    );
}

#[test]
fn bad_services_are_refused_in_upstreams_words() {
    assert_eq!(problems(json!({})), ["spec.ports: Required value"]);
    assert_eq!(
        problems(json!({"ports": [{"port": 80}, {"port": 80}]})),
        [
            "spec.ports[0].name: Required value",
            "spec.ports[1].name: Required value",
            "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}",
        ]
    );
    assert_eq!(
        problems(json!({"type": "Odd", "ports": [{"port": 0}]})),
        [
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.type: Unsupported value: \"Odd\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \
             \"NodePort\"",
        ]
    );
    assert_eq!(
        problems(json!({"ports": [{"port": 80, "nodePort": 30000}]})),
        ["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"]
    );
    assert_eq!(
        problems(json!({"ports": [{"port": 80}], "ipFamilyPolicy": "RequireDualStack"})),
        [
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services"
        ]
    );
    assert_eq!(problems(json!({"type": "ExternalName"})), ["spec.externalName: Required value"]);
}

#[test]
fn sticky_sessions_last_three_hours() {
    let (service, _) =
        created(&services("10.96.0.0/24", &[]), json!({"sessionAffinity": "ClientIP", "ports": [{"port": 80}]}));
    let spec = serde_json::to_value(service.spec).unwrap();
    assert_eq!(spec["sessionAffinityConfig"], json!({"clientIP": {"timeoutSeconds": 10800}}));
}

#[test]
fn rows_show_addresses_and_ports() {
    let strategy = services("10.96.0.0/24", &[]);
    let row = |spec: Value| strategy.row(&service(spec), Timestamp::UNIX_EPOCH);
    assert_eq!(
        row(
            json!({"type": "LoadBalancer", "clusterIPs": ["10.96.0.9"], "ports": [{"port": 80, "nodePort": 30000, "protocol": "TCP"}]})
        ),
        [
            json!("web"),
            json!("LoadBalancer"),
            json!("10.96.0.9"),
            json!("<pending>"),
            json!("80:30000/TCP"),
            json!("<unknown>"),
            json!("<none>")
        ]
    );
}
