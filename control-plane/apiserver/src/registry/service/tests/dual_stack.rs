//! Services with addresses of two families, in clusters of each kind. KEP-563.

use super::*;

const V4: &str = "10.96.0.0/24";
const V6: &str = "fd00::/112";
const BOTH: &str = "10.96.0.0/24,fd00::/112";
const BOTH_V6_FIRST: &str = "fd00::/112,10.96.0.0/24";

/// Policy, families and the families of the addresses of a service that is created from `spec`.
fn stacks(cidrs: &str, spec: Value) -> (String, Vec<String>, Vec<&'static str>) {
    let (service, reservation) = created(&services(cidrs, &[]), spec);
    let spec = service.spec.unwrap();
    let addresses: Vec<std::net::IpAddr> = spec.cluster_ips.iter().flatten().filter_map(|ip| ip.parse().ok()).collect();
    let taken: Vec<_> = reservation.take.iter().filter(|(key, _)| key.starts_with(ADDRESS_PREFIX)).collect();
    assert_eq!(taken.len(), addresses.len());
    for ((key, value), address) in taken.into_iter().zip(&addresses) {
        assert_eq!(key, &format!("/registry/ipaddresses/{address}"));
        let object: Value = serde_json::from_slice(value).unwrap();
        assert_eq!(object["metadata"]["labels"]["ipaddress.kubernetes.io/ip-family"], families::family_of(address));
    }
    if let Some(first) = spec.cluster_ips.iter().flatten().next() {
        assert_eq!(spec.cluster_ip.as_ref(), Some(first));
    }
    let families = addresses.iter().map(families::family_of).collect();
    (spec.ip_family_policy.unwrap_or_default(), spec.ip_families.unwrap_or_default(), families)
}

/// Errors of an update.
fn refused(strategy: &Services, spec: Value, old: &Service) -> Vec<String> {
    updated(strategy, spec, old).1.iter().map(Error::to_string).collect()
}

