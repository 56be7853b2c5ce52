//! Definitions of several versions whose objects a real HTTPS webhook converts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::{FutureExt, StreamExt};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use skep_pki::{CertRequest, ReloadableIdentity};
use tokio::time::timeout;

use crate::{
    backend::{Backend, answer},
    custom::CRDS,
    support::TestServer,
};

const NAME: &str = "hosts.example.com";
const V1: &str = "/apis/example.com/v1/namespaces/default/hosts";
const V2: &str = "/apis/example.com/v2/namespaces/default/hosts";
const PATIENCE: Duration = Duration::from_secs(20);

/// A webhook that converts between `spec.hostPort` (v1) and `spec.host`, `spec.port` (v2).
struct Webhook {
    backend: Backend,
    ca: String,
    /// Objects converted so far.
    converted: Arc<AtomicUsize>,
    /// It refuses to convert.
    broken: Arc<AtomicBool>,
}

impl Webhook {
    async fn start(server: &TestServer) -> Self {
        let identity = server.pki.ca().issue(&CertRequest::server("webhook", ["127.0.0.1"])).unwrap();
        let mut tls = skep_pki::server_config(ReloadableIdentity::new(&identity).unwrap(), None).unwrap();
        tls.alpn_protocols.clear();
        let (converted, broken) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (count, refuse) = (Arc::clone(&converted), Arc::clone(&broken));
        let backend = Backend::start(Some(tls), move |request| {
            let (count, refuse) = (Arc::clone(&count), refuse.load(Ordering::SeqCst));
            async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let review: Value = serde_json::from_slice(&body).unwrap();
                let request = &review["request"];
                let objects = request["objects"].as_array().unwrap();
                let response = if refuse {
                    json!({"uid": request["uid"], "result": {"status": "Failed", "message": "out of order"}})
                } else {
                    count.fetch_add(objects.len(), Ordering::SeqCst);
                    let to = request["desiredAPIVersion"].as_str().unwrap();
                    let converted: Vec<Value> = objects.iter().map(|object| convert(object, to)).collect();
                    json!({"uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": converted})
                };
                let review =
                    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response});
                answer(200, "application/json", review.to_string())
            }
            .boxed()
        })
        .await;
        Self { backend, ca: server.pki.ca().certificate().to_owned(), converted, broken }
    }

    fn url(&self) -> String {
        format!("https://{}/convert", self.backend.address)
    }

    fn converted(&self) -> usize {
        self.converted.load(Ordering::SeqCst)
    }
}

fn convert(object: &Value, to: &str) -> Value {
    let mut new = object.clone();
    new["apiVersion"] = to.into();
    let spec = &object["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    new["spec"] = match to {
        "example.com/v1" => json!({"hostPort": format!("{}:{}", text(&spec["host"]), text(&spec["port"]))}),
        _ => match text(&spec["hostPort"]).split_once(':') {
            Some((host, port)) => json!({"host": host, "port": port}),
            None => json!({}),
        },
    };
    new
}

fn definition(webhook: &Webhook) -> Value {
    let version = |name: &str, storage: bool, fields: &[&str]| {
        let fields: serde_json::Map<String, Value> =
            fields.iter().map(|field| ((*field).to_owned(), json!({"type": "string"}))).collect();
        json!({
            "name": name, "served": true, "storage": storage,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": fields},
            }}},
        })
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": NAME},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"kind": "Host", "plural": "hosts"},
            "versions": [version("v1", true, &["hostPort"]), version("v2", false, &["host", "port"])],
            "conversion": {"strategy": "Webhook", "webhook": {
                "conversionReviewVersions": ["v1"],
                "clientConfig": {"url": webhook.url(), "caBundle": STANDARD.encode(&webhook.ca)},
            }},
        },
    })
}

fn host(name: &str) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Host", "metadata": {"name": name},
           "spec": {"hostPort": "localhost:1234"}})
}

/// What etcd has of an object.
async fn stored(server: &TestServer, name: &str) -> Value {
    let found = server.storage.read(&format!("/registry/example.com/hosts/default/{name}")).await.unwrap().unwrap();
    serde_json::from_slice(&found.value).unwrap()
}

/// The events of a watch of what is there, and what comes, until there are `count`.
async fn watched(server: &TestServer, uri: &str, count: usize) -> Vec<Value> {
    let answer = server.send(Request::get(format!("{uri}?watch=1")).body(Full::default()).unwrap()).await;
    assert_eq!(answer.status(), 200);
    let mut frames = answer.into_body().into_data_stream();
    let mut events = Vec::new();
    let read = async {
        while events.len() < count {
            let frame = frames.next().await.expect("the watch goes on").unwrap();
            events.extend(serde_json::Deserializer::from_slice(&frame).into_iter::<Value>().map(Result::unwrap));
        }
    };
    timeout(PATIENCE, read).await.expect("all events come");
    events
}

