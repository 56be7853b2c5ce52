//! `metadata.managedFields` that clients send themselves, and managers of several versions.

use http::Method;
use serde_json::{Value, json};

use crate::{
    custom::CRDS,
    support::{TestServer, config_map},
};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const HPAS: &str = "namespaces/default/horizontalpodautoscalers";

fn entry(change: Value) -> Value {
    let mut entry = json!({
        "manager": "elsewhere", "operation": "Update", "apiVersion": "v1", "time": "2020-01-01T00:00:00Z",
        "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:other": {}}},
    });
    for (key, value) in change.as_object().unwrap() {
        entry[key] = value.clone();
    }
    entry
}

fn with(mut object: Value, managed: Value) -> Value {
    object["metadata"]["managedFields"] = managed;
    object
}

/// Who owns something, and what.
fn owners(object: &Value) -> Vec<(String, Value)> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    entries.map(|entry| (entry["manager"].as_str().unwrap().to_owned(), entry["fieldsV1"].clone())).collect()
}

fn names(object: &Value) -> Vec<String> {
    owners(object).into_iter().map(|(name, _)| name).collect()
}

impl TestServer {
    async fn apply(&self, uri: &str, manager: &str, config: Value) -> (u16, Value) {
        let uri = format!("{uri}?fieldManager={manager}");
        let (code, body) = self.raw(Method::PATCH, &uri, "application/apply-patch+yaml", config.to_string()).await;
        (code.as_u16(), body)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_says_of_owners_counts_if_it_can_be_read() {
    let server = TestServer::start().await;
    let made = server.create(MAPS, with(config_map("kept", "1"), json!([entry(json!({}))]))).await;
    assert_eq!(owners(&made)[0], ("elsewhere".to_owned(), json!({"f:data": {"f:other": {}}})), "{made}");
    assert_eq!(owners(&made).len(), 2, "who creates owns, too");

    // What cannot be read is as if nothing was said, on create and on update.
    let unreadable = [
        json!({"operation": "Whim"}),
        json!({"operation": ""}),
        json!({"apiVersion": ""}),
        json!({"fieldsType": "FieldsV2"}),
        json!({"fieldsType": ""}),
        json!({"fieldsV1": {"x:data": {}}}),
        json!({"fieldsV1": {"f:data": 1}}),
    ];
    for (i, change) in unreadable.into_iter().enumerate() {
        let bad = json!([entry(change.clone())]);
        let made = server.create(MAPS, with(config_map(&format!("bad-{i}"), "1"), bad.clone())).await;
        assert_eq!(names(&made), ["unknown"], "{change}");
        let patch = json!({"metadata": {"managedFields": bad}});
        let (code, patched) = server.patch("merge-patch", &format!("{MAPS}/kept"), patch).await;
        assert_eq!(
            (code.as_u16(), names(&patched)),
            (200, names(&server.get(&format!("{MAPS}/kept")).await.1)),
            "{change}"
        );
        assert_eq!(names(&patched).len(), 2, "{change}");
    }

    // What can be read but names nobody properly is refused.
    let long = "x".repeat(129);
    for (change, message) in [
        (json!({"manager": long}), "metadata.managedFields[0].manager: Too long: may not be more than 128 bytes"),
        (
            json!({"manager": "a\u{7}"}),
            "metadata.managedFields[0].manager: Invalid value: \"a\\a\": invalid character U+0007 (at position 1)",
        ),
        (
            json!({"subresource": "x".repeat(257)}),
            "metadata.managedFields[0].subresource: Too long: may not be more than 256 bytes",
        ),
    ] {
        let bad = json!([entry(change)]);
        let (code, body) = server.post(MAPS, with(config_map("refused", "1"), bad.clone())).await;
        let want = format!("ConfigMap \"refused\" is invalid: {message}");
        assert_eq!((code.as_u16(), body["message"].as_str().unwrap()), (422, want.as_str()));
        let patch = json!({"metadata": {"managedFields": bad}});
        let (code, body) = server.patch("merge-patch", &format!("{MAPS}/kept"), patch).await;
        let want = format!("ConfigMap \"kept\" is invalid: {message}");
        assert_eq!((code.as_u16(), body["message"].as_str().unwrap()), (422, want.as_str()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_one_empty_entry_clears_owners() {
    let server = TestServer::start().await;
    for clear in [json!([{}]), json!([])] {
        server.create(MAPS, config_map("a", "1")).await;
        let patch = json!({"metadata": {"managedFields": clear}});
        let (code, patched) = server.patch("merge-patch", &format!("{MAPS}/a"), patch).await;
        assert_eq!((code.as_u16(), patched["metadata"].get("managedFields")), (200, None), "{clear}: {patched}");
        // Nobody's fields are managed until somebody applies.
        let (_, patched) = server.patch("merge-patch", &format!("{MAPS}/a"), json!({"data": {"b": "2"}})).await;
        assert_eq!(patched["metadata"].get("managedFields"), None);
        let (code, applied) = server.apply(&format!("{MAPS}/a"), "me", config_map("a", "1")).await;
        assert_eq!(code, 200, "{applied}");
        let mut all = names(&applied);
        all.sort();
        assert_eq!(all, ["before-first-apply", "me"]);
        server.call(Method::DELETE, &format!("{MAPS}/a"), Value::Null).await;
    }
    // Through a subresource nothing is cleared.
    let namespace = json!({"metadata": {"name": "ns"}});
    let made = server.create("/api/v1/namespaces", namespace).await;
    let patch = json!({"metadata": {"managedFields": [{}]}});
    let (code, patched) = server.patch("merge-patch", "/api/v1/namespaces/ns/status", patch).await;
    assert_eq!((code.as_u16(), owners(&patched)), (200, owners(&made)), "{patched}");
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_in_one_version_of_a_built_in_resource_are_seen_in_another() {
    let server = TestServer::start().await;
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
    let old = |percent: i64| {
        json!({
            "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"},
            "spec": {"scaleTargetRef": target, "maxReplicas": 4, "targetCPUUtilizationPercentage": percent},
        })
    };
    let new = |percent: i64| {
        json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"},
            "spec": {"scaleTargetRef": target, "maxReplicas": 4, "metrics": [{
                "type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}},
            }]},
        })
    };
    let (v1, v2) = (format!("/apis/autoscaling/v1/{HPAS}/web"), format!("/apis/autoscaling/v2/{HPAS}/web"));
    assert_eq!(server.apply(&v1, "one", old(50)).await.0, 201);
    let (code, applied) = server.apply(&v2, "two", new(50)).await;
    assert_eq!(code, 200, "the same in another version is no conflict: {applied}");
    assert_eq!(names(&applied).len(), 2);
    let (code, error) = server.apply(&v2, "two", new(60)).await;
    assert_eq!(code, 409, "{error}");
    let conflict = &error["details"]["causes"][0];
    assert_eq!(
        (&conflict["field"], &conflict["message"]),
        (&json!(".spec.targetCPUUtilizationPercentage"), &json!("conflict with \"one\""))
    );
    // Who changes it in v2 owns it, and the owner in v1 no longer does.
    let change = json!([{"op": "replace", "path": "/spec/metrics/0/resource/target/averageUtilization", "value": 70}]);
    let (code, changed) = server.patch("json-patch", &v2, change).await;
    assert_eq!(code, 200, "{changed}");
    let one = owners(&changed).into_iter().find(|(name, _)| name == "one").unwrap().1;
    assert_eq!(one["f:spec"].get("f:targetCPUUtilizationPercentage"), None, "{one}");
    assert!(one["f:spec"].get("f:maxReplicas").is_some(), "{one}");
}

/// A definition without conversion: only v2 knows `spec.c`.
fn things() -> Value {
    let version = |name: &str, storage: bool| {
        let mut fields = json!({"a": {"type": "string"}, "b": {"type": "string"}});
        if storage {
            fields["c"] = json!({"type": "integer", "default": 1});
        }
        json!({
            "name": name, "served": true, "storage": storage,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": fields},
            }}},
        })
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {"group": "example.com", "scope": "Cluster", "names": {"kind": "Thing", "plural": "things"},
                 "versions": [version("v1", false), version("v2", true)]},
    })
}

