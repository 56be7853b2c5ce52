//! Whatever a client sends, it gets a clear answer.

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use skep_apiserver::UserInfo;
use tower::ServiceExt;

use crate::support::{TestServer, config_map, pod};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_bad_request_has_its_answer() {
    let server = TestServer::start().await;
    server.call(Method::POST, MAPS, config_map("a", "1")).await;
    let json_type = "application/json";
    let map = |change: &dyn Fn(&mut Value)| {
        let mut map = config_map("a", "1");
        change(&mut map);
        map.to_string()
    };
    // The one place in a ConfigMap where any JSON fits.
    let deep = format!(
        "{{\"metadata\":{{\"managedFields\":[{{\"fieldsV1\":{}{}}}]}}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let huge = map(&|map| map["data"]["key"] = "x".repeat(3 * 1024 * 1024).into());
    let one = format!("{MAPS}/a");
    let cases: Vec<(Method, String, &str, String, u16, &str, &str)> = vec![
        (
            Method::POST,
            MAPS.into(),
            json_type,
            "{".into(),
            400,
            "BadRequest",
            "couldn't get version/kind; json parse error",
        ),
        (Method::POST, MAPS.into(), json_type, String::new(), 400, "BadRequest", "json parse error"),
        (Method::POST, MAPS.into(), json_type, deep.clone(), 400, "BadRequest", "recursion limit"),
        (Method::POST, MAPS.into(), "application/yaml", deep, 400, "BadRequest", "recursion limit"),
        (
            Method::POST,
            MAPS.into(),
            json_type,
            pod("a").to_string(),
            400,
            "BadRequest",
            "cannot be handled as a ConfigMap",
        ),
        (
            Method::POST,
            MAPS.into(),
            json_type,
            map(&|map| map["apiVersion"] = "v2".into()),
            400,
            "BadRequest",
            "the API version in the data (v2) does not match the expected API version (v1)",
        ),
        (
            Method::POST,
            MAPS.into(),
            json_type,
            map(&|map| map["metadata"]["namespace"] = "other".into()),
            400,
            "BadRequest",
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            Method::PUT,
            one.clone(),
            json_type,
            map(&|map| map["metadata"]["name"] = "b".into()),
            400,
            "BadRequest",
            "the name of the object (b) does not match the name on the URL (a)",
        ),
        (Method::POST, MAPS.into(), json_type, huge, 413, "RequestEntityTooLarge", "limit is 3145728"),
        (
            Method::POST,
            MAPS.into(),
            json_type,
            map(&|map| map["metadata"]["name"] = "A_b".into()),
            422,
            "Invalid",
            "ConfigMap \"A_b\" is invalid: metadata.name: Invalid value: \"A_b\"",
        ),
        (
            Method::POST,
            MAPS.into(),
            json_type,
            json!({}).to_string(),
            422,
            "Invalid",
            "name or generateName is required",
        ),
        (
            Method::POST,
            "/api/v1/namespaces".into(),
            json_type,
            json!({"metadata": {"name": "a.b"}}).to_string(),
            422,
            "Invalid",
            "Namespace \"a.b\" is invalid: metadata.name: Invalid value: \"a.b\": a lowercase RFC 1123 label must consist of",
        ),
        (
            Method::POST,
            "/api/v1/namespaces/default/services".into(),
            json_type,
            json!({"metadata": {"name": "1st"}, "spec": {"ports": [{"port": 80}]}}).to_string(),
            422,
            "Invalid",
            "Service \"1st\" is invalid: metadata.name: Invalid value: \"1st\": a DNS-1035 label must consist of",
        ),
        (
            Method::PUT,
            one.clone(),
            json_type,
            map(&|map| map["metadata"]["resourceVersion"] = "1".into()),
            409,
            "Conflict",
            "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to \
             the latest version and try again",
        ),
        (
            Method::PUT,
            one.clone(),
            json_type,
            map(&|map| map["metadata"]["namespace"] = "other".into()),
            400,
            "BadRequest",
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (Method::PUT, one.clone(), "text/plain", map(&|_| ()), 415, "UnsupportedMediaType", "application/json"),
        (Method::POST, MAPS.into(), "application/cbor", "k8s".into(), 415, "UnsupportedMediaType", "application/json"),
        (Method::POST, MAPS.into(), "application/vnd.kubernetes.protobuf", "k8s".into(), 400, "BadRequest", "protobuf"),
        (
            Method::PATCH,
            one.clone(),
            "application/apply-patch+cbor",
            "{}".into(),
            415,
            "UnsupportedMediaType",
            "merge-patch",
        ),
        (
            Method::PATCH,
            one.clone(),
            "application/merge-patch+json",
            "[".into(),
            400,
            "BadRequest",
            "error decoding patch",
        ),
        (
            Method::PATCH,
            one.clone(),
            "application/merge-patch+json",
            json!({"metadata": {"uid": "x"}}).to_string(),
            409,
            "Conflict",
            "Precondition failed: UID in precondition: x",
        ),
        (
            Method::PATCH,
            one.clone(),
            "application/merge-patch+json",
            json!({"metadata": {"resourceVersion": "1"}}).to_string(),
            409,
            "Conflict",
            "the object has been modified",
        ),
        (
            Method::PUT,
            one.clone(),
            json_type,
            map(&|map| map["metadata"]["resourceVersion"] = "abc".into()),
            400,
            "BadRequest",
            "resourceVersion",
        ),
        (
            Method::POST,
            format!("{MAPS}?fieldValidation=Strict"),
            json_type,
            map(&|map| map["nonsense"] = json!({"x": 1})),
            400,
            "BadRequest",
            "strict decoding error: unknown field \"nonsense\"",
        ),
        (Method::PUT, MAPS.into(), json_type, "{}".into(), 405, "MethodNotAllowed", ""),
        (Method::POST, one.clone(), json_type, "{}".into(), 405, "MethodNotAllowed", ""),
        (Method::DELETE, "/api/v1/namespaces".into(), json_type, String::new(), 405, "MethodNotAllowed", ""),
        (
            Method::GET,
            "/api/v1/namespaces/default/nonsense".into(),
            json_type,
            String::new(),
            404,
            "NotFound",
            "could not find",
        ),
        (Method::GET, format!("{one}/nonsense"), json_type, String::new(), 404, "NotFound", "could not find"),
        (
            Method::GET,
            format!("{MAPS}?labelSelector=a%20b"),
            json_type,
            String::new(),
            400,
            "BadRequest",
            "unable to parse requirement",
        ),
        (
            Method::GET,
            format!("{MAPS}?fieldSelector=spec.x%3D1"),
            json_type,
            String::new(),
            400,
            "BadRequest",
            "is not a known field selector",
        ),
        (Method::GET, format!("{MAPS}?continue=%21"), json_type, String::new(), 400, "BadRequest", "continue key"),
        (Method::GET, format!("{MAPS}?limit=x"), json_type, String::new(), 400, "BadRequest", "strconv.ParseInt"),
        (Method::GET, format!("{MAPS}/%zz"), json_type, String::new(), 400, "BadRequest", "invalid URL escape"),
        (
            Method::POST,
            "/api/v1/namespaces/nowhere/configmaps".into(),
            json_type,
            map(&|_| ()),
            404,
            "NotFound",
            "namespaces \"nowhere\" not found",
        ),
        (
            Method::POST,
            "/api/v1/namespaces/default/pods".into(),
            json_type,
            pod("p").to_string(),
            403,
            "Forbidden",
            "pods \"p\" is forbidden: error looking up service account default/default: serviceaccount \"default\" not found",
        ),
    ];
    for (method, uri, content_type, body, code, reason, text) in cases {
        let shown: String = format!("{method} {uri} {content_type} {}", &body[..body.len().min(80)]);
        let (got, answer) = server.raw(method, &uri, content_type, body).await;
        assert_eq!(got, code, "{shown}: {answer}");
        assert_eq!(answer["kind"], "Status", "{shown}");
        assert_eq!(answer["reason"], reason, "{shown}: {answer}");
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains(text), "{shown}: {message}");
    }
    let (_, list) = server.get(MAPS).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "none of it was stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_are_dropped_with_a_warning() {
    let server = TestServer::start().await;
    let mut map = config_map("a", "1");
    map["nonsense"] = json!([{"x": 1}]);
    let request = Request::post(MAPS).body(Full::new(Bytes::from(map.to_string()))).unwrap();
    let response = server.send(request).await;
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["warning"], "299 - \"unknown field \\\"nonsense\\\"\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn yaml_comes_in_and_goes_out() {
    let server = TestServer::start().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: y}\ndata: {a: 'b'}\n";
    let (code, body) = server.raw(Method::POST, MAPS, "application/yaml", yaml).await;
    assert_eq!(code, 201, "{body}");
    for uri in [format!("{MAPS}/y"), MAPS.to_owned()] {
        let request = Request::get(uri).header("accept", "application/yaml").body(Full::default()).unwrap();
        let response = server.send(request).await;
        assert_eq!(response.headers()["content-type"], "application/yaml");
        let text = response.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&text).contains("name: y"), "{text:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_metadata_are_made_on_request() {
    let server = TestServer::start().await;
    server.call(Method::POST, MAPS, config_map("a", "1")).await;
    let fetch = async |uri: String, accept: &str| -> Value {
        let request = Request::get(uri).header("accept", accept).body(Full::default()).unwrap();
        let body = server.send(request).await.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&body).unwrap()
    };
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    for uri in [MAPS.to_owned(), format!("{MAPS}/a")] {
        let answer = fetch(uri, table).await;
        assert_eq!((&answer["kind"], &answer["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
        assert_eq!(answer["columnDefinitions"][0]["name"], "Name");
        assert_eq!(answer["rows"][0]["cells"][0], "a");
        assert_eq!(answer["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        assert!(answer["metadata"]["resourceVersion"].is_string());
    }
    let metadata = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let answer = fetch(MAPS.to_owned(), metadata).await;
    assert_eq!(answer["kind"], "PartialObjectMetadataList");
    assert_eq!(answer["items"][0]["metadata"]["name"], "a");
    assert!(answer["items"][0]["data"].is_null());
    let answer = fetch(MAPS.to_owned(), "text/html").await;
    assert_eq!(answer["code"], 406);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_the_unnamed_are_told_apart() {
    let server = TestServer::start().await;
    let ask = async |uri: &str, user: Option<UserInfo>| {
        let mut request = Request::get(uri).body(Full::<Bytes>::default()).unwrap();
        if let Some(user) = user {
            request.extensions_mut().insert(user);
        }
        let response = server.server.service().oneshot(request).await.unwrap();
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice::<Value>(&body).unwrap_or_default())
    };
    let (code, body) = ask("/api/v1/pods", None).await;
    let why = "pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" at the cluster \
               scope";
    assert_eq!((code, &body["message"]), (403, &json!(why)));
    let (code, body) = ask("/api/v1/namespaces/default/pods", Some(UserInfo::component("x"))).await;
    assert_eq!(code, 403);
    assert_eq!(
        body["message"],
        "pods is forbidden: User \"x\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    for public in ["/healthz", "/livez", "/readyz?verbose", "/version"] {
        assert_eq!(ask(public, None).await.0, 200, "{public}");
    }
}
