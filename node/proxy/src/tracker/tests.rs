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
fn an_endpoint_serves_while_it_terminates_even_if_it_is_not_chosen() {
    let mut tracker = Tracker::default();
    let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 8080);
    let leaving = json!({ "ready": false, "serving": true, "terminating": true });
    let gone = json!({ "ready": false, "serving": false, "terminating": true });
    let endpoints = json!([{ "addresses": ["10.0.0.1"] }, { "addresses": ["10.0.0.2"], "conditions": leaving },
        { "addresses": ["10.0.0.3"], "conditions": gone }]);
    tracker.apply_slice(&slice("a", "web", endpoints, http(8080)));
    let serves = |tracker: &Tracker, ip| tracker.serves(&key(), Protocol::Tcp, at(ip));
    assert!(!serves(&tracker, "10.0.0.1"), "there is no such Service yet");
    tracker.apply_service(&web());
    assert_eq!(backends(&tracker), ["10.0.0.1:8080"]);
    assert_eq!(
        ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"].map(|ip| serves(&tracker, ip)),
        [true, true, false, false]
    );
    assert!(!tracker.serves(&key(), Protocol::Udp, at("10.0.0.1")));
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

/// An endpoint of the table below: its state, whether it is on this node, and whom its hints mean.
struct Row {
    state: &'static str,
    here: bool,
    zones: &'static [&'static str],
    nodes: &'static [&'static str],
}

const fn row(state: &'static str, here: bool) -> Row {
    Row { state, here, zones: &[], nodes: &[] }
}

