use serde_json::json;

use super::*;

fn meta(value: serde_json::Value) -> ObjectMeta {
    serde_json::from_value(value).unwrap()
}

fn check(value: serde_json::Value) -> Vec<String> {
    let errors = validate(&meta(value), true, name::dns1123_subdomain, &Path::new("metadata"));
    errors.iter().map(Error::to_string).collect()
}

#[test]
fn generated_names_have_a_cut_base_and_five_letters() {
    let name = generate_name("web-");
    assert!(name.starts_with("web-") && name.len() == 9, "{name}");
    assert!(name.as_bytes()[4..].iter().all(|b| SUFFIX_ALPHABET.contains(b)));
    assert_eq!(generate_name(&"a".repeat(100)).len(), 63);
    assert_eq!(generate_name(&"ä".repeat(100)).chars().count(), 29 + 5);
    assert_ne!(generate_name("a"), generate_name("a"));
}

#[test]
fn a_good_object_has_no_complaints() {
    assert!(
        check(json!({
            "name": "web", "namespace": "default", "labels": {"a/b": "c"}, "annotations": {"X/y": "anything at all"},
            "finalizers": ["example.com/guard"],
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": true}],
        }))
        .is_empty()
    );
}

#[test]
fn what_is_missing_is_named() {
    assert_eq!(
        check(json!({})),
        ["metadata.name: Required value: name or generateName is required", "metadata.namespace: Required value"]
    );
    let errors =
        validate(&meta(json!({"name": "n", "namespace": "x"})), false, name::dns1123_subdomain, &Path::new("metadata"));
    assert_eq!(errors[0].to_string(), "metadata.namespace: Forbidden: not allowed on this type");
}

#[test]
fn bad_labels_owners_and_finalizers_are_found() {
    let found = check(json!({
        "name": "web", "namespace": "default", "labels": {"a b": "c d"}, "finalizers": ["orphan", "foregroundDeletion"],
        "ownerReferences": [
            {"apiVersion": "v1", "kind": "", "name": "r", "uid": "u", "controller": true},
            {"apiVersion": "v1", "kind": "Event", "name": "s", "uid": "u", "controller": true}],
    }));
    for want in [
        "metadata.labels: Invalid value: \"a b\": name part must consist of",
        "metadata.labels: Invalid value: \"c d\": a valid label must be",
        "metadata.ownerReferences[0].kind: Invalid value: \"\": must not be empty",
        "is disallowed from being an owner",
        "Only one reference can have Controller set to true. Found \"true\" in references for r and s",
        "cannot be both set",
    ] {
        assert!(found.iter().any(|e| e.contains(want)), "{want} in {found:#?}");
    }
}

#[test]
fn annotations_have_a_total_limit() {
    let big = "x".repeat(256 * 1024);
    assert_eq!(
        check(json!({"name": "web", "namespace": "default", "annotations": {"a": big}})),
        ["metadata.annotations: Too long: may not be more than 262144 bytes"]
    );
}

#[test]
fn updates_may_not_change_identity() {
    let old = meta(json!({"name": "a", "namespace": "n", "uid": "1", "resourceVersion": "5", "generation": 2}));
    let mut new = old.clone();
    assert!(validate_update(&new, &old, &Path::new("metadata")).is_empty());
    new.uid = Some("2".to_owned());
    new.generation = Some(1);
    new.resource_version = None;
    let found: Vec<_> = validate_update(&new, &old, &Path::new("metadata")).iter().map(Error::to_string).collect();
    assert_eq!(
        found,
        [
            "metadata.uid: Invalid value: \"2\": field is immutable",
            "metadata.generation: Invalid value: 1: must not be decremented",
            "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
        ]
    );
}

#[test]
fn an_object_being_deleted_gets_no_new_finalizers() {
    let old = meta(
        json!({"name": "a", "resourceVersion": "5", "deletionTimestamp": "2024-01-01T00:00:00Z", "finalizers": ["a/b"]}),
    );
    let mut new = old.clone();
    new.finalizers = Some(vec!["a/b".to_owned(), "c/d".to_owned()]);
    assert_eq!(
        validate_update(&new, &old, &Path::new("metadata"))[0].to_string(),
        "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new \
         finalizers []string{\"c/d\"}"
    );
    new.finalizers = None;
    assert!(validate_update(&new, &old, &Path::new("metadata")).is_empty());
}
