//! What typed Go clients do: bodies in protobuf, and answers for those who take nothing else.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use skep_protobuf::{MEDIA_TYPE, WATCH_MEDIA_TYPE};

use crate::support::TestServer;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// What kubectl 1.32 sends for `kubectl create configmap a --from-literal=x=y`.
const CONFIG_MAP: &[u8] =
    b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x1b\x0a\x11\x0a\x01a\x12\0\x1a\0\x22\0\x2a\0\x32\0\
    \x38\0\x42\0\x12\x06\x0a\x01x\x12\x01y\x1a\0\x22\0";

async fn send(server: &TestServer, method: Method, uri: &str, object: &Value) -> (StatusCode, Value) {
    server.raw(method, uri, MEDIA_TYPE, skep_protobuf::encode(object).unwrap()).await
}

/// The answer to a request that takes only `accept`: code, media type, bytes.
async fn take(server: &TestServer, method: Method, uri: &str, accept: &str) -> (StatusCode, String, Bytes) {
    let request = Request::builder().method(method).uri(uri).header("accept", accept).body(Full::default()).unwrap();
    let (parts, body) = server.send(request).await.into_parts();
    let media_type = parts.headers["content-type"].to_str().unwrap().to_owned();
    (parts.status, media_type, body.collect().await.unwrap().to_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_typed_clients_are_read() {
    let server = TestServer::start().await;
    let (code, made) = server.raw(Method::POST, MAPS, MEDIA_TYPE, CONFIG_MAP).await;
    assert_eq!((code.as_u16(), &made["data"]), (201, &json!({"x": "y"})));

    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"type": "", "sessionAffinity": "", "selector": {"app": "a"},
            "ports": [{"port": 80, "targetPort": "http", "nodePort": 0, "protocol": ""}]}});
    let (code, made) = send(&server, Method::POST, "/api/v1/namespaces/default/services", &service).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"]["type"], "ClusterIP");
    assert_eq!(made["spec"]["sessionAffinity"], "None");
    assert_eq!(made["spec"]["ports"], json!([{"port": 80, "targetPort": "http", "protocol": "TCP"}]));

    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 0, "revisionHistoryLimit": 0, "strategy": {"type": ""}, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {
                "terminationGracePeriodSeconds": 0, "restartPolicy": "", "hostNetwork": false,
                "containers": [{"name": "c", "image": "i", "imagePullPolicy": "", "resources": {"requests": {"cpu": "250m"}},
                    "securityContext": {"runAsUser": 0, "allowPrivilegeEscalation": false},
                    "readinessProbe": {"httpGet": {"port": 80}, "timeoutSeconds": 0}}]}}},
        "status": {}});
    let (code, made) = send(&server, Method::POST, deployments, &deployment).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!((&made["spec"]["replicas"], &made["spec"]["revisionHistoryLimit"]), (&json!(0), &json!(0)));
    assert_eq!(made["spec"]["strategy"]["type"], "RollingUpdate");
    let pod = &made["spec"]["template"]["spec"];
    assert_eq!((&pod["terminationGracePeriodSeconds"], &pod["restartPolicy"]), (&json!(0), &json!("Always")));
    let container = &pod["containers"][0];
    assert_eq!(container["securityContext"], json!({"runAsUser": 0, "allowPrivilegeEscalation": false}));
    assert_eq!(container["readinessProbe"]["timeoutSeconds"], 1);
    assert_eq!(container["resources"], json!({"requests": {"cpu": "250m"}}));

    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d", "namespace": "default"},
        "spec": {"replicas": 3}});
    let (code, scaled) = send(&server, Method::PUT, &format!("{deployments}/d/scale"), &scale).await;
    assert_eq!((code.as_u16(), &scaled["spec"]["replicas"]), (200, &json!(3)));

    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "other"}});
    let (code, refused) = send(&server, Method::DELETE, &format!("{MAPS}/a"), &options).await;
    assert_eq!((code.as_u16(), &refused["reason"]), (409, &json!("Conflict")));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_not_what_they_say_are_refused() {
    let server = TestServer::start().await;
    for (body, said) in [
        (&CONFIG_MAP[..40], "unexpected end of the protobuf message"),
        (b"{}", "does not appear to be a protobuf message"),
        (b"k8s\0", "'Kind' is missing"),
        (b"k8s\0\x0a\x06\x12\x04Nope", "no kind \\\"Nope\\\" is registered"),
        (b"k8s\0\x0a\x06\x12\x04List\x12\x02\x0a\x7f", "unexpected end"),
    ] {
        let (code, answer) = server.raw(Method::POST, MAPS, MEDIA_TYPE, body).await;
        assert_eq!(code, 400, "{answer}");
        assert!(answer["message"].to_string().contains(said), "{answer}");
    }
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}});
    let (code, answer) = send(&server, Method::POST, MAPS, &secret).await;
    assert_eq!(code, 400, "{answer}");
    let (code, _) = server.raw(Method::PATCH, &format!("{MAPS}/a"), MEDIA_TYPE, CONFIG_MAP).await;
    assert_eq!(code, 415);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_nothing_else_is_answered_in_protobuf() {
    let server = TestServer::start().await;
    let (code, made) = server.raw(Method::POST, MAPS, MEDIA_TYPE, CONFIG_MAP).await;
    assert_eq!(code, 201);
    let one = format!("{MAPS}/a");

    let (code, media_type, body) = take(&server, Method::GET, &one, MEDIA_TYPE).await;
    assert_eq!((code.as_u16(), media_type.as_str()), (200, MEDIA_TYPE));
    assert_eq!(skep_protobuf::decode(&body).unwrap().1, made);

    let (_, media_type, _) =
        take(&server, Method::GET, &one, "application/vnd.kubernetes.protobuf,application/json").await;
    assert_eq!(media_type, "application/json");

    let (_, _, body) = take(&server, Method::GET, MAPS, MEDIA_TYPE).await;
    let (meta, list) = skep_protobuf::decode(&body).unwrap();
    assert_eq!((meta.api_version.as_str(), meta.kind.as_str()), ("v1", "ConfigMapList"));
    assert_eq!(list["items"][0]["data"], json!({"x": "y"}));
    assert!(list["metadata"]["resourceVersion"].is_string());

    let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let (_, _, body) = take(&server, Method::GET, MAPS, metadata).await;
    let (meta, list) = skep_protobuf::decode(&body).unwrap();
    assert_eq!(meta.kind, "PartialObjectMetadataList");
    assert_eq!(list["items"][0]["metadata"]["name"], "a");

    let (code, media_type, body) = take(&server, Method::GET, &format!("{MAPS}/none"), MEDIA_TYPE).await;
    assert_eq!((code.as_u16(), media_type.as_str()), (404, MEDIA_TYPE));
    let (_, status) = skep_protobuf::decode(&body).unwrap();
    assert_eq!((&status["reason"], &status["code"]), (&json!("NotFound"), &json!(404)));

    let (_, _, body) = take(&server, Method::GET, "/apis", MEDIA_TYPE).await;
    assert_eq!(skep_protobuf::decode(&body).unwrap().0.kind, "APIGroupList");

    let (code, _, _) = take(&server, Method::GET, "/version", MEDIA_TYPE).await;
    assert_eq!(code, 406);
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_come_in_frames_of_protobuf() {
    let server = TestServer::start().await;
    server.raw(Method::POST, MAPS, MEDIA_TYPE, CONFIG_MAP).await;
    let uri = format!("{MAPS}?watch=true&timeoutSeconds=1&fieldSelector=metadata.name%3Da");
    let accept = format!("{MEDIA_TYPE};stream=watch");
    let (code, media_type, body) = take(&server, Method::GET, &uri, &accept).await;
    assert_eq!((code.as_u16(), media_type.as_str()), (200, WATCH_MEDIA_TYPE));
    let (length, event) = body.split_at_checked(4).unwrap();
    assert_eq!(u32::from_be_bytes(length.try_into().unwrap()) as usize, event.len());
    // type = "ADDED", object.raw = an envelope
    let object = event.strip_prefix(b"\x0a\x05ADDED\x12").unwrap();
    let start = object.windows(4).position(|bytes| bytes == skep_protobuf::MAGIC).unwrap();
    let (_, object) = skep_protobuf::decode(&object[start..]).unwrap();
    assert_eq!((&object["metadata"]["name"], &object["data"]), (&json!("a"), &json!({"x": "y"})));
    let (code, _, _) = take(&server, Method::GET, &uri, "application/yaml").await;
    assert_eq!(code, 406);
}