fn thing(version: &str, spec: Value) -> Value {
    json!({"apiVersion": format!("example.com/{version}"), "kind": "Thing", "metadata": {"name": "t"}, "spec": spec})
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_owners_version_does_not_know_is_left_alone() {
    let server = TestServer::start().await;
    server.define(&things()).await;
    let (v1, v2) = ("/apis/example.com/v1/things/t", "/apis/example.com/v2/things/t");
    assert_eq!(server.apply(v1, "one", thing("v1", json!({"a": "1", "b": "1"}))).await.0, 201);
    assert_eq!(server.apply(v2, "two", thing("v2", json!({"c": 5}))).await.0, 200);
    // What one left out goes: that is found out in v1, which knows no c.
    let (code, applied) = server.apply(v2, "one", thing("v2", json!({"a": "2"}))).await;
    assert_eq!((code, &applied["spec"]), (200, &json!({"a": "2", "c": 5})), "{applied}");
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_in_a_version_that_is_no_more_are_forgotten() {
    let server = TestServer::start().await;
    server.define(&things()).await;
    let (v1, v2) = ("/apis/example.com/v1/things/t", "/apis/example.com/v2/things/t");
    assert_eq!(server.apply(v1, "one", thing("v1", json!({"a": "1"}))).await.0, 201);
    let (code, applied) = server.apply(v2, "two", thing("v2", json!({"b": "1"}))).await;
    assert_eq!((code, names(&applied).len()), (200, 2), "{applied}");
    let (code, error) = server.apply(v2, "two", thing("v2", json!({"a": "2"}))).await;
    assert_eq!((code, &error["details"]["causes"][0]["field"]), (409, &json!(".spec.a")), "{error}");

    let gone = json!([
        {"op": "remove", "path": "/spec/versions/0"},
    ]);
    let (code, crd) = server.patch("json-patch", &format!("{CRDS}/things.example.com"), gone).await;
    assert_eq!(code, 200, "{crd}");
    server.until(v1, |object| object["kind"] != "Thing").await;
    let (code, applied) = server.apply(v2, "two", thing("v2", json!({"a": "2", "b": "1"}))).await;
    assert_eq!((code, names(&applied)), (200, vec!["two".to_owned()]), "{applied}");
}