async fn apply(server: &TestServer, uri: &str, manager: &str, body: &Value) -> (u16, Value) {
    let uri = format!("{uri}?fieldManager={manager}");
    let (code, body) = server.raw(Method::PATCH, &uri, "application/apply-patch+yaml", body.to_string()).await;
    (code.as_u16(), body)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_read_and_written_in_each_version() {
    let server = TestServer::start().await;
    let webhook = Webhook::start(&server).await;
    server.define(&definition(&webhook)).await;
    let made = server.create(V1, host("a")).await;
    assert_eq!(made["spec"], json!({"hostPort": "localhost:1234"}));
    assert_eq!(webhook.converted(), 0, "the version stored is the version written");

    let (code, shown) = server.get(&format!("{V2}/a")).await;
    assert_eq!((code.as_u16(), &shown["apiVersion"]), (200, &json!("example.com/v2")), "{shown}");
    assert_eq!(shown["spec"], json!({"host": "localhost", "port": "1234"}));
    for field in ["uid", "resourceVersion", "creationTimestamp"] {
        assert_eq!(shown["metadata"][field], made["metadata"][field]);
    }
    let (_, list) = server.get(V2).await;
    assert_eq!((&list["kind"], &list["items"]), (&json!("HostList"), &json!([shown])));
    let events = watched(&server, V2, 1).await;
    assert_eq!(events, [json!({"type": "ADDED", "object": shown})]);

    let (code, patched) = server.patch("merge-patch", &format!("{V2}/a"), json!({"spec": {"port": "80"}})).await;
    assert_eq!((code.as_u16(), &patched["spec"]), (200, &json!({"host": "localhost", "port": "80"})), "{patched}");
    assert_eq!(server.get(&format!("{V1}/a")).await.1["spec"], json!({"hostPort": "localhost:80"}));
    assert_eq!(stored(&server, "a").await["apiVersion"], "example.com/v1");

    let config =
        json!({"apiVersion": "example.com/v2", "kind": "Host", "metadata": {"name": "a"}, "spec": {"port": "81"}});
    let (code, error) = apply(&server, &format!("{V2}/a"), "other", &config).await;
    assert_eq!(code, 409, "another has written the port: {error}");
    let config =
        json!({"apiVersion": "example.com/v2", "kind": "Host", "metadata": {"name": "a", "labels": {"l": "x"}}});
    let (code, applied) = apply(&server, &format!("{V2}/a"), "other", &config).await;
    assert_eq!((code, &applied["metadata"]["labels"]), (200, &json!({"l": "x"})), "{applied}");
    assert_eq!(applied["spec"]["port"], "80");
    let (code, made) = apply(&server, &format!("{V2}/b"), "other", &json!({
        "apiVersion": "example.com/v2", "kind": "Host", "metadata": {"name": "b"}, "spec": {"host": "h", "port": "1"},
    }))
    .await;
    assert_eq!((code, &made["spec"]), (201, &json!({"host": "h", "port": "1"})), "{made}");
    assert_eq!(stored(&server, "b").await["spec"], json!({"hostPort": "h:1"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_an_earlier_storage_version_are_converted_when_they_are_written_again() {
    let server = TestServer::start().await;
    let webhook = Webhook::start(&server).await;
    server.define(&definition(&webhook)).await;
    server.create(V1, host("a")).await;
    let flip = json!([
        {"op": "replace", "path": "/spec/versions/0/storage", "value": false},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": true},
    ]);
    let (code, crd) = server.patch("json-patch", &format!("{CRDS}/{NAME}"), flip).await;
    assert_eq!((code.as_u16(), &crd["status"]["storedVersions"]), (200, &json!(["v1", "v2"])), "{crd}");
    // The new storage version holds once something is stored in it.
    let switched = async {
        for i in 0.. {
            let name = format!("probe-{i}");
            server.create(V1, host(&name)).await;
            if stored(&server, &name).await["apiVersion"] == "example.com/v2" {
                return name;
            }
        }
        unreachable!("the loop has no end")
    };
    let new = timeout(PATIENCE, switched).await.expect("the new version is stored");
    assert_eq!(stored(&server, &new).await["spec"], json!({"host": "localhost", "port": "1234"}));
    assert_eq!(stored(&server, "a").await["apiVersion"], "example.com/v1", "what is not written stays");
    for (uri, spec) in [(V1, json!({"hostPort": "localhost:1234"})), (V2, json!({"host": "localhost", "port": "1234"}))]
    {
        let (_, list) = server.get(uri).await;
        let items = list["items"].as_array().unwrap();
        assert!(items.len() >= 2 && items.iter().all(|item| item["spec"] == spec), "{list}");
    }
    let labels = json!({"metadata": {"labels": {"l": "x"}}});
    let (code, patched) = server.patch("merge-patch", &format!("{V1}/a"), labels).await;
    assert_eq!(code, 200, "{patched}");
    assert_eq!(stored(&server, "a").await["apiVersion"], "example.com/v2");
    assert_eq!(server.get(&format!("{V1}/a")).await.1["spec"], json!({"hostPort": "localhost:1234"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_fails_is_named_by_the_error_and_nothing_else_suffers() {
    let server = TestServer::start().await;
    let webhook = Webhook::start(&server).await;
    server.define(&definition(&webhook)).await;
    server.create(V1, host("a")).await;
    webhook.broken.store(true, Ordering::SeqCst);
    let (code, error) = server.get(&format!("{V2}/a")).await;
    let want = "conversion webhook for example.com/v1, Kind=Host failed: out of order";
    assert_eq!((code.as_u16(), error["message"].as_str().unwrap()), (500, want));
    let url = webhook.url();
    drop(webhook);
    let want = format!("conversion webhook for example.com/v1, Kind=Host failed: Post \"{url}?timeout=30s\": ");
    for uri in [format!("{V2}/a"), V2.to_owned()] {
        let (code, error) = server.get(&uri).await;
        let message = error["message"].as_str().unwrap();
        assert!(code == 500 && message.starts_with(&want) && message.contains("connection refused"), "{uri}: {error}");
    }
    let (code, error) = server.patch("merge-patch", &format!("{V2}/a"), json!({"spec": {"port": "1"}})).await;
    assert_eq!(code, 500, "{error}");
    let mut object = host("b");
    object["apiVersion"] = "example.com/v2".into();
    let (code, error) = server.post(V2, object).await;
    assert_eq!(code, 500);
    assert!(
        error["message"].as_str().unwrap().starts_with("conversion webhook for example.com/v2, Kind=Host failed:"),
        "{error}"
    );
    // Who asks for what is stored needs no webhook.
    assert_eq!(server.get(V1).await.1["items"].as_array().unwrap().len(), 1);
    assert_eq!(server.call(Method::DELETE, &format!("{V1}/a"), Value::Null).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_state_of_an_object_is_converted_once() {
    const OBJECTS: usize = 20;
    let server = TestServer::start().await;
    let webhook = Webhook::start(&server).await;
    server.define(&definition(&webhook)).await;
    for i in 0..OBJECTS {
        server.create(V1, host(&format!("h{i}"))).await;
    }
    // Readers at once and one after the other, lists, pages and watches.
    let lists = futures::future::join_all((0..10).map(|_| server.get(V2))).await;
    assert!(lists.iter().all(|(code, list)| *code == 200 && list["items"].as_array().unwrap().len() == OBJECTS));
    for uri in [V2.to_owned(), format!("{V2}?limit=7"), format!("{V2}/h3")] {
        assert_eq!(server.get(&uri).await.0, 200);
    }
    let watches = futures::future::join_all((0..5).map(|_| watched(&server, V2, OBJECTS))).await;
    assert!(watches.iter().flatten().all(|event| event["object"]["spec"]["port"] == "1234"));
    assert_eq!(webhook.converted(), OBJECTS);

    // A dry run is shown as it would be, and is seen by nobody else.
    let change = json!({"metadata": {"labels": {"dry": "run"}}});
    let uri = format!("{V2}/h3");
    let (code, dry) = server.patch("merge-patch", &format!("{uri}?dryRun=All"), change).await;
    assert_eq!((code.as_u16(), &dry["metadata"]["labels"]), (200, &json!({"dry": "run"})), "{dry}");
    assert_eq!(server.get(&uri).await.1["metadata"].get("labels"), None);

    // What changes is converted again: to be written, and to be shown.
    let (code, _) = server.patch("merge-patch", &format!("{V1}/h3"), json!({"spec": {"hostPort": "h:1"}})).await;
    assert_eq!(code, 200);
    let before = webhook.converted();
    let lists = futures::future::join_all((0..10).map(|_| server.get(V2))).await;
    assert!(lists.iter().all(|(_, list)| list["items"].to_string().contains(r#""port":"1""#)));
    assert_eq!(webhook.converted(), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_of_what_is_being_deleted_end_with_the_server() {
    let server = TestServer::start().await;
    let webhook = Webhook::start(&server).await;
    server.define(&definition(&webhook)).await;
    // Its deletion waits for a finalizer, and watches go on until then.
    let mut held = host("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    server.create(V1, held).await;
    let watch = server.send(Request::get(format!("{V1}?watch=1")).body(Full::default()).unwrap()).await;
    assert_eq!(server.call(Method::DELETE, &format!("{CRDS}/{NAME}"), Value::Null).await.0, 200);
    server.until(&format!("{V1}/held"), |object| object["metadata"].get("deletionTimestamp").is_some()).await;
    server.server.stop();
    timeout(PATIENCE, watch.into_body().collect()).await.expect("the watch ends").unwrap();
}
