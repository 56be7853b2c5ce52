//! Server-side apply and managed fields, through the whole server.

use http::Method;
use serde_json::{Value, json};

use crate::support::{TestServer, config_map, pod};

const APPLY: &str = "application/apply-patch+yaml";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn deployment(spec: Value) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": spec,
    })
}

fn full_spec() -> Value {
    json!({
        "replicas": 2,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "main", "image": "i:1"}]},
        },
    })
}

async fn apply(server: &TestServer, uri: &str, manager: &str, body: &Value) -> (u16, Value) {
    let separator = if uri.contains('?') { '&' } else { '?' };
    let uri = format!("{uri}{separator}fieldManager={manager}");
    let (code, body) = server.raw(Method::PATCH, &uri, APPLY, body.to_string()).await;
    (code.as_u16(), body)
}

/// Who owns something of an object: manager, operation, subresource.
fn owners(object: &Value) -> Vec<(String, String, String)> {
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    entries.iter().map(|e| (text(e, "manager"), text(e, "operation"), text(e, "subresource"))).collect()
}

fn owner(manager: &str, operation: &str, subresource: &str) -> (String, String, String) {
    (manager.to_owned(), operation.to_owned(), subresource.to_owned())
}

fn fields<'a>(object: &'a Value, manager: &str) -> &'a Value {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    &entries.iter().find(|entry| entry["manager"] == manager).unwrap_or_else(|| panic!("{manager}: {entries:?}"))["fieldsV1"]
}

