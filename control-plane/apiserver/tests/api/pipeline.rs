//! What HTTP itself carries: compression, time limits, paths that are none, warnings.

use std::{convert::Infallible, io::Read};

use bytes::Bytes;
use flate2::read::GzDecoder;
use futures::stream;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::support::{TestServer, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn ask(server: &TestServer, method: Method, uri: &str, encoding: &str) -> Response<Bytes> {
    let request = Request::builder().method(method).uri(uri).header("accept-encoding", encoding);
    let (parts, body) = server.send(request.body(Full::default()).unwrap()).await.into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_are_compressed_for_who_asks() {
    let server = TestServer::start().await;
    let text: String = (0..8 * 1024).map(|at| char::from(b'a' + (at * at % 23) as u8)).collect();
    for index in 0..20 {
        let (code, body) = server.call(Method::POST, MAPS, config_map(&format!("m{index}"), &text)).await;
        assert_eq!(code, 201, "{body}");
    }
    for uri in [MAPS, "/openapi/v2"] {
        let plain = ask(&server, Method::GET, uri, "identity").await;
        assert!(!plain.headers().contains_key("content-encoding"));
        let packed = ask(&server, Method::GET, uri, "deflate, gzip").await;
        assert_eq!(packed.headers()["content-encoding"], "gzip");
        assert!(packed.headers().get_all("vary").iter().any(|value| value == "Accept-Encoding"));
        let mut back = Vec::new();
        GzDecoder::new(&packed.body()[..]).read_to_end(&mut back).unwrap();
        assert_eq!(back, plain.body().to_vec(), "{uri}");
        assert!(packed.body().len() < back.len());
    }
    let small = ask(&server, Method::GET, &format!("{MAPS}/m1"), "gzip").await;
    assert!(!small.headers().contains_key("content-encoding"));
    let head = ask(&server, Method::HEAD, MAPS, "gzip").await;
    assert_eq!((head.status().as_u16(), head.body().len()), (200, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_are_none_are_answered_as_upstream_does() {
    let server = TestServer::start().await;
    for uri in [
        "/nothing",
        "/apis/nothing.example",
        "/apis/nothing.example/v1",
        "/apis/nothing.example/v1/things",
        "/api/v9/pods",
    ] {
        let response = ask(&server, Method::GET, uri, "").await;
        assert_eq!((response.status().as_u16(), &response.body()[..]), (404, &b"404 page not found\n"[..]), "{uri}");
        assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/plain"));
    }
    let (code, status) = server.get("/apis/apps/v1/things").await;
    assert_eq!((code.as_u16(), &status["message"]), (404, &"the server could not find the requested resource".into()));
    let (code, index) = server.get("/").await;
    assert_eq!(code, 200);
    let paths = index["paths"].as_array().unwrap();
    for path in ["/api", "/apis/apps/v1", "/readyz/ping", "/metrics", "/openapi/v2"] {
        assert!(paths.contains(&path.into()), "{path} {index}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_never_ends_is_cut_off_in_the_clients_own_time() {
    let server = TestServer::start().await;
    let (code, refused) = server.get(&format!("{MAPS}?timeout=soon")).await;
    assert_eq!(code, 400);
    assert_eq!(refused["message"], "invalid timeout specified in the request URL - time: invalid duration \"soon\"");
    for path in [MAPS, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"] {
        let body = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let request = Request::post(format!("{path}?timeout=20ms")).body(body).unwrap();
        let response = server.service().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 504, "{path}");
        let status: Value = serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
        assert_eq!(status["message"], "Timeout: request did not complete within the allotted timeout");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_say_which_objects_judged_them_and_warn_of_what_goes() {
    let server = TestServer::start().await;
    let uid = async |plural: &str| {
        let (_, object) = server.get(&format!("/apis/flowcontrol.apiserver.k8s.io/v1/{plural}/exempt")).await;
        object["metadata"]["uid"].as_str().unwrap().to_owned()
    };
    let (schema, level) = (uid("flowschemas").await, uid("prioritylevelconfigurations").await);
    // The objects are followed, so they hold a moment after they were made.
    let mut response = ask(&server, Method::GET, "/api/v1/namespaces/default/endpoints", "").await;
    while response.headers()["x-kubernetes-pf-flowschema-uid"].is_empty() {
        response = ask(&server, Method::GET, "/api/v1/namespaces/default/endpoints", "").await;
    }
    assert_eq!(response.headers()["x-kubernetes-pf-flowschema-uid"], schema);
    assert_eq!(response.headers()["x-kubernetes-pf-prioritylevel-uid"], level);
    assert_eq!(
        response.headers()["warning"],
        "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\""
    );
    let condition = async |name: &str| {
        let uri = format!("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/{name}");
        loop {
            let (_, schema) = server.get(&uri).await;
            if let Some(condition) = schema["status"]["conditions"].get(0) {
                return condition.clone();
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    assert_eq!(condition("probes").await["status"], "False");
    let mine = json!({"metadata": {"name": "mine"}, "spec": {
        "priorityLevelConfiguration": {"name": "nowhere"},
        "matchingPrecedence": 50,
        "rules": [{
            "subjects": [{"kind": "User", "user": {"name": "x"}}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }],
    }});
    let (code, made) = server.call(Method::POST, "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas", mine).await;
    assert_eq!(code, 201, "{made}");
    let dangling = condition("mine").await;
    assert_eq!(
        (&dangling["type"], &dangling["status"], &dangling["reason"]),
        (&"Dangling".into(), &"True".into(), &"NotFound".into())
    );
}
