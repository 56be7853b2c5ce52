//! Admission webhooks: a real HTTPS server is asked, by URL and through a Service.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::{Value, json};
use skep_pki::{CertRequest, ReloadableIdentity};
use skep_storage::Txn;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::TlsAcceptor;

use crate::support::{TestServer, config_map};

pub(crate) const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// What was asked: the path and the review.
type Asked = Arc<Mutex<Vec<(String, Value)>>>;

pub(crate) struct WebhookServer {
    address: SocketAddr,
    asked: Asked,
    ca: String,
    task: JoinHandle<()>,
}

impl Drop for WebhookServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl WebhookServer {
    pub(crate) async fn start(test: &TestServer) -> Self {
        let request = CertRequest::server("webhook", ["127.0.0.1", "hook.default.svc"]);
        let identity = test.pki.ca().issue(&request).unwrap();
        let tls = skep_pki::server_config(ReloadableIdentity::new(&identity).unwrap(), None).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Asked::default();
        let log = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, log) = (acceptor.clone(), Arc::clone(&log));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| answer(request, Arc::clone(&log)));
                    let _ =
                        auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, asked, ca: test.pki.ca().certificate().to_owned(), task }
    }

    pub(crate) fn url(&self, path: &str) -> Value {
        json!({"url": format!("https://{}{path}", self.address), "caBundle": STANDARD.encode(&self.ca)})
    }

    /// The reviews of a path so far.
    pub(crate) fn asked(&self, path: &str) -> Vec<Value> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(known, _)| known == path).map(|(_, review)| review.clone()).collect()
    }
}

