use proptest::prelude::*;
use proptest::strategy::Strategy as Generator;
use serde_json::json;

use super::*;

fn schema_for(kind: &str) -> Type<'static> {
    let groups = ["", "apps"];
    let of = groups.iter().find_map(|group| BuiltIn::of(group, "v1", kind));
    Type::from(of.unwrap_or_else(|| panic!("{kind}")))
}

fn apply(document: Value, patch: &Value, of: Type<'_>) -> Result<Value> {
    merge(of, document, patch)
}

fn pod(containers: Value) -> Value {
    json!({"spec": {"containers": containers}})
}

fn patched(kind: &str, document: Value, patch: Value) -> Value {
    apply(document, &patch, schema_for(kind)).unwrap()
}

fn refused(kind: &str, document: Value, patch: Value) -> String {
    apply(document, &patch, schema_for(kind)).unwrap_err().to_string()
}

#[test]
fn containers_merge_by_name_and_new_ones_come_first() {
    let document = pod(json!([{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]));
    let patch = pod(json!([
        {"name": "c", "image": "3"},
        {"name": "a", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "3"}]}]));
    assert_eq!(
        patched("Pod", document, patch),
        pod(json!([
            {"name": "c", "image": "3"},
            {"name": "a", "image": "1", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "3"}]},
            {"name": "b"}]))
    );
}

#[test]
fn a_deployment_template_merges_as_a_pod_does() {
    let document = json!({"spec": {"template": pod(json!([{"name": "a", "image": "1"}, {"name": "b"}]))}});
    let patch = json!({"spec": {"template": pod(json!([{"name": "a", "image": "2"}]))}});
    let want = json!({"spec": {"template": pod(json!([{"name": "a", "image": "2"}, {"name": "b"}]))}});
    assert_eq!(patched("Deployment", document, patch), want);
}

#[test]
fn directives_delete_and_replace() {
    let document = pod(json!([{"name": "a"}, {"name": "b"}]));
    assert_eq!(
        patched("Pod", document.clone(), pod(json!([{"name": "a", "$patch": "delete"}]))),
        pod(json!([{"name": "b"}]))
    );
    assert_eq!(
        patched("Pod", document.clone(), pod(json!([{"$patch": "replace"}, {"name": "z"}]))),
        pod(json!([{"name": "z"}]))
    );
    assert_eq!(
        patched("Pod", document.clone(), json!({"spec": {"$patch": "replace", "hostNetwork": true}})),
        json!({"spec": {"hostNetwork": true}})
    );
    assert_eq!(patched("Pod", document, json!({"spec": {"$patch": "delete"}})), json!({"spec": {}}));
}

#[test]
fn a_list_is_replaced_whether_it_is_there_or_not() {
    let ips = json!({"status": {"podIPs": [{"$patch": "replace"}, {"ip": "10.0.0.2"}]}});
    let want = json!({"status": {"podIPs": [{"ip": "10.0.0.2"}]}});
    for document in [
        json!({"status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}}),
        json!({"status": {"podIPs": []}}),
        json!({"status": {"podIPs": null}}),
        json!({"status": {}}),
        json!({}),
    ] {
        assert_eq!(patched("Pod", document.clone(), ips.clone()), want, "{document}");
    }
    let emptied = json!({"status": {"podIPs": [{"$patch": "replace"}]}});
    assert_eq!(patched("Pod", json!({}), emptied), json!({"status": {"podIPs": []}}));
    let gone = json!({"status": {"podIPs": [{"$patch": "delete", "ip": "10.0.0.1"}]}});
    assert_eq!(patched("Pod", json!({"status": {}}), gone), json!({"status": {"podIPs": []}}));
}

#[test]
fn null_deletes_and_missing_nulls_are_nothing() {
    let document = json!({"metadata": {"labels": {"a": "1", "b": "2"}}});
    let patch = json!({"metadata": {"labels": {"a": null, "c": null, "d": "4"}, "annotations": {"x": null, "y": "1"}}});
    let want = json!({"metadata": {"labels": {"b": "2", "d": "4"}, "annotations": {"y": "1"}}});
    assert_eq!(patched("ConfigMap", document, patch), want);
}

#[test]
fn retained_keys_push_out_the_others() {
    let document = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    assert_eq!(patched("Deployment", document.clone(), patch), json!({"spec": {"strategy": {"type": "Recreate"}}}));
    let wrong = json!({"spec": {"strategy": {"$retainKeys": ["x"], "type": "Recreate"}}});
    assert_eq!(refused("Deployment", document, wrong), "invalid patch format of retainKeys");
    let volumes = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
    let patch =
        json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}});
    assert_eq!(
        patched("Pod", volumes, patch),
        json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}})
    );
}

