//! Discovery, health, metrics and what else is no resource.

use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::Value;

use crate::support::{TestServer, config_map};

#[tokio::test(flavor = "multi_thread")]
async fn discovery_names_every_resource_in_both_shapes() {
    let server = TestServer::start().await;
    let (code, groups) = server.get("/apis").await;
    assert_eq!(code, 200);
    let names: Vec<_> = groups["groups"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"apps") && names.contains(&"discovery.k8s.io"), "{names:?}");
    let (_, core) = server.get("/api/v1").await;
    let find = |name: &str| core["resources"].as_array().unwrap().iter().find(|r| r["name"] == name).cloned();
    assert_eq!(find("pods").unwrap()["shortNames"][0], "po");
    assert_eq!(find("pods/binding").unwrap()["kind"], "Binding");
    let request = Request::get("/apis")
        .header("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;q=0.9")
        .body(Full::default())
        .unwrap();
    let response = server.send(request).await;
    assert_eq!(
        response.headers()["content-type"],
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let list: Value = serde_json::from_slice(&body).unwrap();
    let apps = list["items"].as_array().unwrap().iter().find(|group| group["metadata"]["name"] == "apps").unwrap();
    assert_eq!(apps["versions"][0]["resources"][0]["resource"], "controllerrevisions");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_in_one_word_or_in_many() {
    let server = TestServer::start().await;
    assert_eq!(server.get("/readyz").await.1, "ok");
    let (_, verbose) = server.get("/livez?verbose").await;
    assert!(verbose.as_str().unwrap().contains("[+]etcd ok\n"), "{verbose}");
    assert_eq!(server.get("/readyz/nonsense").await.0, 404);
    server.server.stop();
    let (code, report) = server.get("/readyz").await;
    assert_eq!(code, 500);
    assert!(report.as_str().unwrap().contains("[-]shutdown failed"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted_by_what_they_are() {
    let server = TestServer::start().await;
    server.call(Method::POST, "/api/v1/namespaces/default/configmaps", config_map("a", "1")).await;
    server.get("/api/v1/made-up-by-a-client").await;
    let (code, text) = server.get("/metrics").await;
    assert_eq!(code, 200);
    let text = text.as_str().unwrap();
    let line = text
        .lines()
        .find(|l| l.starts_with("apiserver_request_total") && l.contains("configmaps") && l.contains("POST"))
        .unwrap();
    assert!(line.contains("code=\"201\"") && line.ends_with(" 1"), "{line}");
    assert!(!text.contains("made-up-by-a-client"), "labels are not for clients to make up");
}

#[tokio::test(flavor = "multi_thread")]
async fn openapi_tells_kubectl_who_validates() {
    let server = TestServer::start().await;
    let (_, index) = server.get("/openapi/v3").await;
    let uri = index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap();
    let (code, document) = server.get(uri).await;
    assert_eq!(code, 200);
    let patch = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Pod");
    assert!(patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation"));
}

#[tokio::test(flavor = "multi_thread")]
async fn openapi_documents_are_kept_by_their_hash() {
    let server = TestServer::start().await;
    let get = async |uri: &str, name: &str, value: &str| {
        let request = Request::get(uri).header(name, value).body(Full::default()).unwrap();
        server.send(request).await
    };
    let (_, index) = server.get("/openapi/v3").await;
    let uri = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    let response = get(uri, "accept", "application/json").await;
    assert_eq!(response.status(), 200);
    assert!(response.headers()["cache-control"].to_str().unwrap().contains("immutable"));
    let tag = response.headers()["etag"].to_str().unwrap().to_owned();
    assert!(uri.ends_with(tag.trim_matches('"')), "{uri} {tag}");
    assert_eq!(get(uri, "if-none-match", &tag).await.status(), 304);

    let moved = get("/openapi/v3/apis/apps/v1?hash=OLD", "accept", "*/*").await;
    assert_eq!(moved.status(), 301);
    assert_eq!(moved.headers()["location"], uri);
    assert_eq!(get("/openapi/v3/apis/nothing/v1", "accept", "*/*").await.status(), 404);
    assert_eq!(get(uri, "accept", "image/png").await.status(), 406);
}

#[tokio::test(flavor = "multi_thread")]
async fn swagger_is_served_in_json_and_in_protobuf() {
    let server = TestServer::start().await;
    let (code, document) = server.get("/openapi/v2").await;
    assert_eq!(code, 200);
    assert_eq!(document["swagger"], "2.0");
    let request = Request::get("/openapi/v2")
        .header("accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
        .body(Full::default())
        .unwrap();
    let response = server.send(request).await;
    // No parser of media types takes the name that clients ask for.
    assert_eq!(response.headers()["content-type"], "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(&bytes[..5], b"\x0a\x032.0");
}