const fn zoned(state: &'static str, here: bool, zones: &'static [&'static str]) -> Row {
    Row { state, here, zones, nodes: &[] }
}

const fn noded(state: &'static str, nodes: &'static [&'static str], zones: &'static [&'static str]) -> Row {
    Row { state, here: false, zones, nodes }
}

/// What `rows`, numbered from 1, leave for policy `Cluster` and for policy `Local`.
fn categorized(rows: &[Row], zone: Option<&str>) -> (Vec<u8>, Vec<u8>) {
    let mut tracker = Tracker::new(Some("here".into()), 0);
    tracker.set_zone(zone.map(Into::into));
    let mut service = web();
    let spec = service.spec.as_mut().unwrap();
    spec.internal_traffic_policy = Some("Local".into());
    tracker.apply_service(&service);
    let endpoints: Vec<Value> = rows
        .iter()
        .enumerate()
        .map(|(n, row)| {
            let (ready, serving, terminating) = match row.state {
                "ready" => (true, true, false),
                "leaving" => (false, true, true),
                "gone" => (false, false, true),
                "unready" => (false, false, false),
                // What `publishNotReadyAddresses` makes of a pod that is not ready.
                "published" => (true, false, false),
                "published-leaving" => (true, false, true),
                other => panic!("{other}"),
            };
            let names = |names: &[&str]| names.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>();
            json!({ "addresses": [format!("10.0.0.{}", n + 1)], "nodeName": if row.here { "here" } else { "there" },
                "conditions": { "ready": ready, "serving": serving, "terminating": terminating },
                "hints": { "forZones": names(row.zones), "forNodes": names(row.nodes) } })
        })
        .collect();
    tracker.apply_slice(&slice("a", "web", json!(endpoints), http(80)));
    let (_, service) = tracker.desired(&key()).swap_remove(0);
    let numbers = |backends: &[crate::Backend]| backends.iter().map(|b| last(b.address.ip())).collect();
    (numbers(&service.cluster), numbers(&service.local))
}

fn last(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    }
}

#[test]
fn endpoints_are_sorted_as_upstreams_proxy_does() {
    const A: &[&str] = &["a"];
    const B: &[&str] = &["b"];
    // Endpoints, the zone of this node, those for policy Cluster, those for policy Local.
    type Case<'a> = (&'a [Row], Option<&'a str>, &'a [u8], &'a [u8]);
    let cases: [Case<'_>; 18] = [
        (&[], None, &[], &[]),
        (&[row("ready", true), row("ready", false)], None, &[1, 2], &[1]),
        (&[row("ready", false)], None, &[1], &[]),
        // Readiness before termination, here and in the cluster by themselves.
        (&[row("leaving", true), row("ready", false)], None, &[2], &[1]),
        (&[row("leaving", true), row("leaving", false)], None, &[1, 2], &[1]),
        (&[row("leaving", false), row("unready", true)], None, &[1], &[]),
        (&[row("gone", true), row("unready", true)], None, &[], &[]),
        (&[row("published", true), row("leaving", true), row("unready", true)], None, &[1], &[1]),
        (&[row("published-leaving", true), row("leaving", true)], None, &[1], &[1]),
        // Hints for zones: only if all ready ones have them and one is for here.
        (&[zoned("ready", true, A), zoned("ready", false, B)], Some("a"), &[1], &[1]),
        (&[zoned("ready", true, A), zoned("ready", false, B)], Some("b"), &[2], &[1]),
        (&[zoned("ready", true, A), zoned("ready", false, B)], Some("c"), &[1, 2], &[1]),
        (&[zoned("ready", true, A), zoned("ready", false, B)], None, &[1, 2], &[1]),
        (&[zoned("ready", true, A), row("ready", false)], Some("a"), &[1, 2], &[1]),
        // Those that are not ready have no say, and the last resort knows no hints.
        (&[zoned("ready", false, A), row("unready", false)], Some("a"), &[1], &[]),
        (&[zoned("leaving", false, B), zoned("leaving", false, A)], Some("a"), &[1, 2], &[]),
        // Hints for nodes go before those for zones, which are followed when no node is meant.
        (&[noded("ready", &["here"], B), noded("ready", &["there"], A)], Some("a"), &[1], &[]),
        (&[noded("ready", &["x"], B), noded("ready", &["there"], A)], Some("a"), &[2], &[]),
    ];
    for (n, (rows, zone, cluster, local)) in cases.into_iter().enumerate() {
        assert_eq!(categorized(rows, zone), (cluster.to_vec(), local.to_vec()), "case {n}");
    }
}

#[test]
fn every_kind_of_frontend_is_read_for_its_family() {
    let mut tracker = Tracker::new(None, 251);
    let mut dual = service(json!({ "type": "LoadBalancer",
        "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"],
        "externalIPs": ["192.0.2.1"], "externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP",
        "loadBalancerSourceRanges": ["203.0.113.77/24", " 2001:db8::/32"],
        "ports": [{ "name": "http", "port": 80, "nodePort": 30080, "targetPort": "web" }] }));
    dual.status = serde_json::from_value(json!({ "loadBalancer": { "ingress": [
        { "ip": "198.51.100.1", "ipMode": "VIP" }, { "ip": "198.51.100.2", "ipMode": "Proxy" },
        { "ip": "2001:db8::5" }, { "hostname": "balancer.example" } ] } }))
    .unwrap();
    tracker.apply_service(&dual);
    let desired = tracker.desired(&key());
    let shown: Vec<Vec<String>> = desired
        .iter()
        .map(|(_, service)| service.frontends.iter().map(|(at, kind)| format!("{kind:?} {at}")).collect())
        .collect();
    assert_eq!(
        shown,
        [
            vec![
                "NodePort 0.0.0.0:30080/TCP",
                "ClusterIP 10.96.0.1:80/TCP",
                "ExternalIP 192.0.2.1:80/TCP",
                "LoadBalancer 198.51.100.1:80/TCP",
            ],
            vec!["NodePort [::]:30080/TCP", "LoadBalancer [2001:db8::5]:80/TCP", "ClusterIP [fd00::1]:80/TCP"],
        ]
    );
    for (n, range) in [("203.0.113.0", 24), ("2001:db8::", 32)].into_iter().enumerate() {
        let service = &desired[n].1;
        assert_eq!(service.source_ranges, [(range.0.parse().unwrap(), range.1)]);
        assert!(service.external_local && !service.internal_local);
        assert_eq!((service.affinity, service.maglev), (Some(10_800), 251));
    }

    // A Service that nobody outside can reach has no policy for them.
    let mut inner = web();
    inner.spec.as_mut().unwrap().external_traffic_policy = Some("Local".into());
    tracker.apply_service(&inner);
    assert!(tracker.desired(&key()).iter().all(|(_, service)| !service.external_local && service.maglev == 0));
}

#[test]
fn a_dual_stack_service_has_the_endpoints_of_each_family_and_none_by_name() {
    let mut tracker = Tracker::default();
    tracker.apply_service(&service(json!({ "clusterIPs": ["10.96.0.1", "fd00::1"],
        "ports": [{ "name": "http", "port": 80 }] })));
    tracker.apply_slice(&slice("four", "web", json!([{ "addresses": ["10.0.0.1"] }]), http(80)));
    let mut six = slice("six", "web", json!([{ "addresses": ["fd00::9"] }]), http(80));
    six.address_type = "IPv6".into();
    tracker.apply_slice(&six);
    let mut named = slice("named", "web", json!([{ "addresses": ["example.com"] }]), http(80));
    named.address_type = "FQDN".into();
    tracker.apply_slice(&named);
    let backends: Vec<Vec<String>> = tracker
        .desired(&key())
        .iter()
        .map(|(_, service)| service.cluster.iter().map(|backend| backend.address.to_string()).collect())
        .collect();
    assert_eq!(backends, [["10.0.0.1:80"], ["[fd00::9]:80"]]);
}

#[test]
fn balancers_hear_how_many_ready_endpoints_are_here() {
    let mut tracker = Tracker::new(Some("here".into()), 0);
    let local = |policy: &str| {
        service(json!({ "type": "LoadBalancer", "clusterIPs": ["10.96.0.1"], "externalTrafficPolicy": policy,
            "healthCheckNodePort": 30_500, "ports": [{ "name": "http", "port": 80 }] }))
    };
    tracker.apply_service(&local("Local"));
    assert_eq!(tracker.health(&key()), Some(ServiceHealth { port: 30_500, local: 0 }));
    let endpoints = json!([
        { "addresses": ["10.0.0.1"], "nodeName": "here" },
        { "addresses": ["10.0.0.2"], "nodeName": "here", "conditions": { "ready": false, "serving": true, "terminating": true } },
        { "addresses": ["10.0.0.3"], "nodeName": "there" },
        { "addresses": ["10.0.0.4"] },
    ]);
    tracker.apply_slice(&slice("a", "web", endpoints, http(80)));
    let again =
        json!([{ "addresses": ["10.0.0.1"], "nodeName": "here" }, { "addresses": ["10.0.0.5"], "nodeName": "here" }]);
    tracker.apply_slice(&slice("b", "web", again, http(81)));
    assert_eq!(tracker.health(&key()), Some(ServiceHealth { port: 30_500, local: 2 }), "an address counts once");
    tracker.apply_service(&local("Cluster"));
    assert_eq!(tracker.health(&key()), None);
}

/// Address and places of each backend of the Service, whose annotation is that.
fn weighted(tracker: &mut Tracker, weights: &str) -> Vec<(u8, u32)> {
    let mut service = web();
    service.metadata.annotations = Some([("skep.dev/zone-weights".to_owned(), weights.to_owned())].into());
    tracker.apply_service(&service);
    let (_, service) = tracker.desired(&key()).swap_remove(0);
    service.weighted().map(|(backend, places)| (last(backend.address.ip()), places)).collect()
}

#[test]
fn zones_get_the_shares_that_an_annotation_gives_them() {
    let mut tracker = Tracker::default();
    let endpoints = json!([{ "addresses": ["10.0.0.1"], "zone": "a" }, { "addresses": ["10.0.0.2"], "zone": "b" },
        { "addresses": ["10.0.0.3"], "zone": "b" }, { "addresses": ["10.0.0.4"], "zone": "" }]);
    tracker.apply_slice(&slice("a", "web", endpoints, http(80)));
    assert_eq!(weighted(&mut tracker, ""), [(1, 1), (2, 1), (3, 1), (4, 1)]);
    assert_eq!(weighted(&mut tracker, "a=3,b=2"), [(1, 3), (2, 1), (3, 1), (4, 1)]);
    assert_eq!(weighted(&mut tracker, "b=0"), [(1, 1), (4, 1)], "b is drained");
    assert_eq!(weighted(&mut tracker, "a=3,b"), [(1, 1), (2, 1), (3, 1), (4, 1)]);
    assert_eq!(tracker.problems(&key()), ["skep.dev/zone-weights: \"b\" is not ZONE=WEIGHT"]);
    assert!(!weighted(&mut tracker, "a=3").is_empty() && tracker.problems(&key()).is_empty());
}

#[test]
fn hints_and_policies_come_before_the_weights_of_zones() {
    let mut tracker = Tracker::new(Some("here".into()), 0);
    tracker.set_zone(Some("a".into()));
    let hinted = |ip: &str, zone: &str, to: &str| json!({ "addresses": [ip], "zone": zone, "nodeName": "here", "hints": { "forZones": [{ "name": to }] } });
    let endpoints = json!([hinted("10.0.0.1", "a", "a"), hinted("10.0.0.2", "b", "a"), hinted("10.0.0.3", "b", "b")]);
    tracker.apply_slice(&slice("a", "web", endpoints, http(80)));
    assert_eq!(weighted(&mut tracker, "a=5,b=0"), [(1, 1), (2, 1)], "as the hints have it");
    tracker.set_zone(Some("c".into()));
    assert_eq!(weighted(&mut tracker, "a=5,b=0"), [(1, 1)], "no hint is for here");
    let (_, service) = tracker.desired(&key()).swap_remove(0);
    assert!(service.local.is_empty(), "no policy asks for them");
    let mut local = web();
    local.metadata.annotations = Some([("skep.dev/zone-weights".to_owned(), "a=5,b=0".to_owned())].into());
    local.spec.as_mut().unwrap().internal_traffic_policy = Some("Local".into());
    tracker.apply_service(&local);
    let (_, service) = tracker.desired(&key()).swap_remove(0);
    assert_eq!(service.local.len(), 3, "on this node all are alike");
}

#[test]
fn source_ranges_keep_out_if_an_annotation_says_so() {
    let mut tracker = Tracker::default();
    let mut balanced = service(json!({ "type": "LoadBalancer", "clusterIPs": ["10.96.0.1"],
        "loadBalancerSourceRanges": ["203.0.113.0/24"], "ports": [{ "name": "http", "port": 80 }] }));
    for (word, denies, problems) in [("allow", false, 0), ("deny", true, 0), ("never", false, 1)] {
        balanced.metadata.annotations = Some([("skep.dev/src-ranges-policy".to_owned(), word.to_owned())].into());
        tracker.apply_service(&balanced);
        let (_, service) = tracker.desired(&key()).swap_remove(0);
        assert_eq!((service.source_ranges.len(), service.deny_ranges), (1, denies), "{word}");
        assert_eq!(tracker.problems(&key()).len(), problems, "{word}");
    }
}