fn with(spec: &Service, changes: Value) -> Value {
    let mut spec = serde_json::to_value(&spec.spec).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

fn ips(service: &Service) -> Vec<String> {
    service.spec.as_ref().unwrap().cluster_ips.clone().unwrap_or_default()
}

fn families(service: &Service) -> Vec<String> {
    service.spec.as_ref().unwrap().ip_families.clone().unwrap_or_default()
}

#[test]
fn a_service_gets_the_families_its_policy_and_the_cluster_allow() {
    let (v4, v6) = ("IPv4", "IPv6");
    let ports = |mut spec: Value| {
        spec["ports"] = json!([{"port": 80}]);
        spec
    };
    for (cidrs, spec, policy, families) in [
        (V4, json!({}), "SingleStack", &[v4][..]),
        (V6, json!({}), "SingleStack", &[v6]),
        (BOTH, json!({}), "SingleStack", &[v4]),
        (BOTH_V6_FIRST, json!({}), "SingleStack", &[v6]),
        (BOTH, json!({"ipFamilies": [v6]}), "SingleStack", &[v6]),
        (BOTH, json!({"type": "NodePort", "ipFamilies": [v6]}), "SingleStack", &[v6]),
        (V4, json!({"ipFamilyPolicy": "PreferDualStack"}), "PreferDualStack", &[v4]),
        (V6, json!({"ipFamilyPolicy": "PreferDualStack"}), "PreferDualStack", &[v6]),
        (BOTH, json!({"ipFamilyPolicy": "PreferDualStack"}), "PreferDualStack", &[v4, v6]),
        (BOTH, json!({"ipFamilyPolicy": "RequireDualStack"}), "RequireDualStack", &[v4, v6]),
        (BOTH_V6_FIRST, json!({"ipFamilyPolicy": "RequireDualStack"}), "RequireDualStack", &[v6, v4]),
        (BOTH, json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": [v6]}), "RequireDualStack", &[v6, v4]),
        (BOTH, json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": [v6, v4]}), "PreferDualStack", &[v6, v4]),
        (BOTH, json!({"clusterIP": "fd00::77", "clusterIPs": ["fd00::77"]}), "SingleStack", &[v6]),
        (BOTH, json!({"clusterIP": "fd00::77"}), "SingleStack", &[v6]),
        (BOTH, json!({"clusterIP": "fd00::77", "ipFamilyPolicy": "PreferDualStack"}), "PreferDualStack", &[v6, v4]),
    ] {
        let (got, got_families, addresses) = stacks(cidrs, ports(spec.clone()));
        assert_eq!(got, policy, "{cidrs} {spec}");
        assert_eq!(got_families, families, "{cidrs} {spec}");
        assert_eq!(addresses, families, "{cidrs} {spec}");
    }
}

#[test]
fn both_addresses_may_be_asked_for_as_they_are_written() {
    let (service, reservation) = created(
        &services(BOTH, &[]),
        json!({"ports": [{"port": 80}], "ipFamilyPolicy": "RequireDualStack",
            "clusterIP": "fd00:0::7", "clusterIPs": ["fd00:0::7", "10.96.0.7"]}),
    );
    assert_eq!(ips(&service), ["fd00:0::7", "10.96.0.7"]);
    assert_eq!(families(&service), ["IPv6", "IPv4"]);
    let keys: Vec<_> = reservation.take.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["/registry/ipaddresses/fd00::7", "/registry/ipaddresses/10.96.0.7"]);
}

#[test]
fn headless_services_have_families_but_no_addresses() {
    let headless = |mut spec: Value| {
        spec["clusterIP"] = json!("None");
        spec
    };
    let selector = json!({"a": "b"});
    for (cidrs, spec, policy, families) in [
        (V4, json!({"selector": selector}), "SingleStack", &["IPv4"][..]),
        (V6, json!({"selector": selector}), "SingleStack", &["IPv6"]),
        (BOTH, json!({"selector": selector}), "SingleStack", &["IPv4"]),
        (
            BOTH,
            json!({"selector": selector, "ipFamilyPolicy": "PreferDualStack"}),
            "PreferDualStack",
            &["IPv4", "IPv6"],
        ),
        (V4, json!({"selector": selector, "ipFamilyPolicy": "PreferDualStack"}), "PreferDualStack", &["IPv4"]),
        // Without a selector the endpoints may be of any family, whatever the cluster has.
        (V4, json!({}), "RequireDualStack", &["IPv4", "IPv6"]),
        (V6, json!({}), "RequireDualStack", &["IPv6", "IPv4"]),
        (V4, json!({"ipFamilyPolicy": "PreferDualStack"}), "PreferDualStack", &["IPv4", "IPv6"]),
        (V4, json!({"ipFamilyPolicy": "SingleStack"}), "SingleStack", &["IPv4"]),
        (V4, json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv6"]}), "SingleStack", &["IPv6"]),
    ] {
        let (got, got_families, addresses) = stacks(cidrs, headless(spec.clone()));
        assert_eq!(
            (got.as_str(), &got_families[..]),
            (policy, &families.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>()[..]),
            "{cidrs} {spec}"
        );
        assert!(addresses.is_empty());
    }
}

#[test]
fn what_the_cluster_does_not_have_is_refused_in_upstreams_words() {
    let ports = json!([{"port": 80}]);
    assert_eq!(
        problems_in(V4, json!({"ports": ports, "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]})),
        [
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack \
             services",
            "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
        ]
    );
    assert_eq!(
        problems_in(V4, json!({"ports": ports, "clusterIP": "fd00::1"})),
        ["spec.clusterIPs[0]: Invalid value: [\"fd00::1\"]: IPv6 is not configured on this cluster"]
    );
    assert_eq!(
        problems_in(
            V4,
            json!({"ports": ports, "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
                "ipFamilyPolicy": "PreferDualStack"})
        ),
        ["spec.clusterIPs[1]: Invalid value: [\"10.96.0.1\",\"fd00::1\"]: IPv6 is not configured on this cluster"]
    );
    assert_eq!(
        problems_in(V6, json!({"ports": ports, "ipFamilies": ["IPv4"]})),
        ["spec.ipFamilies[0]: Invalid value: \"IPv4\": not configured on this cluster"]
    );
    assert_eq!(
        problems_in(V4, json!({"clusterIP": "None", "selector": {"a": "b"}, "ipFamilyPolicy": "RequireDualStack"})),
        ["spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack \
             services"]
    );
}

#[test]
fn what_contradicts_itself_is_refused_in_upstreams_words() {
    let list = |ips: &[&str]| {
        json!({"ports": [{"port": 80}], "clusterIP": ips[0], "clusterIPs": ips,
        "ipFamilyPolicy": "PreferDualStack"})
    };
    let but = |mut spec: Value, key: &str, value: Value| {
        spec[key] = value;
        spec
    };
    let pair = ["10.96.0.7", "fd00::7"];
    for (spec, expected) in [
        (
            but(list(&pair), "ipFamilyPolicy", json!("SingleStack")),
            "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when \
             multiple cluster IPs are specified",
        ),
        (
            json!({"ports": [{"port": 80}], "ipFamilies": ["IPv4", "IPv6"]}),
            "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when \
             multiple IP families are specified",
        ),
        (
            list(&["10.96.0.7", "10.96.0.8"]),
            "spec.clusterIPs: Invalid value: [\"10.96.0.7\",\"10.96.0.8\"]: may specify no more than one IP for each IP \
             family",
        ),
        (
            list(&["10.96.0.7", "fd00::7", "fd00::8"]),
            "spec.clusterIPs: Invalid value: [\"10.96.0.7\",\"fd00::7\",\"fd00::8\"]: may only hold up to 2 values",
        ),
        (
            but(list(&pair), "ipFamilies", json!(["IPv6", "IPv4"])),
            "spec.clusterIPs[0]: Invalid value: \"10.96.0.7\": expected an IPv6 value as indicated by `ipFamilies[0]`",
        ),
        (
            but(list(&pair), "clusterIP", json!("10.96.0.8")),
            "spec.clusterIPs: Invalid value: [\"10.96.0.7\",\"fd00::7\"]: first value must match `clusterIP`",
        ),
        (
            but(list(&pair), "clusterIP", json!("")),
            "spec.clusterIPs: Invalid value: [\"10.96.0.7\",\"fd00::7\"]: must be empty when `clusterIP` is not \
             specified",
        ),
        (
            list(&["None", "fd00::7"]),
            "spec.clusterIPs: Invalid value: [\"None\",\"fd00::7\"]: 'None' must be the first and only value",
        ),
        (
            list(&["10.96.0.7", "fd00::g"]),
            "spec.clusterIPs[1]: Invalid value: \"fd00::g\": must be a valid IP address, (e.g. 10.9.8.7 or \
             2001:db8::ffff)",
        ),
        (but(list(&pair), "ipFamilies", json!(["IPv4", "IPv4"])), "spec.ipFamilies[1]: Duplicate value: \"IPv4\""),
        (
            but(list(&pair), "ipFamilies", json!(["IPv5"])),
            "spec.ipFamilies[0]: Unsupported value: \"IPv5\": supported values: \"IPv4\", \"IPv6\"",
        ),
        (
            but(list(&pair), "ipFamilyPolicy", json!("Both")),
            "spec.ipFamilyPolicy: Unsupported value: \"Both\": supported values: \"PreferDualStack\", \
             \"RequireDualStack\", \"SingleStack\"",
        ),
    ] {
        let problems = problems_in(BOTH, spec.clone());
        assert!(problems.contains(&expected.to_owned()), "{spec}: {problems:?}");
    }
    assert_eq!(
        problems_in(
            BOTH,
            json!({"type": "ExternalName", "externalName": "a.example", "ipFamilyPolicy": "SingleStack",
            "ipFamilies": ["IPv4"], "clusterIP": "10.96.0.1"})
        ),
        [
            "spec.clusterIPs: Forbidden: may not be set for ExternalName services",
            "spec.ipFamilies: Forbidden: may not be set for ExternalName services",
            "spec.ipFamilyPolicy: Forbidden: may not be set for ExternalName services",
        ]
    );
}

#[test]
fn a_service_becomes_dual_stack_and_single_stack_again_by_its_policy() {
    let strategy = services(BOTH, &[]);
    let (single, _) = created(&strategy, json!({"ports": [{"port": 80}]}));
    let first = ips(&single);
    for policy in ["PreferDualStack", "RequireDualStack"] {
        let (dual, errors, reservation) = updated(&strategy, with(&single, json!({"ipFamilyPolicy": policy})), &single);
        assert_eq!(errors, []);
        assert_eq!(families(&dual), ["IPv4", "IPv6"]);
        assert_eq!((ips(&dual).len(), &ips(&dual)[0]), (2, &first[0]));
        assert_eq!(reservation.take.len(), 1);
        assert_eq!(reservation.take[0].0, format!("/registry/ipaddresses/{}", ips(&dual)[1]));
        assert!(reservation.release.is_empty());

        let (back, errors, reservation) =
            updated(&strategy, with(&dual, json!({"ipFamilyPolicy": "SingleStack"})), &dual);
        assert_eq!(errors, []);
        assert_eq!((ips(&back), families(&back)), (first.clone(), vec!["IPv4".to_owned()]));
        assert!(reservation.take.is_empty());
        assert_eq!(reservation.release, [format!("/registry/ipaddresses/{}", ips(&dual)[1])]);
    }
}

#[test]
fn the_second_address_may_be_asked_for_when_it_is_added() {
    let strategy = services(BOTH, &[]);
    let (single, _) = created(&strategy, json!({"ports": [{"port": 80}], "clusterIP": "10.96.0.9"}));
    let asked = with(&single, json!({"ipFamilyPolicy": "RequireDualStack", "clusterIPs": ["10.96.0.9", "fd00::9"]}));
    let (dual, errors, reservation) = updated(&strategy, asked.clone(), &single);
    assert_eq!(errors, []);
    assert_eq!(ips(&dual), ["10.96.0.9", "fd00::9"]);
    assert_eq!(reservation.take[0].0, "/registry/ipaddresses/fd00::9");
    // Taken, or out of the range.
    let mut new = dual.clone();
    let mut reservation =
        Reservation { lost: vec!["/registry/ipaddresses/fd00::9".to_owned()], ..Reservation::default() };
    let change = Change::Update { object: &mut new, old: &single };
    let error = strategy.reserve(change, &mut reservation).unwrap_err();
    assert_eq!(
        error.message(),
        "Service \"web\" is invalid: spec.clusterIPs: Invalid value: [\"10.96.0.9\",\"fd00::9\"]: failed to allocate IP \
         fd00::9: provided IP is already allocated"
    );
    new.spec.as_mut().unwrap().cluster_ips = Some(vec!["10.96.0.9".to_owned(), "fd01::9".to_owned()]);
    let change = Change::Update { object: &mut new, old: &single };
    let error = strategy.reserve(change, &mut Reservation::default()).unwrap_err();
    assert!(error.message().ends_with("fd01::9: the provided network does not match the current range"));
}

#[test]
fn fields_may_be_left_out_of_an_update() {
    let strategy = services(BOTH, &[]);
    let (dual, _) = created(&strategy, json!({"ports": [{"port": 80}], "ipFamilyPolicy": "RequireDualStack"}));
    for spec in [
        json!({"ports": [{"port": 81}]}),
        json!({"ports": [{"port": 81}], "ipFamilyPolicy": "RequireDualStack"}),
        json!({"ports": [{"port": 81}], "clusterIP": ips(&dual)[0]}),
        json!({"ports": [{"port": 81}], "ipFamilies": ["IPv4", "IPv6"]}),
    ] {
        let (new, errors, reservation) = updated(&strategy, spec.clone(), &dual);
        assert_eq!(errors, [], "{spec}");
        let (new, old) = (new.spec.unwrap(), dual.spec.as_ref().unwrap());
        assert_eq!((&new.cluster_ips, &new.ip_families), (&old.cluster_ips, &old.ip_families), "{spec}");
        assert_eq!(new.ip_family_policy, old.ip_family_policy);
        assert!(reservation.take.is_empty() && reservation.release.is_empty());
    }
}

#[test]
fn the_second_address_goes_only_with_the_policy() {
    let strategy = services(BOTH, &[]);
    let (dual, _) = created(&strategy, json!({"ports": [{"port": 80}], "ipFamilyPolicy": "RequireDualStack"}));
    let first = ips(&dual)[0].clone();
    assert_eq!(
        refused(&strategy, with(&dual, json!({"clusterIPs": [first], "ipFamilies": ["IPv4"]})), &dual),
        [
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to release the secondary \
             cluster IP",
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to release the secondary IP \
             family",
        ]
    );
    let changes = json!({"clusterIPs": [first], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"});
    let (single, errors, reservation) = updated(&strategy, with(&dual, changes), &dual);
    assert_eq!(errors, []);
    assert_eq!(ips(&single), [first]);
    assert_eq!(reservation.release.len(), 1);
}

#[test]
fn addresses_and_families_do_not_change_places() {
    let strategy = services(BOTH, &[]);
    let (dual, _) = created(&strategy, json!({"ports": [{"port": 80}], "ipFamilyPolicy": "RequireDualStack"}));
    let (a, b) = (ips(&dual)[0].clone(), ips(&dual)[1].clone());
    let swapped = json!({"clusterIP": b, "clusterIPs": [b, a], "ipFamilies": ["IPv6", "IPv4"]});
    let text = |i: usize| format!("spec.clusterIPs[{i}]: Invalid value: [\"{b}\",\"{a}\"]: may not change once set");
    let errors = refused(&strategy, with(&dual, swapped), &dual);
    assert!(errors.contains(&text(0)) && errors.contains(&text(1)), "{errors:?}");
    let family = "spec.ipFamilies[0]: Invalid value: [\"IPv6\",\"IPv4\"]: may not change once set";
    assert!(errors.iter().any(|error| error == family), "{errors:?}");
    let second = with(&dual, json!({"clusterIPs": [a, "fd00::abcd"]}));
    assert_eq!(
        refused(&strategy, second, &dual),
        [format!("spec.clusterIPs[1]: Invalid value: [\"{a}\",\"fd00::abcd\"]: may not change once set")]
    );
    let headless = with(
        &dual,
        json!({"clusterIP": "None", "clusterIPs": ["None"], "ipFamilyPolicy": "SingleStack",
        "ipFamilies": ["IPv4"]}),
    );
    assert_eq!(
        refused(&strategy, headless, &dual),
        ["spec.clusterIPs[0]: Invalid value: [\"None\"]: may not change once set"]
    );
}

#[test]
fn an_external_name_drops_addresses_and_families_and_gets_them_back() {
    let strategy = services(BOTH, &[]);
    let (dual, _) = created(&strategy, json!({"ports": [{"port": 80}], "ipFamilyPolicy": "RequireDualStack"}));
    let external = with(&dual, json!({"type": "ExternalName", "externalName": "a.example"}));
    let (external, errors, reservation) = updated(&strategy, external, &dual);
    assert_eq!(errors, []);
    let spec = external.spec.clone().unwrap();
    assert_eq!((spec.cluster_ip, spec.cluster_ips, spec.ip_families, spec.ip_family_policy), (None, None, None, None));
    assert_eq!(reservation.release.len(), 2);

    let again = json!({"type": "ClusterIP", "ports": [{"port": 80}], "ipFamilyPolicy": "PreferDualStack"});
    let (again, errors, reservation) = updated(&strategy, again, &external);
    assert_eq!(errors, []);
    assert_eq!((ips(&again).len(), families(&again)), (2, vec!["IPv4".to_owned(), "IPv6".to_owned()]));
    assert_eq!(reservation.take.len(), 2);

    let mut reservation = Reservation::default();
    strategy.reserve(Change::Delete { old: &again }, &mut reservation).unwrap();
    assert_eq!(reservation.release.len(), 2);
}

#[test]
fn a_preference_is_not_looked_at_again_when_the_cluster_changes() {
    let prefers = json!({"ports": [{"port": 80}], "ipFamilyPolicy": "PreferDualStack"});
    let (one, two) = (services(V4, &[]), services(BOTH, &[]));
    let (single, _) = created(&one, prefers.clone());
    let (dual, _) = created(&two, prefers);
    for (strategy, old) in [(&two, &single), (&one, &dual)] {
        let (new, errors, reservation) = updated(strategy, with(old, json!({"ports": [{"port": 81}]})), old);
        assert_eq!(errors, []);
        assert_eq!((ips(&new), families(&new)), (ips(old), families(old)));
        assert!(reservation.take.is_empty() && reservation.release.is_empty());
    }
    // A clear word counts.
    let (new, errors, _) = updated(&two, with(&single, json!({"ipFamilyPolicy": "RequireDualStack"})), &single);
    assert_eq!((errors, ips(&new).len()), (vec![], 2));
    let (new, errors, _) = updated(&one, with(&dual, json!({"ipFamilyPolicy": "SingleStack"})), &dual);
    assert_eq!((errors, ips(&new).len()), (vec![], 1));
    assert_eq!(
        refused(&one, with(&single, json!({"ipFamilyPolicy": "RequireDualStack"})), &single),
        ["spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack \
             services"]
    );
}

#[test]
fn a_headless_service_changes_families_freely() {
    let strategy = services(BOTH, &[]);
    let (headless, _) = created(&strategy, json!({"clusterIP": "None", "selector": {"a": "b"}}));
    let changes = json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"]});
    let (new, errors, reservation) = updated(&strategy, with(&headless, changes), &headless);
    assert_eq!((errors, families(&new)), (vec![], vec!["IPv6".to_owned(), "IPv4".to_owned()]));
    assert!(reservation.take.is_empty());
}

#[test]
fn a_full_range_of_one_family_refuses_only_those_who_need_it() {
    let strategy = services("10.96.0.0/24,fd00::/126", &[]);
    let dual = json!({"ports": [{"port": 80}], "ipFamilyPolicy": "PreferDualStack"});
    let lost = || (1..4).map(|last| format!("/registry/ipaddresses/fd00::{last}")).collect();
    let mut service = prepared(&strategy, dual);
    let mut reservation = Reservation { lost: lost(), ..Reservation::default() };
    let error = strategy.reserve(Change::Create { object: &mut service }, &mut reservation).unwrap_err();
    assert!(error.message().contains("failed to allocate a serviceIP: range is full"), "{}", error.message());
    let mut service = prepared(&strategy, json!({"ports": [{"port": 80}]}));
    let mut reservation = Reservation { lost: lost(), ..Reservation::default() };
    strategy.reserve(Change::Create { object: &mut service }, &mut reservation).unwrap();
    assert_eq!(reservation.take.len(), 1);
}