#[tokio::test(flavor = "multi_thread")]
async fn applying_creates_changes_and_takes_away() {
    let server = TestServer::start().await;
    let uri = format!("{DEPLOYMENTS}/web");
    let (code, made) = apply(&server, &uri, "me", &deployment(full_spec())).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(owners(&made), [owner("me", "Apply", "")]);
    // Defaults belong to nobody.
    assert_eq!(made["spec"]["revisionHistoryLimit"], 10);
    assert_eq!(
        *fields(&made, "me"),
        json!({"f:spec": {"f:replicas": {}, "f:selector": {}, "f:template": {
            "f:metadata": {"f:labels": {"f:app": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"main\"}": {".": {}, "f:image": {}, "f:name": {}}}},
        }}})
    );
    let entry = &made["metadata"]["managedFields"][0];
    assert_eq!((&entry["apiVersion"], &entry["fieldsType"]), (&json!("apps/v1"), &json!("FieldsV1")));
    assert!(entry["time"].as_str().unwrap().ends_with('Z'));

    // The same again changes nothing.
    let (code, same) = apply(&server, &uri, "me", &deployment(full_spec())).await;
    assert_eq!((code, &same), (200, &made));

    let mut spec = full_spec();
    spec["template"]["spec"]["containers"] = json!([{"name": "side", "image": "s:1"}]);
    let (code, changed) = apply(&server, &uri, "me", &deployment(spec)).await;
    assert_eq!(code, 200, "{changed}");
    let containers = changed["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.iter().map(|c| c["name"].as_str().unwrap()).collect::<Vec<_>>(), ["side"]);
    assert_eq!(changed["metadata"]["generation"], 2);

    // YAML is read too, and dry runs write nothing.
    let yaml = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {replicas: 5}\n";
    let uri = format!("{DEPLOYMENTS}/web?fieldManager=other&force=true&dryRun=All");
    let (code, dry) = server.raw(Method::PATCH, &uri, APPLY, yaml).await;
    assert_eq!((code.as_u16(), &dry["spec"]["replicas"]), (200, &json!(5)));
    let (_, now) = server.get(&format!("{DEPLOYMENTS}/web")).await;
    assert_eq!(now, changed);
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_are_told_and_can_be_forced() {
    let server = TestServer::start().await;
    let uri = format!("{DEPLOYMENTS}?fieldManager=creator");
    let (code, made) = server.call(Method::POST, &uri, deployment(full_spec())).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(owners(&made), [owner("creator", "Update", "")]);

    let uri = format!("{DEPLOYMENTS}/web");
    let wanted = deployment(json!({"replicas": 3}));
    let (code, status) = apply(&server, &uri, "me", &wanted).await;
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")));
    assert_eq!(
        status["message"],
        "Apply failed with 1 conflict: conflict with \"creator\" using apps/v1: .spec.replicas"
    );
    assert_eq!(
        status["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"creator\" using apps/v1",
            "field": ".spec.replicas"}])
    );
    let (code, forced) = apply(&server, &format!("{uri}?force=true"), "me", &wanted).await;
    assert_eq!((code, &forced["spec"]["replicas"]), (200, &json!(3)));
    assert_eq!(*fields(&forced, "me"), json!({"f:spec": {"f:replicas": {}}}));
    assert!(fields(&forced, "creator")["f:spec"].get("f:replicas").is_none());

    // A scale takes the number, and a scaler that applies meets the one who has it.
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"replicas": 7}});
    let (code, body) = apply(&server, &format!("{uri}/scale"), "scaler", &scale).await;
    assert_eq!(
        (code, &body["message"]),
        (409, &json!("Apply failed with 1 conflict: conflict with \"me\": .spec.replicas"))
    );
    let (code, body) = server.call(Method::PUT, &format!("{uri}/scale?fieldManager=scaler"), scale).await;
    assert_eq!((code.as_u16(), &body["spec"]["replicas"]), (200, &json!(7)), "{body}");
    let (_, now) = server.get(&uri).await;
    assert_eq!(owners(&now), [owner("creator", "Update", ""), owner("scaler", "Update", "scale")]);
    assert_eq!(*fields(&now, "scaler"), json!({"f:spec": {"f:replicas": {}}}));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_configuration_is_refused() {
    let server = TestServer::start().await;
    let uri = format!("{MAPS}/a");
    let (code, body) = server.raw(Method::PATCH, &uri, APPLY, config_map("a", "1").to_string()).await;
    assert_eq!(code, 422);
    assert_eq!(
        body["message"],
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
    );
    for (config, code, message) in [
        (
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}),
            400,
            "invalid object type: /v1, Kind=Secret",
        ),
        (
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "managedFields": []}}),
            400,
            "metadata.managedFields must be nil",
        ),
        (
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "dota": {}}),
            500,
            "failed to create typed patch object (/a; /v1, Kind=ConfigMap): .dota: field not declared in schema",
        ),
        (
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}}),
            400,
            "the name of the object (b) does not match the name on the URL (a)",
        ),
        (
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "uid": "x"}}),
            409,
            "Operation cannot be fulfilled on configmaps \"a\": uid mismatch: the provided object specified uid x, and no \
             existing object was found",
        ),
    ] {
        let (got, body) = apply(&server, &uri, "me", &config).await;
        assert_eq!((got, &body["message"]), (code, &json!(message)));
    }
    let (code, body) = server.raw(Method::PATCH, &format!("{uri}?fieldManager=me"), APPLY, "a: [").await;
    assert!(code == 400 && body["message"].as_str().unwrap().starts_with("error decoding YAML: "), "{body}");
    let (code, _) =
        server.raw(Method::PATCH, &format!("{uri}?fieldManager=me"), "application/apply-patch+cbor", "").await;
    assert_eq!(code, 415);
    let (code, _) = server.get(&uri).await;
    assert_eq!(code, 404);

    let twice = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":"1","k":"2"}}"#;
    let strict = format!("{uri}?fieldManager=me&fieldValidation=Strict");
    let (code, body) = server.raw(Method::PATCH, &strict, APPLY, twice).await;
    assert_eq!(code, 400);
    assert!(body["message"].as_str().unwrap().contains("duplicate field \"data.k\""), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_write_notes_its_manager() {
    let server = TestServer::start().await;
    server.default_account().await;
    let request = http::Request::builder()
        .method(Method::POST)
        .uri("/api/v1/namespaces/default/pods")
        .header("content-type", "application/json")
        .header("user-agent", "kubectl/v1.33.0 (linux/amd64) kubernetes/abc")
        .body(http_body_util::Full::new(bytes::Bytes::from(pod("a").to_string())))
        .unwrap();
    assert_eq!(server.send(request).await.status(), 201);
    let uri = "/api/v1/namespaces/default/pods/a";
    let (_, made) = server.get(uri).await;
    assert_eq!(owners(&made), [owner("kubectl", "Update", "")]);
    // What admission adds belongs to nobody, and neither do names.
    let owned = fields(&made, "kubectl");
    assert!(owned["f:spec"].get("f:serviceAccountName").is_none(), "{owned}");
    assert!(owned["f:spec"].get("f:restartPolicy").is_some(), "{owned}");
    assert!(owned["f:metadata"].get("f:name").is_none(), "{owned}");
    assert_eq!(owned["f:metadata"]["f:labels"], json!({".": {}, "f:app": {}}));

    // Binding leaves owners alone; the status is the kubelet's.
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n"}});
    let (code, body) = server.call(Method::POST, &format!("{uri}/binding"), binding).await;
    assert_eq!(code, 201, "{body}");
    let (_, bound) = server.get(uri).await;
    assert_eq!(owners(&bound), owners(&made));
    let patch = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    let kind = "application/strategic-merge-patch+json";
    let status = format!("{uri}/status?fieldManager=kubelet");
    let (code, running) = server.raw(Method::PATCH, &status, kind, patch.to_string()).await;
    assert_eq!(code, 200, "{running}");
    assert_eq!(owners(&running), [owner("kubectl", "Update", ""), owner("kubelet", "Update", "status")]);
    assert_eq!(
        *fields(&running, "kubelet"),
        json!({"f:status": {"f:conditions": {"k:{\"type\":\"Ready\"}": {".": {}, "f:status": {}, "f:type": {}}}, "f:phase": {}}})
    );
    // The same status again is no write, though time has passed.
    let (_, again) = server.raw(Method::PATCH, &status, kind, patch.to_string()).await;
    assert_eq!(again, running);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_cannot_lose_owners_but_clear_them() {
    let server = TestServer::start().await;
    let (_, made) = server.call(Method::POST, &format!("{MAPS}?fieldManager=one"), config_map("a", "1")).await;
    let uri = format!("{MAPS}/a");
    let (code, put) = server.call(Method::PUT, &format!("{uri}?fieldManager=two"), config_map("a", "2")).await;
    assert_eq!(code, 200, "{put}");
    assert_eq!(owners(&put), [owner("one", "Update", ""), owner("two", "Update", "")]);
    assert_eq!(*fields(&put, "one"), json!({"f:data": {}}));
    assert_eq!(*fields(&put, "two"), json!({"f:data": {"f:key": {}}}));
    assert_ne!(put["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);

    let (_, same) = server.call(Method::PUT, &format!("{uri}?fieldManager=three"), config_map("a", "2")).await;
    assert_eq!(same, put);

    let clear = json!({"metadata": {"managedFields": [{}]}});
    let (code, cleared) = server.raw(Method::PATCH, &uri, "application/merge-patch+json", clear.to_string()).await;
    assert_eq!(code, 200);
    assert!(cleared["metadata"].get("managedFields").is_none(), "{cleared}");
    // From then on nothing is managed until someone applies.
    let (_, put) = server.call(Method::PUT, &uri, config_map("a", "3")).await;
    assert_eq!(owners(&put), []);
    let (code, applied) = apply(&server, &format!("{uri}?force=true"), "me", &config_map("a", "4")).await;
    assert_eq!(code, 200, "{applied}");
    assert_eq!(*fields(&applied, "before-first-apply"), json!({"f:data": {}}));
    assert_eq!(*fields(&applied, "me"), json!({"f:data": {"f:key": {}}}));
}

#[tokio::test(flavor = "multi_thread")]
async fn status_can_be_applied_by_itself() {
    let server = TestServer::start().await;
    let uri = format!("{DEPLOYMENTS}/web");
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 9}, "status": {"replicas": 1}});
    let (code, _) = apply(&server, &format!("{uri}/status"), "ctrl", &status).await;
    assert_eq!(code, 404);
    apply(&server, &uri, "me", &deployment(full_spec())).await;
    let (code, body) = apply(&server, &format!("{uri}/status?force=true"), "ctrl", &status).await;
    assert_eq!(code, 200, "{body}");
    assert_eq!((&body["spec"]["replicas"], &body["status"]["replicas"]), (&json!(2), &json!(1)));
    assert_eq!(owners(&body), [owner("ctrl", "Apply", "status"), owner("me", "Apply", "")]);
    assert_eq!(*fields(&body, "ctrl"), json!({"f:status": {"f:replicas": {}}}));
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_and_unknown_fields_are_told_in_order() {
    let server = TestServer::start().await;
    let body = r#"{"metadata":{"name":"a"},"foo":1,"data":{"k":"1","k":"2"},"bar":2}"#;
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let (code, answer) = server.raw(Method::POST, &strict, "application/json", body).await;
    assert_eq!(code, 400);
    assert_eq!(
        answer["message"],
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"foo\", \
         duplicate field \"data.k\", unknown field \"bar\""
    );
    server.call(Method::POST, MAPS, config_map("a", "1")).await;
    for kind in ["application/merge-patch+json", "application/strategic-merge-patch+json"] {
        let uri = format!("{MAPS}/a?fieldValidation=Strict");
        let (got, answer) = server.raw(Method::PATCH, &uri, kind, r#"{"foo":1,"data":{"x":"1","x":"2"}}"#).await;
        assert_eq!(got, 422, "{answer}");
        let text = answer["message"].as_str().unwrap();
        assert!(text.contains("strict decoding error: duplicate field \"data.x\", unknown field \"foo\""), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_that_are_there_twice_are_told_and_dropped() {
    let server = TestServer::start().await;
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "u"});
    let mut object = config_map("a", "1");
    object["metadata"]["ownerReferences"] = json!([owner, owner]);
    let request = http::Request::builder()
        .method(Method::POST)
        .uri(MAPS)
        .header("content-type", "application/json")
        .body(http_body_util::Full::new(bytes::Bytes::from(object.to_string())))
        .unwrap();
    let response = server.send(request).await;
    assert_eq!(response.status(), 201);
    let warning = response.headers()["warning"].to_str().unwrap().to_owned();
    assert!(
        warning.starts_with("299 - \".metadata.ownerReferences contains duplicate entries; ")
            && warning.ends_with("duplicate UID(s) observed: u\""),
        "{warning}"
    );
    let (_, made) = server.get(&format!("{MAPS}/a")).await;
    assert_eq!(made["metadata"]["ownerReferences"], json!([owner]));
}
