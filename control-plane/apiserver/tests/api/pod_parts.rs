//! Subresources of pods that change or end them: eviction, ephemeralcontainers, resize.

use futures::future::join_all;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{TestServer, pod};

const PODS: &str = "/api/v1/namespaces/default/pods";
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

/// A pod that runs and is ready, or not.
async fn running(server: &TestServer, name: &str, ready: &str) -> Value {
    let mut body = pod(name);
    body["metadata"]["labels"] = json!({"app": "web"});
    body["spec"]["nodeName"] = json!("node");
    let (code, mut body) = server.call(Method::POST, PODS, body).await;
    assert_eq!(code, 201, "{body}");
    body["status"]["phase"] = json!("Running");
    body["status"]["conditions"] = json!([{"type": "Ready", "status": ready}]);
    let (code, body) = server.call(Method::PUT, &format!("{PODS}/{name}/status"), body).await;
    assert_eq!(code, 200, "{body}");
    body
}

/// A budget as the disruption controller has seen it.
async fn budget(server: &TestServer, name: &str, mut spec: Value, status: Value) {
    spec["selector"] = json!({"matchLabels": {"app": "web"}});
    let budget = json!({"metadata": {"name": name}, "spec": spec});
    let (code, mut budget) = server.call(Method::POST, BUDGETS, budget).await;
    assert_eq!(code, 201, "{budget}");
    budget["status"] = status;
    let (code, answer) = server.call(Method::PUT, &format!("{BUDGETS}/{name}/status"), budget).await;
    assert_eq!(code, 200, "{answer}");
    // A read waits until the server has seen it.
    assert_eq!(server.get(&format!("{BUDGETS}/{name}")).await.0, 200);
}

fn status(allowed: i32, healthy: i32, desired: i32) -> Value {
    json!({
        "observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": healthy, "desiredHealthy": desired,
        "expectedPods": 3,
    })
}

async fn evict(server: &TestServer, name: &str) -> (StatusCode, Value) {
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    server.call(Method::POST, &format!("{PODS}/{name}/eviction"), eviction).await
}

#[tokio::test]
async fn of_evictions_that_race_for_one_disruption_one_wins() {
    let server = TestServer::start().await;
    server.default_account().await;
    for name in ["a", "b", "c"] {
        running(&server, name, "True").await;
    }
    budget(&server, "pdb", json!({"maxUnavailable": 1}), status(1, 3, 2)).await;
    let dry = json!({"metadata": {"name": "a"}});
    let (code, answer) = server.call(Method::POST, &format!("{PODS}/a/eviction?dryRun=All"), dry).await;
    assert_eq!(code, 201, "{answer}");
    let answers = join_all(["a", "b", "c"].map(|name| evict(&server, name))).await;
    let won = answers.iter().filter(|(code, _)| *code == StatusCode::CREATED).count();
    assert_eq!(won, 1, "{answers:?}");
    for (code, answer) in answers.iter().filter(|(code, _)| *code != StatusCode::CREATED) {
        assert_eq!(*code, StatusCode::TOO_MANY_REQUESTS, "{answer}");
        assert_eq!(answer["message"], "Cannot evict pod as it would violate the pod's disruption budget.");
        assert_eq!(
            answer["details"]["causes"],
            json!([{
                "reason": "DisruptionBudget",
                "message": "The disruption budget pdb needs 2 healthy pods and has 3 currently",
            }])
        );
    }
    let (_, budget) = server.get(&format!("{BUDGETS}/pdb")).await;
    assert_eq!(budget["status"]["disruptionsAllowed"], 0);
    let disrupted = budget["status"]["disruptedPods"].as_object().unwrap();
    assert_eq!(disrupted.len(), 1);
    assert_eq!(budget["status"]["conditions"][0]["reason"], "InsufficientPods");
    let gone = disrupted.keys().next().unwrap();
    let (_, pod) = server.get(&format!("{PODS}/{gone}")).await;
    assert!(pod["metadata"]["deletionTimestamp"].is_string());
    let conditions = pod["status"]["conditions"].as_array().unwrap();
    let target = conditions.iter().find(|condition| condition["type"] == "DisruptionTarget").unwrap();
    assert_eq!((&target["status"], &target["reason"]), (&json!("True"), &json!("EvictionByEvictionAPI")));
}

#[tokio::test]
async fn a_budget_that_was_not_looked_at_yet_asks_for_patience() {
    let server = TestServer::start().await;
    server.default_account().await;
    running(&server, "a", "True").await;
    budget(
        &server,
        "pdb",
        json!({"minAvailable": 0}),
        json!({"observedGeneration": 0, "disruptionsAllowed": 1,
        "currentHealthy": 1, "desiredHealthy": 0, "expectedPods": 1}),
    )
    .await;
    let (code, answer) = evict(&server, "a").await;
    assert_eq!((code.as_u16(), &answer["details"]["retryAfterSeconds"]), (429, &json!(10)));
    assert_eq!(
        answer["details"]["causes"][0]["message"],
        "The disruption budget pdb is still being processed by the server."
    );
}