async fn answer(request: Request<Incoming>, asked: Asked) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    let uid = review["request"]["uid"].clone();
    let object = review["request"]["object"].clone();
    asked.lock().unwrap().push((path.clone(), review));
    let patch = |patch: Value| json!({"uid": uid, "allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch.to_string())});
    let add = |key: &str| match object["data"].is_object() {
        true => patch(json!([{"op": "add", "path": format!("/data/{key}"), "value": "yes"}])),
        false => patch(json!([{"op": "add", "path": "/data", "value": {key: "yes"}}])),
    };
    let response = match path.as_str() {
        "/first" => add("first"),
        "/second" => add("second"),
        "/sidecar" => {
            patch(json!([{"op": "add", "path": "/spec/containers/-", "value": {"name": "side", "image": "s:1"}}]))
        }
        "/privileged" => patch(json!([{"op": "add", "path": "/spec/containers/-", "value": {
            "name": "side", "image": "s:1", "securityContext": {"privileged": true},
        }}])),
        "/account" => patch(json!([{"op": "replace", "path": "/spec/serviceAccountName", "value": "gone"}])),
        "/owners" => {
            patch(json!([{"op": "replace", "path": "/metadata/managedFields", "value": [{"operation": "Whim"}]}]))
        }
        "/deny" => {
            json!({"uid": uid, "allowed": false, "status": {"message": "not this one", "code": 403, "reason": "Forbidden"}})
        }
        "/warn" => json!({"uid": uid, "allowed": true, "warnings": ["be careful"]}),
        "/bad-patch" => patch(json!([{"op": "remove", "path": "/data/absent"}])),
        "/slow" => std::future::pending().await,
        "/broken" => return Ok(Response::new(Full::new(Bytes::from_static(b"no review")))),
        "/error" => {
            return Ok(Response::builder().status(500).body(Full::new(Bytes::from_static(b"oh no"))).unwrap());
        }
        _ => json!({"uid": uid, "allowed": true}),
    };
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    Ok(Response::new(Full::new(Bytes::from(review.to_string()))))
}

/// A webhook that is asked about every new ConfigMap in namespaces and objects as `change` says.
pub(crate) fn hook(name: &str, client: Value, change: Value) -> Value {
    let mut hook = json!({
        "name": format!("{name}.example.com"),
        "clientConfig": client,
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 5,
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
    });
    for (key, value) in change.as_object().into_iter().flatten() {
        hook[key] = value.clone();
    }
    hook
}

/// Creates a configuration and waits until the webhooks in it are asked (or fail), as `probe` tells.
pub(crate) async fn configure(test: &TestServer, uri: &str, hooks: Value, probe: impl Fn(StatusCode, &Value) -> bool) {
    let name = uri.rsplit('/').next().unwrap();
    let (code, body) = test.call(Method::POST, uri, json!({"metadata": {"name": name}, "webhooks": hooks})).await;
    assert_eq!(code, 201, "{body}");
    for _ in 0..500 {
        let (code, body) = test.call(Method::POST, &format!("{MAPS}?dryRun=All"), config_map("probe", "1")).await;
        if probe(code, &body) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the webhooks of {uri} are never asked");
}

pub(crate) async fn remove(test: &TestServer, uri: &str) {
    let name = uri.rsplit('/').next().unwrap();
    let (code, body) = test.call(Method::DELETE, &format!("{uri}/{name}"), Value::Null).await;
    assert_eq!(code, 200, "{body}");
    for _ in 0..500 {
        let (code, body) = test.call(Method::POST, &format!("{MAPS}?dryRun=All"), config_map("probe", "1")).await;
        if code == 201 && body["data"] == json!({"key": "1"}) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the webhooks of {uri} go on being asked");
}

async fn create(test: &TestServer, name: &str) -> (StatusCode, Value) {
    test.call(Method::POST, MAPS, config_map(name, "1")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn mutating_webhooks_change_objects_in_turn_and_see_each_others_changes() {
    let test = TestServer::start().await;
    let server = WebhookServer::start(&test).await;
    let hooks = json!([
        hook("a", server.url("/first"), json!({"reinvocationPolicy": "IfNeeded"})),
        hook("b", server.url("/second"), json!({})),
    ]);
    configure(&test, MUTATING, hooks, |_, body| body["data"]["second"] == "yes").await;
    server.asked.lock().unwrap().clear();
    let (code, body) = create(&test, "a").await;
    assert_eq!(code, 201, "{body}");
    assert_eq!(body["data"], json!({"key": "1", "first": "yes", "second": "yes"}));
    let (first, second) = (server.asked("/first"), server.asked("/second"));
    assert_eq!((first.len(), second.len()), (2, 1), "the first is asked again after the second's change");
    assert_eq!(second[0]["request"]["object"]["data"]["first"], "yes");
    let request = &first[0]["request"];
    assert_eq!(
        (&first[0]["apiVersion"], &first[0]["kind"]),
        (&json!("admission.k8s.io/v1"), &json!("AdmissionReview"))
    );
    assert_eq!(request["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(request["resource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!((&request["name"], &request["namespace"]), (&json!("a"), &json!("default")));
    assert_eq!((&request["operation"], &request["dryRun"]), (&json!("CREATE"), &json!(false)));
    assert_eq!(request["userInfo"]["username"], "admin");
    assert_eq!((&request["oldObject"], &request["options"]["kind"]), (&Value::Null, &json!("CreateOptions")));
    assert_eq!(request["object"]["apiVersion"], "v1");
    // No webhook is ever asked about the objects that configure them, or none could be repaired.
    remove(&test, MUTATING).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn validating_webhooks_deny_with_their_own_words_and_warn() {
    let test = TestServer::start().await;
    let server = WebhookServer::start(&test).await;
    let rules = json!([{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}]);
    let deny =
        hook("deny", server.url("/deny"), json!({"rules": rules, "objectSelector": {"matchLabels": {"bad": "1"}}}));
    configure(&test, VALIDATING, json!([hook("warn", server.url("/warn"), json!({})), deny]), |_, _| {
        !server.asked("/warn").is_empty()
    })
    .await;
    let request = Request::post(MAPS).header("content-type", "application/json");
    let response = test.send(request.body(Full::new(config_map("w", "1").to_string().into())).unwrap()).await;
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["warning"], "299 - \"be careful\"");

    let mut bad = config_map("bad", "1");
    bad["metadata"]["labels"] = json!({"bad": "1"});
    let (code, body) = test.call(Method::POST, MAPS, bad.clone()).await;
    assert_eq!((code.as_u16(), &body["reason"]), (403, &json!("Forbidden")));
    assert_eq!(body["message"], "admission webhook \"deny.example.com\" denied the request: not this one");

    // An update that sets or removes the label, and a deletion, are asked about with the old object.
    let (code, _) = create(&test, "turns").await;
    assert_eq!(code, 201);
    bad["metadata"]["name"] = json!("turns");
    let (code, body) = test.call(Method::PUT, &format!("{MAPS}/turns"), bad).await;
    assert_eq!(code, 403, "{body}");
    let asked = server.asked("/deny");
    let request = &asked.last().unwrap()["request"];
    assert_eq!((&request["operation"], &request["name"]), (&json!("UPDATE"), &json!("turns")));
    assert_eq!(request["oldObject"]["metadata"]["name"], "turns");
    assert_eq!(request["options"]["kind"], "UpdateOptions");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_cannot_be_asked_fails_the_request_or_is_passed_over() {
    let test = TestServer::start().await;
    let server = WebhookServer::start(&test).await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = free.local_addr().unwrap();
    drop(free);
    let stranger =
        skep_pki::Pki::load_or_create(tempfile::tempdir().unwrap().path(), &["127.0.0.1".to_owned()]).unwrap();
    let mut distrusted = server.url("/ok");
    distrusted["caBundle"] = STANDARD.encode(stranger.ca().certificate()).into();
    let unreachable = json!({"url": format!("https://{nobody}/x"), "caBundle": STANDARD.encode(&server.ca)});
    let missing = json!({"service": {"name": "none", "namespace": "default"}, "caBundle": STANDARD.encode(&server.ca)});
    let cases = [
        (unreachable, "connect: connection refused"),
        (distrusted, "x509: certificate signed by unknown authority"),
        (missing, "Post \"https://none.default.svc:443/?timeout=1s\": service \"none\" not found"),
        (server.url("/broken"), "received invalid webhook response: "),
        (server.url("/error"), "an error on the server (\"oh no\") has prevented the request from succeeding"),
        (server.url("/slow"), "context deadline exceeded"),
    ];
    for (client, expected) in cases {
        let fails = hook("fails", client.clone(), json!({"failurePolicy": "Fail", "timeoutSeconds": 1}));
        configure(&test, VALIDATING, json!([fails]), |code, _| code == 500).await;
        let (code, body) = create(&test, "x").await;
        assert_eq!((code.as_u16(), &body["reason"]), (500, &json!("InternalError")), "{expected}");
        let message = body["message"].as_str().unwrap();
        assert!(
            message.starts_with("Internal error occurred: failed calling webhook \"fails.example.com\": "),
            "{message}"
        );
        assert!(message.contains(expected), "{message}");
        remove(&test, VALIDATING).await;
    }
    let ignored = json!({"failurePolicy": "Ignore", "timeoutSeconds": 1});
    let hooks = json!([
        hook("slow", server.url("/slow"), ignored.clone()),
        hook("broken", server.url("/broken"), ignored.clone()),
        hook("marks", server.url("/second"), json!({})),
    ]);
    configure(&test, MUTATING, hooks, |_, body| body["data"]["second"] == "yes").await;
    let (code, body) = create(&test, "passed-over").await;
    assert_eq!((code.as_u16(), &body["data"]["second"]), (201, &json!("yes")), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_that_do_not_fit_and_dry_runs_with_effects_are_refused() {
    let test = TestServer::start().await;
    let server = WebhookServer::start(&test).await;
    let ignored = json!({"failurePolicy": "Ignore"});
    configure(&test, MUTATING, json!([hook("bad", server.url("/bad-patch"), ignored)]), |code, _| code == 500).await;
    let (code, body) = create(&test, "x").await;
    assert_eq!(code, 500, "a bad patch is no failure to call, whatever the failure policy says: {body}");
    remove(&test, MUTATING).await;

    let hooks = json!([hook("effects", server.url("/ok"), json!({"sideEffects": "NoneOnDryRun"}))]);
    configure(&test, VALIDATING, hooks, |_, _| !server.asked("/ok").is_empty()).await;
    assert_eq!(server.asked("/ok")[0]["request"]["dryRun"], true);
    let mut some = json!([hook("effects", server.url("/ok"), json!({}))]);
    some[0]["sideEffects"] = json!("Some");
    let change = json!({"metadata": {"name": "x"}, "webhooks": some});
    let (code, body) = test.call(Method::POST, VALIDATING, change).await;
    assert_eq!(code, 422, "webhooks with unknown effects cannot be registered any more: {body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn selectors_and_conditions_decide_whom_a_webhook_is_asked_about() {
    let test = TestServer::start().await;
    let server = WebhookServer::start(&test).await;
    for (name, labels) in [("chosen", json!({"chosen": "1"})), ("other", json!({}))] {
        let (code, _) =
            test.call(Method::POST, "/api/v1/namespaces", json!({"metadata": {"name": name, "labels": labels}})).await;
        assert_eq!(code, 201);
    }
    let hooks = json!([
        hook("all", server.url("/ok"), json!({})),
        hook(
            "conditions",
            server.url("/deny"),
            json!({
                "namespaceSelector": {"matchLabels": {"chosen": "1"}},
                "matchConditions": [
                    {"name": "named", "expression": "object.metadata.name.startsWith('x')"},
                    {"name": "asked-by-admin", "expression": "request.userInfo.username == 'admin' && authorizer.group('').resource('pods').check('get').allowed()"},
                ],
            })
        ),
        hook(
            "failing",
            server.url("/deny"),
            json!({
                "matchConditions": [
                    {"name": "fails", "expression": "object.data.nothing == 'y'"},
                    {"name": "spares", "expression": "object.metadata.name == 'y'"},
                ],
            })
        ),
    ]);
    configure(&test, VALIDATING, hooks, |_, _| !server.asked("/ok").is_empty()).await;
    let post = async |namespace: &str, name: &str| {
        test.call(Method::POST, &format!("/api/v1/namespaces/{namespace}/configmaps"), config_map(name, "1")).await
    };
    assert_eq!(post("chosen", "x").await.0, 403);
    assert_eq!(post("chosen", "z").await.0, 201, "a condition is false");
    assert_eq!(post("other", "x").await.0, 201, "the namespace is not chosen");
    let (code, body) = post("other", "y").await;
    assert_eq!(code, 403);
    let message = body["message"].as_str().unwrap();
    assert!(
        message.contains("expression 'object.data.nothing == 'y'' resulted in error: no such key: nothing"),
        "{message}"
    );

    let faulty = json!([hook(
        "faulty",
        server.url("/ok"),
        json!({"matchConditions": [{"name": "x", "expression": "object.metadata.name =="}]})
    )]);
    let (code, body) =
        test.call(Method::POST, MUTATING, json!({"metadata": {"name": "faulty"}, "webhooks": faulty})).await;
    assert_eq!(code, 422, "{body}");
    let message = body["message"].as_str().unwrap();
    assert!(message.contains("webhooks[0].matchConditions[0].expression: Invalid value"), "{message}");
    assert!(message.contains("compilation failed"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_asked_at_its_endpoint_under_its_own_name() {
    let test = TestServer::start().await;
    let server = WebhookServer::start(&test).await;
    let service =
        json!({"metadata": {"name": "hook"}, "spec": {"ports": [{"name": "web", "port": 8443, "targetPort": 1}]}});
    let (code, body) = test.call(Method::POST, "/api/v1/namespaces/default/services", service).await;
    assert_eq!(code, 201, "{body}");
    // Written past the API, which refuses loopback addresses.
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "hook-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "hook"}},
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}],
        "ports": [{"name": "web", "port": server.address.port()}],
    });
    let txn = Txn::new().create("/registry/endpointslices/default/hook-1", slice.to_string());
    test.storage.commit(txn).await.unwrap();
    let client = json!({
        "service": {"name": "hook", "namespace": "default", "port": 8443, "path": "/deny"},
        "caBundle": STANDARD.encode(&server.ca),
    });
    configure(&test, VALIDATING, json!([hook("service", client, json!({}))]), |code, _| code == 403).await;
    assert_eq!(create(&test, "x").await.0, 403);
}
