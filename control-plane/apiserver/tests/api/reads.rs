//! What versions of the state a read may ask for, and an etcd that another API server has written.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use skep_storage::Tuning;

use crate::support::{TestServer, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A server that remembers one change.
async fn forgetful() -> TestServer {
    TestServer::start_tuned(Tuning { history_min: 0, history_max: 1, ..Tuning::default() }).await
}

async fn etcd(server: &TestServer) -> etcd_client::Client {
    etcd_client::Client::connect(server.etcd.etcd_config().endpoints, None).await.unwrap()
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

async fn make(server: &TestServer, names: impl IntoIterator<Item = String>) -> i64 {
    let mut last = Value::Null;
    for name in names {
        (_, last) = server.call(Method::POST, MAPS, config_map(&name, "1")).await;
    }
    last["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_go_on_when_the_cache_has_forgotten_and_inconsistently_when_etcd_has() {
    let server = forgetful().await;
    make(&server, (0..6).map(|n| format!("m{n}"))).await;
    let page = async |token: &Value| server.get(&format!("{MAPS}?limit=2&continue={}", token.as_str().unwrap())).await;
    let (_, first) = server.get(&format!("{MAPS}?limit=2")).await;
    for name in ["m3", "m4"] {
        server.call(Method::DELETE, &format!("{MAPS}/{name}"), Value::Null).await;
    }
    let now = make(&server, ["m9".to_owned()]).await;
    let (code, second) = page(&first["metadata"]["continue"]).await;
    assert_eq!((code.as_u16(), names(&second)), (200, vec!["m2", "m3"]));
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert_eq!(second["metadata"]["remainingItemCount"], 2);
    let (_, third) = page(&second["metadata"]["continue"]).await;
    assert_eq!((names(&third), &third["metadata"]["continue"]), (vec!["m4", "m5"], &Value::Null));

    etcd(&server).await.compact(now, None).await.unwrap();
    let (code, expired) = page(&second["metadata"]["continue"]).await;
    assert_eq!((code.as_u16(), &expired["reason"]), (410, &json!("Expired")), "{expired}");
    let (code, rest) = page(&expired["metadata"]["continue"]).await;
    assert_eq!((code.as_u16(), names(&rest)), (200, vec!["m5", "m9"]), "{rest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_version_means_what_the_match_says() {
    let server = forgetful().await;
    let old = make(&server, ["a".to_owned()]).await;
    let new = make(&server, ["b".to_owned(), "c".to_owned()]).await;
    let list = async |query: String| server.get(&format!("{MAPS}?{query}")).await;
    for (query, want) in [
        (format!("resourceVersion={old}&resourceVersionMatch=Exact"), "a"),
        (format!("resourceVersion={old}&resourceVersionMatch=Exact&limit=5"), "a"),
        (format!("resourceVersion={old}&limit=5"), "a"),
        (format!("resourceVersion={new}&resourceVersionMatch=Exact"), "a b c"),
        (format!("resourceVersion={old}"), "a b c"),
        (format!("resourceVersion={old}&resourceVersionMatch=NotOlderThan&limit=5"), "a b c"),
        ("resourceVersion=0".to_owned(), "a b c"),
        (String::new(), "a b c"),
    ] {
        let (code, got) = list(query.clone()).await;
        let got: Vec<_> = names(&got).into_iter().filter(|name| name.len() == 1).map(str::to_owned).collect();
        assert_eq!((code.as_u16(), got.join(" ").as_str()), (200, want), "{query}");
    }
    let (_, exact) = list(format!("resourceVersion={old}&resourceVersionMatch=Exact")).await;
    assert_eq!(exact["metadata"]["resourceVersion"], old.to_string());

    let future = new + 1_000;
    for uri in [format!("{MAPS}?resourceVersion={future}"), format!("{MAPS}/a?resourceVersion={future}")] {
        let request = Request::get(&uri).body(Full::new(Bytes::new())).unwrap();
        let (head, body) = server.send(request).await.into_parts();
        let status: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
        assert_eq!((head.status.as_u16(), &status["reason"]), (504, &json!("Timeout")), "{status}");
        assert_eq!(head.headers["retry-after"], "1");
        assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
        assert!(status["message"].as_str().unwrap().contains("Too large resource version"), "{status}");
    }
    etcd(&server).await.compact(new, None).await.unwrap();
    let (code, gone) = list(format!("resourceVersion={old}&resourceVersionMatch=Exact")).await;
    assert_eq!((code.as_u16(), &gone["reason"]), (410, &json!("Expired")), "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_share_one_encoding_of_an_event_and_format() {
    let server = TestServer::start().await;
    let (_, made) = server.call(Method::POST, MAPS, config_map("a", "1")).await;
    let from = made["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watches = Vec::new();
    for number in 0..12 {
        let accept = [
            "application/json",
            "application/vnd.kubernetes.protobuf;stream=watch, application/vnd.kubernetes.protobuf",
            "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
        ][number % 3];
        let request = Request::get(format!("{MAPS}?watch=1&resourceVersion={from}")).header("accept", accept);
        watches.push(server.send(request.body(Full::new(Bytes::new())).unwrap()).await.into_body());
    }
    let before = frames(&server);
    let (_, _) = server.call(Method::PUT, &format!("{MAPS}/a"), config_map("a", "2")).await;
    let mut bodies = Vec::new();
    for watch in &mut watches {
        bodies.push(watch.frame().await.unwrap().unwrap().into_data().unwrap());
    }
    assert!(bodies.iter().zip(bodies.iter().skip(3)).all(|(one, other)| one == other));
    assert!(bodies[0].starts_with(br#"{"type":"MODIFIED","object":{"#));
    assert_eq!(frames(&server) - before, 3);
}

fn frames(server: &TestServer) -> u64 {
    let mut registry = prometheus_client::registry::Registry::default();
    server.storage.register_metrics(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let name = r#"skep_storage_watch_frames_encoded_total{resource="configmaps"} "#;
    text.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_gets_a_bookmark_before_its_time_is_up() {
    let server = TestServer::start().await;
    let from = make(&server, ["a".to_owned()]).await;
    let uri = format!("{MAPS}?watch=1&allowWatchBookmarks=true&timeoutSeconds=3&resourceVersion={from}");
    let body = server.send(Request::get(uri).body(Full::new(Bytes::new())).unwrap()).await.into_body();
    let all = tokio::time::timeout(Duration::from_secs(30), body.collect()).await.unwrap().unwrap().to_bytes();
    let events: Vec<Value> = serde_json::Deserializer::from_slice(&all).into_iter().map(Result::unwrap).collect();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["type"], "BOOKMARK");
    let version: i64 = events[0]["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert!(version >= from);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_upstream_is_taken_over() {
    let server = TestServer::start().await;
    let mut raw = etcd(&server).await;
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "web", "namespace": "default", "uid": "u1", "generation": 1,
                      "creationTimestamp": "2025-01-02T03:04:05Z", "labels": { "app": "web" } },
        "spec": { "replicas": 2, "selector": { "matchLabels": { "app": "web" } },
                  "template": { "metadata": { "labels": { "app": "web" } },
                                "spec": { "containers": [{ "name": "c", "image": "registry.example/app:1" }] } } },
    });
    let scaler = json!({
        "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler",
        "metadata": { "name": "web", "namespace": "default", "uid": "u2" },
        "spec": { "maxReplicas": 3, "targetCPUUtilizationPercentage": 50,
                  "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "web" } },
    });
    for (key, object) in [("deployments/default/web", &deployment), ("horizontalpodautoscalers/default/web", &scaler)] {
        raw.put(format!("/registry/{key}"), skep_protobuf::encode(object).unwrap(), None).await.unwrap();
    }
    let uri = "/apis/apps/v1/namespaces/default/deployments/web";
    let (code, read) = server.get(uri).await;
    assert_eq!((code.as_u16(), &read["spec"]["replicas"], &read["metadata"]["uid"]), (200, &json!(2), &json!("u1")));
    let patch = json!({ "spec": { "replicas": 3 } }).to_string();
    let (code, patched) = server.raw(Method::PATCH, uri, "application/merge-patch+json", patch).await;
    assert_eq!((code.as_u16(), &patched["metadata"]["generation"]), (200, &json!(2)), "{patched}");
    let stored = raw.get("/registry/deployments/default/web", None).await.unwrap();
    let stored: Value = serde_json::from_slice(stored.kvs()[0].value()).unwrap();
    assert_eq!((&stored["apiVersion"], &stored["kind"]), (&json!("apps/v1"), &json!("Deployment")));

    let path = |version: &str| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers/web");
    let (code, read) = server.get(&path("v2")).await;
    assert_eq!((code.as_u16(), &read["apiVersion"]), (200, &json!("autoscaling/v2")), "{read}");
    assert_eq!(read["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50, "{read}");
    let (_, read) = server.get(&path("v1")).await;
    assert_eq!(read["spec"]["targetCPUUtilizationPercentage"], 50, "{read}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_services_of_upstream_hold_is_not_given_out_again() {
    let server = TestServer::start().await;
    let mut raw = etcd(&server).await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "old", "namespace": "default", "uid": "u" },
        "spec": { "type": "NodePort", "clusterIP": "10.96.0.77", "clusterIPs": ["10.96.0.77"],
                  "ports": [{ "port": 80, "nodePort": 30077 }] },
    });
    let stored = skep_protobuf::encode(&service).unwrap();
    raw.put("/registry/services/specs/default/old", stored, None).await.unwrap();
    let revision = server.storage.read_revision().await.unwrap();
    server.storage.wait_for(revision).await.unwrap();
    let _next = crate::masters::join(&server, "192.0.2.2").await;
    let (code, address) = server.get("/apis/networking.k8s.io/v1/ipaddresses/10.96.0.77").await;
    assert_eq!((code.as_u16(), &address["spec"]["parentRef"]["name"]), (200, &json!("old")));
    let mut same = json!({ "metadata": { "name": "new" }, "spec": { "type": "NodePort", "ports": [{ "port": 80 }] } });
    same["spec"]["ports"][0]["nodePort"] = json!(30077);
    let (code, refused) = server.call(Method::POST, "/api/v1/namespaces/default/services", same).await;
    assert_eq!(code.as_u16(), 422);
    assert!(refused["message"].as_str().unwrap().contains("provided port is already allocated"), "{refused}");
}
