//! Empty lists and maps that upstream's types leave out, and paths it does not have.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{TestServer, config_map};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "annotations": {}},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}, "matchExpressions": []},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "containers": [{"name": "main", "image": "i:1", "env": [], "args": [], "resources": {"limits": {}}}],
                    "volumes": [{"name": "v", "emptyDir": {}}], "nodeSelector": {}, "initContainers": [],
                },
            },
        },
    })
}

#[track_caller]
fn assert_omitted(code: StatusCode, made: &Value) {
    assert!(code.is_success(), "{made}");
    let spec = &made["spec"]["template"]["spec"];
    let container = &spec["containers"][0];
    for absent in ["env", "args"] {
        assert_eq!(container.get(absent), None, "{absent}");
    }
    for absent in ["nodeSelector", "initContainers"] {
        assert_eq!(spec.get(absent), None, "{absent}");
    }
    assert_eq!(made["spec"]["selector"].get("matchExpressions"), None);
    assert_eq!(container["resources"], json!({}));
    assert_eq!(spec["volumes"][0]["emptyDir"], json!({}));
    let owned = made["metadata"]["managedFields"].to_string();
    assert!(!owned.contains("f:env") && !owned.contains("f:nodeSelector"), "nobody owns what is not there: {owned}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_empty_comes_back_without() {
    let server = TestServer::start().await;
    let (code, made) = server.call(Method::POST, DEPLOYMENTS, deployment()).await;
    assert_omitted(code, &made);
    let uri = format!("{DEPLOYMENTS}/web");
    let (code, replaced) = server.call(Method::PUT, &uri, deployment()).await;
    assert_omitted(code, &replaced);
    assert_eq!(replaced["metadata"]["generation"], 1, "that changes nothing");
    let pretty = serde_json::to_string_pretty(&deployment()).unwrap();
    let (code, replaced) = server.raw(Method::PUT, &uri, "application/yaml", pretty).await;
    assert_omitted(code, &replaced);
    let change = json!([
        {"op": "add", "path": "/spec/template/spec/containers/0/env", "value": []},
        {"op": "add", "path": "/spec/template/spec/nodeSelector", "value": {}},
    ]);
    let (code, patched) = server.patch("json-patch", &uri, change).await;
    assert_omitted(code, &patched);
    // A list that becomes empty goes, too.
    for env in [json!([{"name": "a", "value": "1"}]), json!([])] {
        let change = json!([{"op": "add", "path": "/spec/template/spec/containers/0/env", "value": env}]);
        assert_eq!(server.patch("json-patch", &uri, change).await.0, 200);
    }
    let (code, read) = server.get(&uri).await;
    assert_omitted(code, &read);

    // What upstream writes stays.
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let made = server.create(roles, json!({"metadata": {"name": "nothing"}, "rules": []})).await;
    assert_eq!(made["rules"], json!([]));
    let made = server.create("/api/v1/namespaces/default/configmaps", config_map("a", "1")).await;
    assert_eq!(made["data"], json!({"key": "1"}));
    let (code, body) = server.call(Method::POST, DEPLOYMENTS, json!({"metadata": {"name": "b"}, "spec": []})).await;
    assert_eq!(code, 400, "what has the wrong type is told as ever: {body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_object_has_no_path_without_its_namespace() {
    let server = TestServer::start().await;
    for path in ["/apis/rbac.authorization.k8s.io/v1/roles/x", "/api/v1/pods/x", "/api/v1/pods/x/status"] {
        for method in [Method::GET, Method::PUT, Method::DELETE] {
            let (code, body) = server.call(method.clone(), path, json!({})).await;
            assert_eq!((code.as_u16(), &body["reason"]), (404, &json!("NotFound")), "{method} {path}: {body}");
            assert_eq!(body["message"], "the server could not find the requested resource");
        }
    }
    let (code, _) = server.call(Method::POST, "/api/v1/pods", json!({})).await;
    assert_eq!(code, 405);
}
