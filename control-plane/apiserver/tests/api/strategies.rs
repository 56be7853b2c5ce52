//! What strategies promise, seen from outside: allocation under competition, split of spec and status, tables, selectors.

use std::collections::HashSet;

use futures::future::join_all;
use http::Method;
use serde_json::{Value, json};

use crate::support::{TestServer, pod};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn node_port(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}})
}

/// 14 addresses, one of which is the `kubernetes` Service's.
async fn small_range() -> TestServer {
    TestServer::start_with(|config| {
        config.service_cidr = "10.96.0.0/28".parse().unwrap();
        config.node_port_range = 30000..=30063;
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn services_made_at_once_never_share_an_address_or_a_port() {
    let server = small_range().await;
    let names: Vec<String> = (0..13).map(|i| format!("s{i}")).collect();
    let made = join_all(names.iter().map(|name| server.call(Method::POST, SERVICES, node_port(name)))).await;
    let mut addresses = HashSet::from(["10.96.0.1".to_owned()]);
    let mut ports = HashSet::new();
    for (code, service) in made {
        assert_eq!(code, 201, "{service}");
        assert!(addresses.insert(service["spec"]["clusterIP"].as_str().unwrap().to_owned()), "{service}");
        assert!(ports.insert(service["spec"]["ports"][0]["nodePort"].as_i64().unwrap()), "{service}");
    }
    let (code, full) = server.call(Method::POST, SERVICES, node_port("late")).await;
    assert_eq!(code, 500, "{full}");
    assert!(full["message"].as_str().unwrap().contains("range is full"), "{full}");

    let (code, _) = server.call(Method::DELETE, &format!("{SERVICES}/s3"), Value::Null).await;
    assert_eq!(code, 200);
    let (code, service) = server.call(Method::POST, SERVICES, node_port("late")).await;
    assert_eq!(code, 201, "{service}");
    let (_, list) = server.get("/apis/networking.k8s.io/v1/ipaddresses").await;
    assert_eq!(list["items"].as_array().unwrap().len(), 14);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_not_given_again() {
    let server = small_range().await;
    let service = json!({"metadata": {"name": "a"}, "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}});
    let (code, error) = server.call(Method::POST, SERVICES, service).await;
    assert_eq!(code, 422);
    assert_eq!(
        error["message"],
        "Service \"a\" is invalid: spec.clusterIPs: Invalid value: [\"10.96.0.1\"]: failed to allocate IP 10.96.0.1: \
         provided IP is already allocated"
    );
    // Nothing was left behind.
    assert_eq!(server.get(&format!("{SERVICES}/a")).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn spec_and_status_are_written_apart_and_generation_follows_spec() {
    let server = TestServer::start().await;
    server.default_account().await;
    let mut wanted = pod("p");
    wanted["status"] = json!({"phase": "Running"});
    let (code, made) = server.call(Method::POST, PODS, wanted).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["status"]["phase"], "Pending");
    assert_eq!(made["metadata"]["generation"], 1);

    let merge = "application/strategic-merge-patch+json";
    let body = json!({"spec": {"containers": [{"name": "main", "image": "x:2"}]}, "status": {"phase": "Running"}});
    let uri = format!("{PODS}/p/status");
    let (code, patched) = server.raw(Method::PATCH, &uri, merge, body.to_string()).await;
    assert_eq!(code, 200, "{patched}");
    assert_eq!(patched["status"]["phase"], "Running");
    assert_eq!(patched["spec"]["containers"][0]["image"], "registry.example/app:1");
    assert_eq!(patched["metadata"]["generation"], 1);

    let (code, patched) = server.raw(Method::PATCH, &format!("{PODS}/p"), merge, body.to_string()).await;
    assert_eq!(code, 200, "{patched}");
    assert_eq!(patched["spec"]["containers"][0]["image"], "x:2");
    assert_eq!(patched["metadata"]["generation"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_found_by_fields_with_and_without_a_value() {
    let server = TestServer::start().await;
    server.default_account().await;
    for (name, node) in [("a", None), ("b", Some("n1"))] {
        let mut wanted = pod(name);
        if let Some(node) = node {
            wanted["spec"]["nodeName"] = json!(node);
        }
        assert_eq!(server.call(Method::POST, PODS, wanted).await.0, 201);
    }
    for (selector, want) in [
        ("spec.nodeName%3D", vec!["a"]),
        ("spec.nodeName%3Dn1", vec!["b"]),
        ("spec.hostNetwork%3Dfalse,status.phase%3DPending", vec!["a", "b"]),
        ("metadata.name!%3Da", vec!["b"]),
    ] {
        let (code, list) = server.get(&format!("{PODS}?fieldSelector={selector}")).await;
        assert_eq!(code, 200, "{list}");
        let names: Vec<_> =
            list["items"].as_array().unwrap().iter().map(|p| p["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, want, "{selector}");
    }
    let (code, error) = server.get(&format!("{PODS}?fieldSelector=spec.image%3Dx")).await;
    assert_eq!(code, 400);
    assert!(error["message"].as_str().unwrap().contains("field label not supported: spec.image"), "{error}");
}