#[test]
fn an_element_order_is_kept() {
    let document = pod(json!([{"name": "a"}, {"name": "server"}, {"name": "b"}]));
    let patch = json!({"spec": {
        "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}, {"name": "new"}],
        "containers": [{"name": "new"}]}});
    assert_eq!(
        patched("Pod", document.clone(), patch),
        pod(json!([{"name": "server"}, {"name": "b"}, {"name": "a"}, {"name": "new"}]))
    );
    let wrong = json!({"spec": {"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "z"}]}});
    assert!(refused("Pod", document, wrong).starts_with("The order in patch list:"));
}

#[test]
fn primitive_lists_unite_and_shrink() {
    let document = json!({"metadata": {"finalizers": ["a/1", "a/2"]}});
    assert_eq!(
        patched("Pod", document.clone(), json!({"metadata": {"finalizers": ["a/3", "a/1"]}})),
        json!({"metadata": {"finalizers": ["a/3", "a/1", "a/2"]}})
    );
    let patch = json!({"metadata": {
        "$setElementOrder/finalizers": ["a/2", "a/4"],
        "$deleteFromPrimitiveList/finalizers": ["a/1"],
        "finalizers": ["a/4"]}});
    assert_eq!(patched("Pod", document, patch), json!({"metadata": {"finalizers": ["a/2", "a/4"]}}));
}

#[test]
fn atomic_lists_are_replaced() {
    let document = json!({"spec": {"tolerations": [{"key": "a"}]}});
    let patch = json!({"spec": {"tolerations": [{"key": "b"}]}});
    assert_eq!(patched("Pod", document, patch.clone()), patch);
}

#[test]
fn service_ports_merge_by_port_and_conditions_by_type() {
    let document = json!({"spec": {"ports": [{"port": 80, "targetPort": 1}, {"port": 81}]}});
    let patch = json!({"spec": {"ports": [{"port": 80, "targetPort": 2}]}});
    assert_eq!(
        patched("Service", document, patch),
        json!({"spec": {"ports": [{"port": 80, "targetPort": 2}, {"port": 81}]}})
    );
    let document =
        json!({"status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "Disk", "status": "x"}]}});
    let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    assert_eq!(
        patched("Node", document, patch),
        json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Disk", "status": "x"}]}})
    );
}

#[test]
fn an_item_without_its_key_is_refused() {
    let message = refused("Pod", pod(json!([{"name": "a"}])), pod(json!([{"image": "x"}])));
    assert_eq!(message, "map: {\"image\":\"x\"} does not contain declared merge key: name");
    assert!(matches!(apply(json!({}), &json!([1]), schema_for("Pod")), Err(Error::BadRequest(_))));
}

/// A list by name, as a plain model sees it: name to image.
fn names() -> impl Generator<Value = Vec<(u8, u8)>> {
    prop::collection::btree_map(0_u8..6, any::<u8>(), 0..6).prop_map(|m| m.into_iter().collect())
}

fn containers(list: &[(u8, u8)]) -> Value {
    pod(list.iter().map(|(name, image)| json!({"name": name.to_string(), "image": image})).collect())
}

proptest! {
    #[test]
    fn merging_is_what_a_map_would_do(have in names(), want in names(), doomed in prop::collection::btree_set(6_u8..9, 0..2), order in any::<u64>()) {
        let mut shuffled = want.clone();
        if !shuffled.is_empty() {
            let by = usize::try_from(order % shuffled.len() as u64).unwrap();
            shuffled.rotate_left(by);
        }
        let mut patch = containers(&shuffled);
        let mut extended = have.clone();
        for name in &doomed {
            extended.push((*name, 0));
            patch["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": name.to_string(), "$patch": "delete"}));
        }
        let result = patched("Pod", containers(&extended), patch);
        let items = result["spec"]["containers"].as_array().unwrap();
        let got: std::collections::BTreeMap<u8, u64> = items
            .iter()
            .map(|c| (c["name"].as_str().unwrap().parse().unwrap(), c["image"].as_u64().unwrap()))
            .collect();
        let mut model: std::collections::BTreeMap<u8, u64> = have.iter().map(|(n, i)| (*n, u64::from(*i))).collect();
        model.extend(want.iter().map(|(n, i)| (*n, u64::from(*i))));
        prop_assert_eq!(got.len(), items.len());
        prop_assert_eq!(got, model);
        let position = |name: u8| items.iter().position(|c| c["name"].as_str() == Some(&name.to_string())).unwrap();
        prop_assert!(shuffled.windows(2).all(|w| position(w[0].0) < position(w[1].0)));
    }

    #[test]
    fn no_patch_makes_it_panic(key in "(\\$patch|\\$retainKeys|\\$setElementOrder/containers|\\$deleteFromPrimitiveList/containers|containers)", which in 0_usize..7) {
        let values = [json!(null), json!([]), json!([1]), json!({}), json!("delete"), json!([{"name": "a"}]), json!([{"x": [null]}])];
        for document in [json!({}), pod(json!([{"name": "a"}])), pod(json!(3)), json!([])] {
            let mut spec = Object::new();
            spec.insert(key.clone(), values[which].clone());
            let _ = apply(document, &json!({"spec": spec}), schema_for("Pod"));
        }
    }
}
