//! What particular resources do: services allocate, pods go gently, namespaces end, workloads scale.

use std::collections::BTreeSet;

use futures::future::join_all;
use http::Method;
use serde_json::{Value, json};

use crate::support::{TestServer, config_map, pod};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn service(name: &str, spec: Value) -> Value {
    let mut service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"ports": [{"port": 80}], "selector": {"app": name}},
    });
    service["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    service
}

#[tokio::test(flavor = "multi_thread")]
async fn no_address_or_port_is_handed_out_twice() {
    let server = TestServer::start().await;
    let made =
        join_all(
            (0..40).map(|i| {
                let server = &server;
                async move {
                    server.call(Method::POST, SERVICES, service(&format!("s{i}"), json!({"type": "NodePort"}))).await
                }
            }),
        )
        .await;
    let mut ips = BTreeSet::new();
    let mut ports = BTreeSet::new();
    for (code, made) in made {
        assert_eq!(code, 201, "{made}");
        ips.insert(made["spec"]["clusterIP"].as_str().unwrap().to_owned());
        ports.insert(made["spec"]["ports"][0]["nodePort"].as_i64().unwrap());
    }
    assert_eq!((ips.len(), ports.len()), (40, 40));
    assert!(ports.iter().all(|port| (30000..=32767).contains(port)));
    let (_, list) = server.get("/apis/networking.k8s.io/v1/ipaddresses").await;
    assert_eq!(list["items"].as_array().unwrap().len(), 41, "with the kubernetes service's own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_range_says_so_and_a_deletion_makes_room() {
    // Four usable addresses and six: .1 is the kubernetes service's.
    let server = TestServer::start_with(|config| config.service_cidr = "10.97.0.0/29".parse().unwrap()).await;
    for i in 0..5 {
        let (code, made) = server.call(Method::POST, SERVICES, service(&format!("s{i}"), json!({}))).await;
        assert_eq!(code, 201, "{made}");
    }
    let (code, body) = server.call(Method::POST, SERVICES, service("more", json!({}))).await;
    assert!(code.is_server_error(), "{body}");
    assert!(body["message"].as_str().unwrap().contains("range is full"), "{body}");
    let (_, old) = server.get(&format!("{SERVICES}/s3")).await;
    server.call(Method::DELETE, &format!("{SERVICES}/s3"), Value::Null).await;
    let (code, made) = server.call(Method::POST, SERVICES, service("more", json!({}))).await;
    assert_eq!((code.as_u16(), &made["spec"]["clusterIP"]), (201, &old["spec"]["clusterIP"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_asked_for_is_given_or_refused_in_upstreams_words() {
    let server = TestServer::start().await;
    let wanted = json!({"clusterIP": "10.96.0.9"});
    assert_eq!(server.call(Method::POST, SERVICES, service("a", wanted.clone())).await.0, 201);
    let (code, body) = server.call(Method::POST, SERVICES, service("b", wanted)).await;
    assert_eq!(code, 422);
    assert!(
        body["message"]
            .as_str()
            .unwrap()
            .ends_with("failed to allocate IP 10.96.0.9: provided IP is already allocated")
    );
    assert_eq!(server.get(&format!("{SERVICES}/b")).await.0, 404);
    let (_, made) = server.call(Method::POST, SERVICES, service("c", json!({}))).await;
    let mut changed = made.clone();
    changed["spec"]["type"] = "NodePort".into();
    let (code, changed) = server.call(Method::PUT, &format!("{SERVICES}/c"), changed).await;
    assert_eq!(code, 200, "{changed}");
    assert_eq!(changed["spec"]["clusterIP"], made["spec"]["clusterIP"]);
    assert!(changed["spec"]["ports"][0]["nodePort"].is_number());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_pod_goes_when_its_node_says_so() {
    let server = TestServer::start().await;
    server.default_account().await;
    server.call(Method::POST, PODS, pod("unscheduled")).await;
    let (code, _) = server.call(Method::DELETE, &format!("{PODS}/unscheduled"), Value::Null).await;
    assert_eq!((code.as_u16(), server.get(&format!("{PODS}/unscheduled")).await.0.as_u16()), (200, 404));

    let mut scheduled = pod("a");
    scheduled["spec"]["nodeName"] = "n1".into();
    server.call(Method::POST, PODS, scheduled).await;
    let uri = format!("{PODS}/a");
    let (code, waiting) = server.call(Method::DELETE, &uri, Value::Null).await;
    assert_eq!(code, 200);
    assert_eq!(waiting["metadata"]["deletionGracePeriodSeconds"], 30);
    let (_, again) = server.call(Method::DELETE, &format!("{uri}?gracePeriodSeconds=60"), Value::Null).await;
    assert_eq!(again, waiting, "a deletion is not slowed down");
    let (_, faster) = server.call(Method::DELETE, &format!("{uri}?gracePeriodSeconds=5"), Value::Null).await;
    assert_eq!(faster["metadata"]["deletionGracePeriodSeconds"], 5);
    let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": waiting["metadata"]["uid"]}});
    assert_eq!(server.call(Method::DELETE, &uri, options).await.0, 200);
    assert_eq!(server.get(&uri).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eviction_deletes() {
    let server = TestServer::start().await;
    server.default_account().await;
    server.call(Method::POST, PODS, pod("a")).await;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a"}});
    let (code, body) = server.call(Method::POST, &format!("{PODS}/a/eviction"), eviction).await;
    assert_eq!((code.as_u16(), &body["status"]), (201, &json!("Success")));
    assert_eq!(server.get(&format!("{PODS}/a")).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_spec_are_written_apart() {
    let server = TestServer::start().await;
    server.default_account().await;
    let (_, made) = server.call(Method::POST, PODS, pod("a")).await;
    let mut changed = made.clone();
    changed["status"]["phase"] = "Running".into();
    changed["status"]["message"] = "x".into();
    let (_, main) = server.call(Method::PUT, &format!("{PODS}/a"), changed.clone()).await;
    assert_eq!(main["status"]["phase"], "Pending");
    changed["spec"]["containers"][0]["image"] = "other".into();
    changed["metadata"]["resourceVersion"] = main["metadata"]["resourceVersion"].clone();
    let (code, status) = server.call(Method::PUT, &format!("{PODS}/a/status"), changed).await;
    assert_eq!(code, 200, "{status}");
    assert_eq!(status["status"]["phase"], "Running");
    assert_eq!(status["spec"], made["spec"]);
    let (_, running) = server.get(&format!("{PODS}?fieldSelector=status.phase%3DRunning")).await;
    assert_eq!(running["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_ends_when_it_is_finalized() {
    let server = TestServer::start().await;
    let namespace = json!({"metadata": {"name": "n"}});
    assert_eq!(server.call(Method::POST, "/api/v1/namespaces", namespace).await.0, 201);
    let uri = "/api/v1/namespaces/n";
    let (code, mut ending) = server.call(Method::DELETE, uri, Value::Null).await;
    assert_eq!((code.as_u16(), &ending["status"]["phase"]), (200, &json!("Terminating")));
    let (code, body) = server.call(Method::POST, &format!("{uri}/configmaps"), config_map("a", "1")).await;
    assert_eq!(code, 403);
    assert_eq!(
        body["message"],
        "configmaps \"a\" is forbidden: unable to create new content in namespace n because it is being terminated"
    );
    assert_eq!(body["details"]["causes"][0]["reason"], "NamespaceTerminating");
    ending["spec"]["finalizers"] = json!([]);
    let (code, body) = server.call(Method::PUT, &format!("{uri}/finalize"), ending).await;
    assert_eq!(code, 200, "{body}");
    assert_eq!(server.get(uri).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_scaled() {
    let server = TestServer::start().await;
    let deployment = json!({
        "metadata": {"name": "d"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "d"}},
            "template": {
                "metadata": {"labels": {"app": "d"}},
                "spec": {"containers": [{"name": "main", "image": "registry.example/app:1"}]},
            },
        },
    });
    let base = "/apis/apps/v1/namespaces/default/deployments";
    let (code, made) = server.call(Method::POST, base, deployment).await;
    assert_eq!((code.as_u16(), &made["metadata"]["generation"]), (201, &json!(1)));
    let uri = format!("{base}/d/scale");
    let (code, mut scale) = server.get(&uri).await;
    assert_eq!(code, 200);
    assert_eq!((&scale["kind"], &scale["apiVersion"]), (&json!("Scale"), &json!("autoscaling/v1")));
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(1), &json!("app=d")));
    scale["spec"]["replicas"] = 4.into();
    let (code, answer) = server.call(Method::PUT, &uri, scale.clone()).await;
    assert_eq!((code.as_u16(), &answer["spec"]["replicas"]), (200, &json!(4)));
    let (_, now) = server.get(&format!("{base}/d")).await;
    assert_eq!((&now["spec"]["replicas"], &now["metadata"]["generation"]), (&json!(4), &json!(2)));
    assert_eq!(server.call(Method::PUT, &uri, scale.clone()).await.0, 409, "the version it was read at is gone");
    scale["metadata"]["resourceVersion"] = Value::Null;
    scale["spec"]["replicas"] = (-1).into();
    assert_eq!(server.call(Method::PUT, &uri, scale).await.0, 422);
    let patch = json!({"spec": {"replicas": 2}}).to_string();
    let (code, answer) = server.raw(Method::PATCH, &uri, "application/merge-patch+json", patch).await;
    assert_eq!((code.as_u16(), &answer["spec"]["replicas"]), (200, &json!(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_ask_for_the_container_that_is_meant() {
    let server = TestServer::start().await;
    server.default_account().await;
    let mut two = pod("two");
    two["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "side", "image": "registry.example/side:1"}));
    server.call(Method::POST, PODS, two).await;
    let (code, body) = server.get(&format!("{PODS}/two/log")).await;
    assert_eq!(code, 400);
    assert_eq!(body["message"], "a container name must be specified for pod two, choose one of: [main side]");
    let (code, body) = server.get(&format!("{PODS}/two/log?container=x")).await;
    assert_eq!((code.as_u16(), &body["message"]), (400, &json!("container x is not valid for pod two")));
    let (code, body) = server.get(&format!("{PODS}/two/log?container=side&tailLines=-1")).await;
    assert_eq!(code, 422, "{body}");
    assert_eq!(server.get(&format!("{PODS}/two/log?container=side")).await.0, 200, "no node yet: an empty log");
    assert_eq!(server.get(&format!("{PODS}/none/log")).await.0, 404);
}
