//! Groups that another API server answers for: a real one on loopback, over TLS, that checks who asks.

use std::time::Duration;

use futures::FutureExt;
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use skep_apiserver::UserInfo;
use skep_pki::{CertRequest, ReloadableIdentity};
use skep_storage::{Op, Txn};
use tower::ServiceExt;

use crate::{
    backend::{Backend, answer, echo},
    support::TestServer,
};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const NAME: &str = "v1alpha1.wardle.example.com";
const ROOT: &str = "/apis/wardle.example.com/v1alpha1";

/// An API server that lets only this front proxy in.
async fn extension(server: &TestServer) -> Backend {
    let identity = server.pki.ca().issue(&CertRequest::server("ext", ["ext.default.svc"])).unwrap();
    let identity = ReloadableIdentity::new(&identity).unwrap();
    let tls = skep_pki::server_config(identity, Some(server.pki.front_proxy_ca().certificate())).unwrap();
    Backend::start(Some(tls), |request| {
        async move {
            match request.uri().path() {
                ROOT => {
                    let list = json!({
                        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "wardle.example.com/v1alpha1",
                        "resources": [{"name": "flunders", "singularName": "flunder", "namespaced": true,
                                       "kind": "Flunder", "verbs": ["create", "get", "list"]}],
                    });
                    answer(200, "application/json", list.to_string())
                }
                "/openapi/v3" => {
                    let url = format!("/openapi/v3{ROOT}?hash=AB");
                    let index = json!({"paths": {ROOT.trim_start_matches('/'): {"serverRelativeURL": url}}});
                    answer(200, "application/json", index.to_string())
                }
                "/openapi/v2" => openapi_v2(),
                _ => answer(200, "application/json", echo(request).await.to_string()),
            }
        }
        .boxed()
    })
    .await
}

fn openapi_v2() -> crate::backend::Answer {
    const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    let flunder = json!({"$ref": "#/definitions/com.example.wardle.Flunder"});
    let document = json!({
        "swagger": "2.0", "info": {"title": "wardle", "version": "v0"},
        "paths": {
            format!("{ROOT}/flunders"): {"get": {"responses": {"200": {"description": "OK", "schema": flunder}}}},
            "/version/": {"get": {"responses": {"200": {"description": "OK"}}}},
        },
        "definitions": {
            "com.example.wardle.Flunder": {
                "type": "object", "properties": {"metadata": {"$ref": format!("#/definitions/{META}")}},
                "x-kubernetes-group-version-kind": [
                    {"group": "wardle.example.com", "version": "v1alpha1", "kind": "Flunder"},
                ],
            },
            META: {"type": "object", "description": "as another release has it"},
        },
    });
    answer(200, "application/json", document.to_string())
}

