//! The server's own checks see what webhooks have changed: those that fill in run once more, those that judge come after.

use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::{
    support::{TestServer, config_map, pod},
    webhooks::{MUTATING, WebhookServer, configure, hook},
};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// A webhook that is asked about new pods.
fn pods(name: &str, client: Value) -> Value {
    let rules = json!([{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]);
    hook(name, client, json!({"rules": rules}))
}

/// Registers webhooks beside one whose effect on ConfigMaps tells that they are asked.
async fn register(test: &TestServer, server: &WebhookServer, mut hooks: Vec<Value>) {
    hooks.push(hook("marks", server.url("/first"), json!({})));
    configure(test, MUTATING, hooks.into(), |_, body| body["data"]["first"] == "yes").await;
}

async fn create(test: &TestServer, name: &str) -> (StatusCode, Value) {
    test.call(Method::POST, PODS, pod(name)).await
}

async fn limit_range(test: &TestServer) {
    let range = json!({
        "metadata": {"name": "defaults"},
        "spec": {"limits": [{"type": "Container", "defaultRequest": {"cpu": "100m"}}]},
    });
    test.create("/api/v1/namespaces/default/limitranges", range).await;
    test.settle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_webhooks_add_is_filled_in_like_the_rest() {
    let test = TestServer::start().await;
    test.default_account().await;
    limit_range(&test).await;
    let server = WebhookServer::start(&test).await;
    let mut watcher = pods("watches", server.url("/ok"));
    watcher["reinvocationPolicy"] = "IfNeeded".into();
    register(&test, &server, vec![watcher, pods("sidecar", server.url("/sidecar"))]).await;
    let (code, made) = create(&test, "a").await;
    assert_eq!(code, 201, "{made}");
    let containers = made["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 2, "who adds is asked once");
    let account = |container: &Value| container["volumeMounts"][0]["mountPath"].clone();
    assert_eq!(account(&containers[1]), account(&containers[0]));
    assert_eq!(account(&containers[1]), "/var/run/secrets/kubernetes.io/serviceaccount");
    assert_eq!(containers[1]["resources"]["requests"]["cpu"], "100m");
    let asked = server.asked("/ok");
    assert_eq!(asked.len(), 2, "who wants to is asked again");
    let again = &asked[1]["request"]["object"]["spec"]["containers"][1];
    assert_eq!(again["resources"]["requests"]["cpu"], "100m", "after what the server has filled in");
    assert_eq!(server.asked("/sidecar").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_webhooks_make_is_judged_like_the_rest() {
    let test = TestServer::start().await;
    test.default_account().await;
    limit_range(&test).await;
    let server = WebhookServer::start(&test).await;
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"requests.cpu": "150m"}}});
    test.create("/api/v1/namespaces/default/resourcequotas", quota).await;
    let status = json!({"status": {"hard": {"requests.cpu": "150m"}, "used": {"requests.cpu": "0"}}});
    let uri = "/api/v1/namespaces/default/resourcequotas/q/status";
    assert_eq!(test.patch("merge-patch", uri, status).await.0, 200);
    test.settle().await;
    let (code, body) = test.call(Method::POST, &format!("{PODS}?dryRun=All"), pod("alone")).await;
    assert_eq!(code, 201, "one container fits: {body}");

    register(&test, &server, vec![pods("sidecar", server.url("/sidecar"))]).await;
    let (code, body) = create(&test, "a").await;
    assert_eq!(code, 403, "{body}");
    let message = body["message"].as_str().unwrap();
    assert!(message.contains("exceeded quota: q, requested: requests.cpu=200m"), "{message}");

    let bare = json!({"metadata": {"name": "strict", "labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
    test.create("/api/v1/namespaces", bare).await;
    test.create("/api/v1/namespaces/strict/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    test.settle().await;
    let change = json!([{"op": "replace", "path": "/webhooks/0/clientConfig", "value": server.url("/privileged")}]);
    let config = format!("{MUTATING}/{}", MUTATING.rsplit('/').next().unwrap());
    assert_eq!(test.patch("json-patch", &config, change).await.0, 200);
    let strict = "/api/v1/namespaces/strict/pods";
    let message = told(&test, strict, "privileged").await;
    assert!(message.contains("violates PodSecurity \"baseline:latest\": privileged (container \"side\""), "{message}");

    let change = json!([{"op": "replace", "path": "/webhooks/0/clientConfig", "value": server.url("/account")}]);
    assert_eq!(test.patch("json-patch", &config, change).await.0, 200);
    let message = told(&test, strict, "service account").await;
    assert_eq!(
        message,
        "pods \"a\" is forbidden: error looking up service account strict/gone: serviceaccount \"gone\" not found"
    );
}

/// Tries until a refusal speaks of something: the changed webhook is not asked at once.
async fn told(test: &TestServer, uri: &str, of: &str) -> String {
    for _ in 0..500 {
        let (_, body) = test.call(Method::POST, &format!("{uri}?dryRun=All"), pod("a")).await;
        match body["message"].as_str() {
            Some(message) if message.contains(of) => return message.to_owned(),
            _ => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
    panic!("nothing is said of {of}");
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_that_a_webhook_breaks_are_mended_with_a_warning() {
    let test = TestServer::start().await;
    let server = WebhookServer::start(&test).await;
    register(&test, &server, vec![hook("owners", server.url("/owners"), json!({}))]).await;
    let request = Request::post("/api/v1/namespaces/default/configmaps").header("content-type", "application/json");
    let request = request.body(Full::new(config_map("a", "1").to_string().into())).unwrap();
    let response = test.send(request).await;
    assert_eq!(response.status(), 201);
    let warning = response.headers()["warning"].to_str().unwrap();
    assert!(
        warning.starts_with("299 - \".metadata.managedFields was in an invalid state after admission; "),
        "{warning}"
    );
    let (_, made) = test.get("/api/v1/namespaces/default/configmaps/a").await;
    let owner = &made["metadata"]["managedFields"][0];
    assert_eq!((&owner["operation"], &owner["manager"]), (&json!("Update"), &json!("unknown")), "{made}");
}
