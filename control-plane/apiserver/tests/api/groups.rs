//! Groups beyond the first: versions that share storage, subresources of their own, and what is there from the start.

use http::Method;
use serde_json::{Value, json};

use crate::support::TestServer;

#[tokio::test(flavor = "multi_thread")]
async fn an_autoscaler_is_one_object_in_two_versions() {
    let server = TestServer::start().await;
    let of = |version: &str| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers");
    let made = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"},
        "spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "targetCPUUtilizationPercentage": 50}});
    let (code, v1) = server.call(Method::POST, &of("v1"), made).await;
    assert_eq!(code, 201, "{v1}");
    assert_eq!((&v1["apiVersion"], &v1["spec"]["minReplicas"]), (&json!("autoscaling/v1"), &json!(1)));
    let (_, v2) = server.get(&format!("{}/web", of("v2"))).await;
    assert_eq!(v2["apiVersion"], "autoscaling/v2");
    assert_eq!(v2["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
    assert_eq!(v2["metadata"]["resourceVersion"], v1["metadata"]["resourceVersion"]);

    // A patch is applied to what its version shows.
    let patch = json!({"spec": {"targetCPUUtilizationPercentage": 70}}).to_string();
    let uri = format!("{}/web", of("v1"));
    let (code, patched) = server.raw(Method::PATCH, &uri, "application/merge-patch+json", patch).await;
    assert_eq!((code.as_u16(), &patched["spec"]["targetCPUUtilizationPercentage"]), (200, &json!(70)), "{patched}");
    for (version, kind) in [("v1", "autoscaling/v1"), ("v2", "autoscaling/v2")] {
        let (_, list) = server.get(&of(version)).await;
        assert_eq!((&list["apiVersion"], &list["items"][0]["apiVersion"]), (&json!(kind), &json!(kind)));
    }
    let (_, group) = server.get("/apis/autoscaling").await;
    assert_eq!(group["preferredVersion"]["version"], "v2");
    let (_, error) = server.get(&format!("{}?fieldSelector=spec.maxReplicas%3D3", of("v1"))).await;
    assert_eq!(error["code"], 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_the_same_in_both_groups() {
    let server = TestServer::start().await;
    const CORE: &str = "/api/v1/namespaces/default/events";
    const NEW: &str = "/apis/events.k8s.io/v1/namespaces/default/events";
    let event = |name: &str, pod: &str| {
        json!({"metadata": {"name": name}, "involvedObject": {"kind": "Pod", "namespace": "default", "name": pod},
            "reason": "Pulled", "message": "done", "type": "Normal", "count": 2})
    };
    for (name, pod) in [("a", "p"), ("b", "q")] {
        assert_eq!(server.call(Method::POST, CORE, event(name, pod)).await.0, 201);
    }
    let (code, list) = server.get(&format!("{NEW}?fieldSelector=regarding.name%3Dp")).await;
    assert_eq!(code, 200, "{list}");
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list}");
    let one = &list["items"][0];
    assert_eq!((&one["apiVersion"], &one["note"]), (&json!("events.k8s.io/v1"), &json!("done")));
    assert_eq!((&one["regarding"]["name"], &one["deprecatedCount"]), (&json!("p"), &json!(2)));
    let (code, error) = server.get(&format!("{NEW}?fieldSelector=involvedObject.name%3Dp")).await;
    assert_eq!(code, 400, "{error}");

    let new = json!({"metadata": {"name": "c"}, "eventTime": "2024-01-01T00:00:00.000000Z", "action": "Bind",
        "reason": "Scheduled", "note": "there", "type": "Normal", "reportingController": "s/x", "reportingInstance": "i",
        "regarding": {"kind": "Pod", "namespace": "default", "name": "p"}});
    let (code, made) = server.call(Method::POST, NEW, new).await;
    assert_eq!(code, 201, "{made}");
    let (_, seen) = server.get(&format!("{CORE}/c")).await;
    assert_eq!((&seen["message"], &seen["involvedObject"]["name"]), (&json!("there"), &json!("p")));
    let (code, error) = server.call(Method::POST, NEW, json!({"metadata": {"name": "d"}})).await;
    assert_eq!(code, 422, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_a_certificate_is_approved_through_its_subresource() {
    let server = TestServer::start().await;
    const URI: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    // "-----BEGIN CERTIFICATE REQUEST-----"
    let pem = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0=";
    let (code, mut made) = server
        .call(
            Method::POST,
            URI,
            json!({"metadata": {"name": "r"}, "spec": {"request": pem,
            "signerName": "example.com/signer", "usages": ["client auth"]}}),
        )
        .await;
    assert_eq!((code.as_u16(), &made["spec"]["username"]), (201, &json!("admin")), "{made}");
    made["status"]["conditions"] = json!([{"type": "Approved", "status": "True", "reason": "Test"}]);
    let (code, same) = server.call(Method::PUT, &format!("{URI}/r"), made.clone()).await;
    assert_eq!((code.as_u16(), &same["status"]["conditions"]), (200, &Value::Null), "{same}");
    let (code, approved) = server.call(Method::PUT, &format!("{URI}/r/approval"), made).await;
    assert_eq!((code.as_u16(), &approved["status"]["conditions"][0]["type"]), (200, &json!("Approved")), "{approved}");
}

#[tokio::test(flavor = "multi_thread")]
async fn some_objects_are_there_from_the_start() {
    let server = TestServer::start().await;
    for path in [
        "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical",
        "/apis/scheduling.k8s.io/v1/priorityclasses/system-cluster-critical",
        "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/catch-all",
        "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations/exempt",
    ] {
        assert_eq!(server.get(path).await.0, 200, "{path}");
    }
    let (_, range) = server.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes").await;
    assert_eq!(range["spec"]["cidrs"], json!(["10.96.0.0/24"]));
    assert_eq!(range["status"]["conditions"][0]["status"], "True");
    let uri = "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical";
    assert_eq!(server.call(Method::DELETE, uri, Value::Null).await.0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_resource_lists_and_refuses_nonsense() {
    let server = TestServer::start().await;
    server.default_account().await;
    for info in skep_api::built_in() {
        let root = if info.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", info.group) };
        let scope = if info.namespaced { "/namespaces/default" } else { "" };
        let uri = format!("{root}/{}{scope}/{}", info.version, info.plural);
        let (code, list) = server.get(&uri).await;
        assert_eq!((code.as_u16(), &list["kind"]), (200, &json!(info.list_kind())), "{uri}: {list}");
        let (code, error) = server.call(Method::POST, &uri, json!({"metadata": {"name": "Not A Name/"}})).await;
        assert_eq!(code, 422, "{uri}: {error}");
    }
}