async fn condition(server: &TestServer, reason: &str) -> Value {
    loop {
        let (_, object) = server.get(&format!("{SERVICES}/{NAME}")).await;
        let condition = &object["status"]["conditions"][0];
        if condition["reason"] == reason {
            return condition.clone();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Aggregated discovery of the group.
async fn discovered(server: &TestServer) -> Option<Value> {
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let request = Request::get("/apis").header("accept", accept).body(Full::default()).unwrap();
    let body = server.send(request).await.into_body().collect().await.unwrap().to_bytes();
    let list: Value = serde_json::from_slice(&body).unwrap();
    list["items"].as_array().unwrap().iter().find(|item| item["metadata"]["name"] == "wardle.example.com").cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_answers_for_its_group() {
    let server = TestServer::start().await;
    let object = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": NAME},
        "spec": {
            "group": "wardle.example.com", "version": "v1alpha1",
            "groupPriorityMinimum": 2000, "versionPriority": 200,
            "service": {"namespace": "default", "name": "ext"},
            "caBundle": base64(server.pki.ca().certificate()),
        },
    });
    let (code, made) = server.call(Method::POST, SERVICES, object).await;
    assert_eq!((code.as_u16(), &made["spec"]["service"]["port"]), (201, &443.into()), "{made}");
    let missing = condition(&server, "ServiceNotFound").await;
    assert_eq!(missing["message"], "service/ext in \"default\" is not present");
    let (code, text) = server.get(&format!("{ROOT}/flunders")).await;
    assert_eq!((code.as_u16(), text), (503, "service unavailable\n".into()));

    let service = json!({"metadata": {"name": "ext"}, "spec": {"ports": [{"name": "https", "port": 443}]}});
    let (code, made) = server.call(Method::POST, "/api/v1/namespaces/default/services", service).await;
    assert_eq!(code, 201, "{made}");
    condition(&server, "EndpointsNotFound").await;

    let backend = extension(&server).await;
    let port = backend.address.port();
    let slice = |ready: bool| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "ext-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "ext"}},
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": ready}}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        })
    };
    // Written past validation, which lets no endpoint be on loopback.
    let write = async |value: Value| {
        let key = "/registry/endpointslices/default/ext-1".to_owned();
        let op = Op::Put { key, value: value.to_string().into(), ttl: None };
        server.storage.commit(Txn { compares: Vec::new(), ops: vec![op] }).await.unwrap();
    };
    write(slice(false)).await;
    let missing = condition(&server, "MissingEndpoints").await;
    assert_eq!(
        missing["message"],
        "endpointslices for service/ext in \"default\" have no addresses with port name \"https\""
    );
    write(slice(true)).await;
    let passed = condition(&server, "Passed").await;
    assert_eq!((&passed["status"], &passed["message"]), (&"True".into(), &"all checks passed".into()));

    // The condition is told before the server's requests follow it.
    let uri = format!("{ROOT}/namespaces/default/flunders?limit=5");
    let mut seen = server.call(Method::POST, &uri, json!({"a": 1})).await;
    while seen.0 == 503 {
        seen = server.call(Method::POST, &uri, json!({"a": 1})).await;
    }
    let (code, seen) = seen;
    assert_eq!(code, 200, "{seen}");
    assert_eq!(
        (&seen["method"], &seen["uri"], &seen["body"]),
        (&"POST".into(), &uri.as_str().into(), &"{\"a\":1}".into())
    );
    assert_eq!(seen["headers"]["x-remote-user"], "admin");
    let forged = Request::get(&uri).header("x-remote-user", "root").header("authorization", "x").body(Full::default());
    let body = server.send(forged.unwrap()).await.into_body().collect().await.unwrap().to_bytes();
    let seen: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(seen["headers"]["x-remote-user"], "admin");
    assert!(seen["headers"]["authorization"].is_null());
    let request = Request::get(&uri).body(Full::<bytes::Bytes>::default()).unwrap();
    let nobody = server.server.service().with_user(UserInfo::component("jane")).oneshot(request).await.unwrap();
    assert_eq!(nobody.status(), 403, "who may not is not passed on");

    let found = discovered(&server).await.unwrap();
    assert_eq!(found["versions"][0]["freshness"], "Current");
    assert_eq!(found["versions"][0]["resources"][0]["resource"], "flunders");
    let (_, groups) = server.get("/apis").await;
    let names: Vec<_> =
        groups["groups"].as_array().unwrap().iter().map(|group| group["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"wardle.example.com"), "{names:?}");
    let (_, list) = server.get(ROOT).await;
    assert_eq!(list["resources"][0]["kind"], "Flunder");
    let (_, index) = server.get("/openapi/v3").await;
    let url = index["paths"][ROOT.trim_start_matches('/')]["serverRelativeURL"].as_str().unwrap();
    assert_eq!(server.get(url).await.1["uri"], url);
    merged_documents(&server).await;

    drop(backend);
    // Nothing tells that it is gone; a change of its endpoints makes the server look.
    write(slice(true)).await;
    let failed = condition(&server, "FailedDiscoveryCheck").await;
    let text = failed["message"].as_str().unwrap();
    assert!(text.starts_with("failing or missing response from https://127.0.0.1:"), "{text}");
    while server.get(&uri).await.0 != 503 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    while discovered(&server).await.unwrap()["versions"][0]["freshness"] != "Stale" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(server.call(Method::DELETE, &format!("{SERVICES}/{NAME}"), Value::Null).await.0, 200);
    while server.get(&uri).await.0 != 404 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(discovered(&server).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_this_server_answers_itself_has_an_api_service_too() {
    let server = TestServer::start().await;
    let object = loop {
        let (code, object) = server.get(&format!("{SERVICES}/v1.apps")).await;
        if code == 200 {
            break object;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(object["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"], "onstart");
    assert_eq!(object["spec"]["groupPriorityMinimum"], 17800);
    let condition = &object["status"]["conditions"][0];
    assert_eq!((&condition["status"], &condition["reason"]), (&"True".into(), &"Local".into()));
    let (code, map) = server.get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication").await;
    assert_eq!(code, 200);
    assert_eq!(map["data"]["requestheader-allowed-names"], "[\"front-proxy-client\"]");
    assert_eq!(map["data"]["requestheader-client-ca-file"], server.pki.front_proxy_ca().certificate());
    assert_eq!(map["data"]["client-ca-file"], server.pki.ca().certificate());
    let (_, groups) = server.get("/apis").await;
    assert_eq!(groups["groups"][0]["name"], "apiregistration.k8s.io");
    assert_eq!(groups["groups"][1]["name"], "apps");
}

/// `/openapi/v2` has what the other server serves, in both encodings and under one tag.
async fn merged_documents(server: &TestServer) {
    let ask = async |accept: &str, tag: Option<&HeaderValue>| {
        let mut request = Request::get("/openapi/v2").header("accept", accept);
        if let Some(tag) = tag {
            request = request.header("if-none-match", tag);
        }
        let (parts, body) = server.send(request.body(Full::default()).unwrap()).await.into_parts();
        (parts, body.collect().await.unwrap().to_bytes())
    };
    let path = format!("{ROOT}/flunders");
    // It is asked for after it is known that the server is there.
    let told = async {
        loop {
            let (parts, body) = ask("application/json", None).await;
            let document: Value = serde_json::from_slice(&body).unwrap();
            if document["paths"].get(&path).is_some() {
                return (parts, document);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let (parts, document) = tokio::time::timeout(Duration::from_secs(30), told).await.expect("it is merged");
    let operation = &document["paths"][&path]["get"];
    assert_eq!(operation["responses"]["200"]["schema"]["$ref"], "#/definitions/com.example.wardle.Flunder");
    let definitions = &document["definitions"];
    let meta = &definitions["com.example.wardle.Flunder"]["properties"]["metadata"]["$ref"];
    assert_eq!(meta, "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta_v2");
    assert_eq!(
        definitions["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta_v2"]["description"],
        "as another release has it"
    );
    assert!(definitions["io.k8s.api.core.v1.Pod"].is_object());
    let tag = &parts.headers["etag"];
    assert_eq!(ask("application/json", Some(tag)).await.0.status, 304);
    let protobuf = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let (parts, body) = ask(protobuf, None).await;
    assert_eq!(&parts.headers["etag"], tag);
    let holds = |text: &str| body.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("com.example.wardle.Flunder") && holds("as another release has it"));
    assert_eq!(ask(protobuf, Some(tag)).await.0.status, 304);
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}
