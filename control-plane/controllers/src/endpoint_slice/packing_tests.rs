use super::*;
use k8s_openapi::api::core::v1::ObjectReference;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn endpoint(number: usize) -> Endpoint {
    Endpoint {
        addresses: vec![format!("10.0.{}.{}", number / 256, number % 256)],
        target_ref: Some(ObjectReference { name: Some(format!("pod-{number}")), ..Default::default() }),
        ..Default::default()
    }
}

fn group(numbers: impl IntoIterator<Item = usize>) -> Group {
    Group { address_type: "IPv4", ports: vec![], endpoints: numbers.into_iter().map(endpoint).collect() }
}

fn slice(name: &str, numbers: impl IntoIterator<Item = usize>) -> Arc<EndpointSlice> {
    let mut slice = create(&Template::default(), &group([]), numbers.into_iter().map(endpoint).collect());
    slice.metadata.name = Some(name.into());
    slice.metadata.uid = Some(name.into());
    Arc::new(slice)
}

fn apply(existing: &[Arc<EndpointSlice>], changes: &[Change]) -> Vec<Arc<EndpointSlice>> {
    let mut slices = existing.to_vec();
    for change in changes {
        match change {
            Change::Create(new) => {
                let mut new = new.clone();
                // Every slice ever made has another uid.
                let number = (0..).find(|n| slices.iter().all(|s| s.metadata.uid != Some(format!("new-{n}"))));
                new.metadata.uid = number.map(|n| format!("new-{n}"));
                new.metadata.name.clone_from(&new.metadata.uid);
                slices.push(Arc::new(new));
            }
            Change::Update(new) => {
                let known = slices.iter_mut().find(|s| s.metadata.uid == new.metadata.uid).unwrap();
                *known = Arc::new(new.clone());
            }
            Change::Delete(old) => slices.retain(|s| s.metadata.uid != old.metadata.uid),
        }
    }
    slices
}

fn plan_one(group: Group, existing: &[Arc<EndpointSlice>]) -> Vec<Change> {
    plan(&Template::default(), &[group], existing, 100)
}

#[test]
fn nothing_changes_when_nothing_changed() {
    assert!(plan_one(group(0..150), &[slice("a", 0..100), slice("b", 100..150)]).is_empty());
}

#[test]
fn one_more_endpoint_is_one_write_into_the_slice_with_room() {
    let changes = plan_one(group(0..151), &[slice("a", 0..100), slice("b", 100..150)]);
    assert!(
        matches!(&changes[..], [Change::Update(s)] if s.metadata.name.as_deref() == Some("b") && s.endpoints.len() == 51)
    );
}

#[test]
fn a_replaced_endpoint_reuses_the_slice_that_changes_anyway() {
    let wanted = group((1..150).chain([500]));
    let changes = plan_one(wanted, &[slice("a", 0..100), slice("b", 100..150)]);
    assert!(matches!(&changes[..], [Change::Update(s)] if s.metadata.name.as_deref() == Some("a")));
}

#[test]
fn without_room_a_new_slice_is_made() {
    let changes = plan_one(group(0..101), &[slice("a", 0..100)]);
    assert!(matches!(&changes[..], [Change::Create(s)] if s.endpoints.len() == 1));
}

#[test]
fn a_service_without_endpoints_has_one_empty_slice() {
    assert!(matches!(&plan_one(group([]), &[])[..], [Change::Create(s)] if s.endpoints.is_empty()));
    assert!(plan_one(group([]), &[slice("a", [])]).is_empty());
    let changes = plan_one(group([]), &[slice("a", 0..3), slice("b", 3..5)]);
    let after = apply(&[slice("a", 0..3), slice("b", 3..5)], &changes);
    assert_eq!(after.len(), 1);
    assert!(after[0].endpoints.is_empty());
}

#[test]
fn changed_ports_rewrite_the_slice_instead_of_replacing_it() {
    let mut wanted = group(0..3);
    wanted.ports = vec![k8s_openapi::api::discovery::v1::EndpointPort {
        name: Some(String::new()),
        port: Some(80),
        protocol: Some("TCP".into()),
        app_protocol: None,
    }];
    let changes = plan_one(wanted, &[slice("a", 0..3)]);
    assert!(
        matches!(&changes[..], [Change::Update(s)] if s.metadata.name.as_deref() == Some("a") && s.ports.is_some())
    );
}

proptest! {
    #[test]
    fn after_any_sequence_of_changes_the_slices_hold_exactly_what_is_wanted(
        steps in proptest::collection::vec(proptest::collection::btree_set(0usize..60, 0..60), 1..12), max in 1usize..20,
    ) {
        let mut slices: Vec<Arc<EndpointSlice>> = Vec::new();
        for step in steps {
            let wanted = group(step.iter().copied());
            let changes = plan(&Template::default(), std::slice::from_ref(&wanted), &slices, max);
            slices = apply(&slices, &changes);
            let held: Vec<String> = slices.iter().flat_map(|s| s.endpoints.iter().map(identity)).collect();
            let unique: BTreeSet<_> = held.iter().cloned().collect();
            prop_assert_eq!(held.len(), unique.len());
            prop_assert_eq!(unique, wanted.endpoints.iter().map(identity).collect::<BTreeSet<_>>());
            prop_assert!(slices.iter().all(|s| s.endpoints.len() <= max));
            prop_assert!(!slices.is_empty());
            let again = plan(&Template::default(), std::slice::from_ref(&wanted), &slices, max);
            prop_assert!(again.is_empty(), "a second look must change nothing");
        }
    }
}

#[test]
fn hints_are_written_and_taken_away_only_by_their_owner() {
    use k8s_openapi::api::discovery::v1::{EndpointHints, ForZone};
    let hinted = |zone: Option<&str>| {
        let mut group = group(0..1);
        let for_zones = zone.map(|zone| vec![ForZone { name: zone.to_owned() }]);
        group.endpoints[0].hints = for_zones.map(|zones| EndpointHints { for_zones: Some(zones), for_nodes: None });
        group
    };
    for (owns_hints, writes) in [(true, 1), (false, 0)] {
        let template = Template { owns_hints, ..Template::default() };
        for (before, after) in [(None, Some("a")), (Some("a"), Some("b")), (Some("a"), None)] {
            let mut known = (*slice("a", 0..1)).clone();
            known.endpoints = hinted(before).endpoints;
            let existing = [Arc::new(known)];
            assert_eq!(plan(&template, &[hinted(after)], &existing, 100).len(), writes, "{before:?} {after:?}");
            assert_eq!(plan(&template, &[hinted(before)], &existing, 100).len(), 0);
        }
    }
}