#[tokio::test]
async fn unready_pods_go_where_the_budget_lets_them() {
    let server = TestServer::start().await;
    server.default_account().await;
    for name in ["a", "b"] {
        running(&server, name, "False").await;
    }
    budget(&server, "pdb", json!({"minAvailable": 2}), status(0, 1, 2)).await;
    assert_eq!(evict(&server, "a").await.0, 429);
    let patch = json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}}).to_string();
    server.raw(Method::PATCH, &format!("{BUDGETS}/pdb"), "application/merge-patch+json", patch).await;
    assert_eq!(evict(&server, "a").await.0, 201);
    // A pod under two budgets is beyond the API.
    budget(&server, "second", json!({"minAvailable": 1}), status(1, 2, 1)).await;
    let (code, answer) = evict(&server, "b").await;
    assert_eq!(code, 500);
    assert_eq!(
        answer["message"],
        "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
    );
}

#[tokio::test]
async fn pods_that_do_not_run_go_without_asking() {
    let server = TestServer::start().await;
    server.default_account().await;
    let mut pending = pod("a");
    pending["metadata"]["labels"] = json!({"app": "web"});
    server.call(Method::POST, PODS, pending).await;
    budget(&server, "pdb", json!({"minAvailable": 1}), status(0, 0, 1)).await;
    let (code, answer) = evict(&server, "a").await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(server.get(&format!("{PODS}/a")).await.0, 404);
    let body = json!({"metadata": {"name": "other"}});
    let (code, answer) = server.call(Method::POST, &format!("{PODS}/a/eviction"), body).await;
    assert_eq!(
        (code.as_u16(), answer["message"].as_str()),
        (400, Some("name in URL does not match name in Eviction object"))
    );
}

#[tokio::test]
async fn ephemeral_containers_come_and_stay() {
    let server = TestServer::start().await;
    server.default_account().await;
    running(&server, "a", "True").await;
    let uri = format!("{PODS}/a/ephemeralcontainers");
    let debugger = |name: &str, more: Value| {
        let mut container = json!({"name": name, "image": "registry.example/tools:1"});
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"spec": {"ephemeralContainers": [container]}}).to_string()
    };
    let strategic = "application/strategic-merge-patch+json";
    let body = debugger("debug", json!({"targetContainerName": "main", "stdin": true}));
    let (code, answer) = server.raw(Method::PATCH, &uri, strategic, body).await;
    assert_eq!(code, 200, "{answer}");
    assert_eq!(answer["spec"]["ephemeralContainers"][0]["imagePullPolicy"], "IfNotPresent");
    assert_eq!(answer["metadata"]["generation"], 2);
    // The pod can still be updated otherwise.
    let label = json!({"metadata": {"labels": {"new": "label"}}}).to_string();
    let (code, answer) = server.raw(Method::PATCH, &format!("{PODS}/a"), strategic, label).await;
    assert_eq!(code, 200, "{answer}");
    for (body, text) in [
        (
            debugger("debug", json!({"image": "registry.example/tools:2"})),
            "existing ephemeral containers \"debug\" may not be changed",
        ),
        (debugger("main", json!({})), "spec.ephemeralContainers[0].name: Duplicate value: \"main\""),
        (debugger("x", json!({"targetContainerName": "y"})), "targetContainerName: Not found: \"y\""),
        (
            debugger("x", json!({"ports": [{"containerPort": 1}]})),
            "ports: Forbidden: cannot be set for an Ephemeral Container",
        ),
    ] {
        let (code, answer) = server.raw(Method::PATCH, &uri, strategic, body).await;
        assert_eq!(code, 422, "{answer}");
        assert!(answer["message"].as_str().unwrap().contains(text), "{text}: {answer}");
    }
    let none = json!({"spec": {"ephemeralContainers": null}}).to_string();
    let (code, answer) = server.raw(Method::PATCH, &uri, "application/merge-patch+json", none).await;
    assert_eq!(code, 422);
    assert!(answer["message"].as_str().unwrap().contains("existing ephemeral containers \"debug\" may not be removed"));
}

#[tokio::test]
async fn a_resize_changes_cpu_and_memory_only() {
    let server = TestServer::start().await;
    server.default_account().await;
    let mut body = pod("a");
    body["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}});
    let (code, answer) = server.call(Method::POST, PODS, body).await;
    assert_eq!(code, 201, "{answer}");
    let uri = format!("{PODS}/a/resize");
    let resize = |resources: Value| {
        json!({"spec": {"containers": [{"name": "main", "image": "ignored:1", "resources": resources}]}}).to_string()
    };
    let strategic = "application/strategic-merge-patch+json";
    let (code, answer) = server.raw(Method::PATCH, &uri, strategic, resize(json!({"requests": {"cpu": "200m"}}))).await;
    assert_eq!(code, 200, "{answer}");
    assert_eq!(
        answer["spec"]["containers"][0]["resources"],
        json!({"requests": {"cpu": "200m"}, "limits": {"cpu": "1"}})
    );
    assert_eq!(
        (&answer["metadata"]["generation"], &answer["spec"]["containers"][0]["image"]),
        (&json!(2), &json!("registry.example/app:1"))
    );
    for (resources, text) in [
        (json!({"limits": null}), "resources.limits: Forbidden: resource limits cannot be removed"),
        (
            json!({"limits": {"example.com/gpu": "1"}, "requests": {"example.com/gpu": "1"}}),
            "only cpu and memory resources are mutable",
        ),
        (
            json!({"limits": {"memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}),
            "spec: Invalid value: \"Guaranteed\": Pod QOS Class may not change as a result of resizing",
        ),
    ] {
        let (code, answer) = server.raw(Method::PATCH, &uri, strategic, resize(resources)).await;
        assert_eq!(code, 422, "{answer}");
        assert!(answer["message"].as_str().unwrap().contains(text), "{text}: {answer}");
    }
}
