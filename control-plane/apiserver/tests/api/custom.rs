//! CustomResourceDefinitions and what they define.

use std::time::Duration;

use futures::StreamExt;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use skep_apiserver::{ApiServer, Config};
use tokio::time::timeout;

use crate::support::TestServer;

pub(crate) const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const TABS: &str = "/apis/stable.example.com/v1/namespaces/default/crontabs";
const PATIENCE: Duration = Duration::from_secs(20);

fn crontabs(change: impl FnOnce(&mut Value)) -> Value {
    let mut crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {
            "group": "stable.example.com",
            "names": {"kind": "CronTab", "plural": "crontabs", "shortNames": ["ct"], "categories": ["all"]},
            "scope": "Namespaced",
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}, "scale": {
                    "specReplicasPath": ".spec.replicas",
                    "statusReplicasPath": ".status.replicas",
                    "labelSelectorPath": ".status.selector",
                }},
                "selectableFields": [{"jsonPath": ".spec.color"}],
                "additionalPrinterColumns": [
                    {"name": "Spec", "type": "string", "jsonPath": ".spec.cronSpec"},
                    {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"},
                ],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "properties": {
                        "cronSpec": {"type": "string", "pattern": "^[0-9* /]+$"},
                        "color": {"type": "string", "enum": ["red", "blue"]},
                        "replicas": {"type": "integer", "minimum": 0, "maximum": 10, "default": 1},
                        "ports": {
                            "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port"],
                            "items": {"type": "object", "required": ["port"], "properties": {
                                "port": {"type": "integer"},
                                "protocol": {"type": "string", "default": "TCP"},
                            }},
                        },
                    }},
                    "status": {"type": "object", "properties": {
                        "replicas": {"type": "integer"}, "selector": {"type": "string"},
                    }},
                }}},
            }],
        },
    });
    change(&mut crd);
    crd
}

fn tab(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": name}, "spec": spec})
}

impl TestServer {
    pub(crate) async fn define(&self, crd: &Value) {
        let (code, body) = self.call(Method::POST, CRDS, crd.clone()).await;
        assert_eq!(code, 201, "{body}");
        let name = crd["metadata"]["name"].as_str().unwrap();
        self.until(&format!("{CRDS}/{name}"), |crd| condition(crd, "Established") == "True").await;
    }

    /// Asks until the answer is as wanted.
    pub(crate) async fn until(&self, uri: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let asked = async {
            loop {
                let (_, body) = self.get(uri).await;
                if wanted(&body) {
                    return body;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("{uri} is not as wanted"))
    }

    pub(crate) async fn patch(&self, kind: &str, uri: &str, body: Value) -> (StatusCode, Value) {
        self.raw(Method::PATCH, uri, &format!("application/{kind}+json"), body.to_string()).await
    }

    pub(crate) async fn post(&self, uri: &str, body: Value) -> (StatusCode, Value) {
        self.call(Method::POST, uri, body).await
    }
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.filter(|c| c["type"] == kind).find_map(|c| c["status"].as_str()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_is_accepted_and_its_objects_are_served() {
    let server = TestServer::start().await;
    server.define(&crontabs(|_| ())).await;
    let (_, crd) = server.get(&format!("{CRDS}/crontabs.stable.example.com")).await;
    assert_eq!(condition(&crd, "NamesAccepted"), "True");
    assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(crd["status"]["acceptedNames"]["listKind"], "CronTabList");
    assert_eq!(crd["spec"]["conversion"]["strategy"], "None");

    // Created, defaulted, without status, with its generation.
    let mut given = tab("a", json!({"cronSpec": "* * * * *", "color": "red", "ports": [{"port": 80}]}));
    given["status"] = json!({"replicas": 7});
    let (code, made) = server.post(TABS, given).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"]["replicas"], 1);
    assert_eq!(made["spec"]["ports"][0]["protocol"], "TCP");
    assert_eq!((made.get("status"), &made["metadata"]["generation"]), (None, &json!(1)));

    // Read, listed, selected.
    assert_eq!(server.get(&format!("{TABS}/a")).await.1, made);
    let (_, list) = server.get("/apis/stable.example.com/v1/crontabs?fieldSelector=spec.color%3Dred").await;
    assert_eq!((&list["kind"], list["items"].as_array().unwrap().len()), (&json!("CronTabList"), 1));
    let (_, none) = server.get(&format!("{TABS}?fieldSelector=spec.color%3Dblue")).await;
    assert_eq!(none["items"], json!([]));
    assert_eq!(server.get(&format!("{TABS}?fieldSelector=spec.replicas%3D1")).await.0, 400);

    // The spec counts generations, the status does not.
    let (code, patched) = server
        .patch("merge-patch", &format!("{TABS}/a"), json!({"spec": {"replicas": 3}, "status": {"replicas": 9}}))
        .await;
    assert_eq!((code.as_u16(), &patched["metadata"]["generation"]), (200, &json!(2)), "{patched}");
    assert_eq!(patched.get("status"), None);
    let status = json!({"status": {"replicas": 2, "selector": "a=b"}, "spec": {"replicas": 9}});
    let (code, patched) = server.patch("merge-patch", &format!("{TABS}/a/status"), status).await;
    assert_eq!((code.as_u16(), &patched["metadata"]["generation"]), (200, &json!(2)), "{patched}");
    assert_eq!((&patched["spec"]["replicas"], &patched["status"]["replicas"]), (&json!(3), &json!(2)));

    // Scale.
    let (_, scale) = server.get(&format!("{TABS}/a/scale")).await;
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(3), &json!("a=b")));
    let (code, scale) = server.patch("merge-patch", &format!("{TABS}/a/scale"), json!({"spec": {"replicas": 5}})).await;
    assert_eq!((code.as_u16(), &scale["spec"]["replicas"]), (200, &json!(5)), "{scale}");
    assert_eq!(server.get(&format!("{TABS}/a")).await.1["spec"]["replicas"], 5);
    let (code, _) = server
        .patch("json-patch", &format!("{TABS}/a"), json!([{"op": "replace", "path": "/spec/replicas", "value": 4}]))
        .await;
    assert_eq!(code, 200);

    // Strategic merge knows no custom resources; nothing is overwritten blindly.
    let (code, _) = server.patch("strategic-merge-patch", &format!("{TABS}/a"), json!({"spec": {"replicas": 1}})).await;
    assert_eq!(code, 415);
    let (code, body) = server.call(Method::PUT, &format!("{TABS}/a"), tab("a", json!({}))).await;
    assert_eq!(code, 422);
    assert!(body["message"].as_str().unwrap().contains("must be specified for an update"), "{body}");

    let (code, body) = server.call(Method::DELETE, &format!("{TABS}/a"), Value::Null).await;
    assert_eq!((code.as_u16(), &body["status"]), (200, &json!("Success")), "{body}");
    assert_eq!(server.get(&format!("{TABS}/a")).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_objects_are_refused_and_unknown_fields_dropped() {
    let server = TestServer::start().await;
    server.define(&crontabs(|_| ())).await;
    for (spec, message) in [
        (
            json!({"replicas": "x"}),
            "spec.replicas: Invalid value: \"string\": spec.replicas in body must be of type integer: \"string\"",
        ),
        (
            json!({"replicas": 11}),
            "spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10",
        ),
        (json!({"color": "pink"}), "spec.color: Unsupported value: \"pink\": supported values: \"red\", \"blue\""),
        (json!({"ports": [{"port": 1}, {"port": 1}]}), "spec.ports[1]: Duplicate value: {\"port\":1}"),
        (json!({"ports": [{}]}), "spec.ports[0].port: Required value"),
    ] {
        let (code, body) = server.post(TABS, tab("a", spec)).await;
        let want = format!("CronTab.stable.example.com \"a\" is invalid: {message}");
        assert_eq!((code.as_u16(), body["message"].as_str().unwrap()), (422, want.as_str()));
    }
    let (code, body) = server
        .post(TABS, json!({"apiVersion": "stable.example.com/v2", "kind": "CronTab", "metadata": {"name": "a"}}))
        .await;
    assert_eq!(
        (code.as_u16(), body["message"].as_str().unwrap()),
        (
            400,
            "the API version in the data (stable.example.com/v2) does not match the expected API version (stable.example.com/v1)"
        )
    );
    let unknown = tab("b", json!({"what": 1}));
    let (code, body) = server.post(&format!("{TABS}?fieldValidation=Strict"), unknown.clone()).await;
    assert_eq!(code, 400);
    assert!(
        body["message"].as_str().unwrap().ends_with("strict decoding error: unknown field \"spec.what\""),
        "{body}"
    );
    let request = Request::post(format!("{TABS}?fieldValidation=Warn&dryRun=All"))
        .header("content-type", "application/json")
        .body(Full::from(unknown.to_string()))
        .unwrap();
    let response = server.send(request).await;
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["warning"], "299 - \"unknown field \\\"spec.what\\\"\"");
    assert_eq!(server.get(&format!("{TABS}/b")).await.0, 404);
    let (_, made) = server.post(&format!("{TABS}?fieldValidation=Ignore"), unknown).await;
    assert_eq!(made["spec"], json!({"replicas": 1}));

    // Deep nesting ends in an error, not in a crash.
    let deep = format!(
        "{{\"apiVersion\":\"stable.example.com/v1\",\"kind\":\"CronTab\",\"metadata\":{{\"name\":\"c\"}},\"spec\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert_eq!(server.raw(Method::POST, TABS, "application/json", deep).await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_definitions_are_refused() {
    let server = TestServer::start().await;
    for (change, message) in [
        (
            json!({"name": "v1", "served": true, "storage": true}),
            "spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required",
        ),
        (
            json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": {"a": {}}}}}),
            "spec.validation.openAPIV3Schema.properties[a].type: Required value: must not be empty for specified object fields",
        ),
    ] {
        let (code, body) = server.post(CRDS, crontabs(|crd| crd["spec"]["versions"] = json!([change]))).await;
        assert_eq!(code, 422);
        assert!(body["message"].as_str().unwrap().contains(message), "{body}");
    }
    // A schema as deep as JSON may be.
    let mut deep = json!({"type": "string"});
    for _ in 0..200 {
        deep = json!({"type": "object", "properties": {"a": deep}});
    }
    let crd = crontabs(|crd| crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = deep);
    assert_eq!(server.post(CRDS, crd).await.0, 400);
    // And a wide one is served.
    let fields: serde_json::Map<String, Value> =
        (0..5000).map(|i| (format!("field{i}"), json!({"type": "string", "description": "x".repeat(50)}))).collect();
    let wide = crontabs(|crd| {
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"] = fields.into()
    });
    let wide = {
        let mut wide = wide;
        wide["spec"]["versions"][0].as_object_mut().unwrap().remove("selectableFields");
        wide
    };
    server.define(&wide).await;
    let (code, made) = server.post(TABS, tab("a", json!({"field4999": "x", "field5000": "y"}))).await;
    assert_eq!((code.as_u16(), &made["spec"]), (201, &json!({"field4999": "x"})));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_taken_are_not_accepted_until_they_are_free() {
    let server = TestServer::start().await;
    server.define(&crontabs(|_| ())).await;
    let second = crontabs(|crd| {
        crd["metadata"]["name"] = "tabs.stable.example.com".into();
        crd["spec"]["names"] = json!({"kind": "Tab", "plural": "tabs", "shortNames": ["ct"]});
    });
    assert_eq!(server.post(CRDS, second).await.0, 201);
    let uri = format!("{CRDS}/tabs.stable.example.com");
    let crd = server.until(&uri, |crd| condition(crd, "NamesAccepted") == "False").await;
    assert_eq!(condition(&crd, "Established"), "False");
    assert_eq!(server.get("/apis/stable.example.com/v1/tabs").await.0, 404);
    let (code, _) = server.call(Method::DELETE, &format!("{CRDS}/crontabs.stable.example.com"), Value::Null).await;
    assert_eq!(code, 200);
    server.until(&uri, |crd| condition(crd, "Established") == "True").await;
    assert_eq!(server.get("/apis/stable.example.com/v1/tabs").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_and_openapi_tell_of_custom_resources() {
    let server = TestServer::start().await;
    let aggregated = || {
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let request = Request::get("/apis").header("accept", accept).body(Full::default()).unwrap();
        server.send(request)
    };
    let before = aggregated().await.headers()["etag"].clone();
    let (_, index) = server.get("/openapi/v3").await;
    assert_eq!(index["paths"].get("apis/stable.example.com/v1"), None);
    server.define(&crontabs(|_| ())).await;
    assert_ne!(aggregated().await.headers()["etag"], before);

    let (_, list) = server.get("/apis/stable.example.com/v1").await;
    let find = |name: &str| list["resources"].as_array().unwrap().iter().find(|r| r["name"] == name).cloned().unwrap();
    assert_eq!(find("crontabs")["shortNames"], json!(["ct"]));
    assert_eq!(find("crontabs")["categories"], json!(["all"]));
    assert_eq!(find("crontabs/scale")["kind"], "Scale");
    assert_eq!(find("crontabs/status")["kind"], "CronTab");
    let (_, group) = server.get("/apis/stable.example.com").await;
    assert_eq!(group["preferredVersion"]["groupVersion"], "stable.example.com/v1");

    let (_, index) = server.get("/openapi/v3").await;
    let url = index["paths"]["apis/stable.example.com/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let (_, v3) = server.get(&url).await;
    let schema = &v3["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(schema["properties"]["spec"]["properties"]["ports"]["x-kubernetes-list-map-keys"], json!(["port"]));
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "CronTab");
    assert!(v3["paths"]["/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}/scale"].is_object());
    let (_, v2) = server.get("/openapi/v2").await;
    assert_eq!(
        v2["definitions"]["com.example.stable.v1.CronTab"]["x-kubernetes-group-version-kind"][0]["group"],
        "stable.example.com"
    );
    assert!(v2["definitions"]["com.example.stable.v1.CronTabList"].is_object());

    // Another schema, another address.
    let uri = format!("{CRDS}/crontabs.stable.example.com");
    let change = json!([{"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/more", "value": {"type": "string"}}]);
    assert_eq!(server.patch("json-patch", &uri, change).await.0, 200);
    server.until("/openapi/v3", |index| index["paths"]["apis/stable.example.com/v1"]["serverRelativeURL"] != url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_have_the_columns_of_the_definition() {
    let server = TestServer::start().await;
    server.define(&crontabs(|_| ())).await;
    assert_eq!(server.post(TABS, tab("a", json!({"cronSpec": "* * *"}))).await.0, 201);
    let request = Request::get(TABS)
        .header("accept", "application/json;as=Table;g=meta.k8s.io;v=v1")
        .body(Full::default())
        .unwrap();
    let body = server.send(request).await.into_body().collect().await.unwrap().to_bytes();
    let table: Value = serde_json::from_slice(&body).unwrap();
    let names: Vec<_> = table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
    assert_eq!(names, ["Name", "Spec", "Replicas"]);
    assert_eq!(table["rows"][0]["cells"], json!(["a", "* * *", 1]));
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_without_conversion_differ_in_name_and_schema_only() {
    let server = TestServer::start().await;
    server.define(&crontabs(|_| ())).await;
    assert_eq!(server.post(TABS, tab("a", json!({"cronSpec": "1", "color": "red"}))).await.0, 201);
    // A new version that knows less, deprecates the old and becomes the one stored.
    let uri = format!("{CRDS}/crontabs.stable.example.com");
    let (_, mut crd) = server.get(&uri).await;
    let mut v2 = crd["spec"]["versions"][0].clone();
    v2["name"] = "v2".into();
    v2["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["color"] =
        json!({"type": "string", "default": "green"});
    v2["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"].as_object_mut().unwrap().remove("cronSpec");
    v2["additionalPrinterColumns"] = json!([]);
    crd["spec"]["versions"][0]["storage"] = false.into();
    crd["spec"]["versions"][0]["deprecated"] = true.into();
    crd["spec"]["versions"].as_array_mut().unwrap().push(v2);
    let (code, crd) = server.call(Method::PUT, &uri, crd).await;
    assert_eq!(code, 200, "{crd}");
    assert_eq!(crd["status"]["storedVersions"], json!(["v1", "v2"]));

    let new = "/apis/stable.example.com/v2/namespaces/default/crontabs";
    let shown = server.until(&format!("{new}/a"), |object| object["kind"] == "CronTab").await;
    assert_eq!(shown["apiVersion"], "stable.example.com/v2");
    assert_eq!(shown["spec"], json!({"color": "red", "replicas": 1}));
    let (_, list) = server.get(new).await;
    assert_eq!((&list["apiVersion"], &list["items"][0]), (&json!("stable.example.com/v2"), &shown));
    // The old version still shows what is stored in it.
    assert_eq!(server.get(&format!("{TABS}/a")).await.1["spec"]["cronSpec"], "1");
    let request = Request::get(format!("{TABS}/a")).body(Full::default()).unwrap();
    let response = server.send(request).await;
    assert_eq!(response.headers()["warning"], "299 - \"stable.example.com/v1 CronTab is deprecated\"");

    // A write through the old version is stored in the new.
    let (code, _) = server.patch("merge-patch", &format!("{TABS}/a"), json!({"spec": {"replicas": 2}})).await;
    assert_eq!(code, 200);
    let stored = server.storage.read("/registry/stable.example.com/crontabs/default/a").await.unwrap().unwrap();
    let stored: Value = serde_json::from_slice(&stored.value).unwrap();
    assert_eq!(
        (&stored["apiVersion"], &stored["spec"]),
        (&json!("stable.example.com/v2"), &json!({"color": "red", "replicas": 2}))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_definition_takes_its_objects_along_and_ends_their_watches() {
    let server = TestServer::start().await;
    server.define(&crontabs(|_| ())).await;
    let mut held = tab("held", json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    for object in [tab("a", json!({})), tab("b", json!({})), held] {
        assert_eq!(server.post(TABS, object).await.0, 201);
    }
    let watch = server.send(Request::get(format!("{TABS}?watch=1")).body(Full::default()).unwrap()).await;
    let frames =
        watch.into_body().into_data_stream().map(|frame| String::from_utf8_lossy(&frame.unwrap()).into_owned());
    let seen = tokio::spawn(frames.collect::<Vec<String>>());
    let uri = format!("{CRDS}/crontabs.stable.example.com");
    let (code, crd) = server.call(Method::DELETE, &uri, Value::Null).await;
    assert_eq!((code.as_u16(), condition(&crd, "Terminating")), (200, "True"), "{crd}");
    server.until(TABS, |list| list["items"].as_array().is_some_and(|items| items.len() == 1)).await;
    let (code, body) = server.post(TABS, tab("late", json!({}))).await;
    assert_eq!(
        (code.as_u16(), &body["message"]),
        (405, &json!("create not allowed while custom resource definition is terminating"))
    );
    assert_eq!(server.get(&uri).await.0, 200);
    let (code, _) =
        server.patch("merge-patch", &format!("{TABS}/held"), json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(code, 200);
    server.until(&uri, |crd| crd["code"] == 404).await;
    server.until(TABS, |list| list.get("items").is_none()).await;
    assert_eq!(server.get(TABS).await.0, 404);
    assert_eq!(server.get("/apis/stable.example.com").await.0, 404);

    let seen = timeout(PATIENCE, seen).await.expect("the watch ends").unwrap();
    assert_eq!(seen.iter().filter(|frame| frame.contains("\"type\":\"DELETED\"")).count(), 3, "{seen:?}");

    // The same again is something new.
    server.define(&crontabs(|_| ())).await;
    assert_eq!(server.get(TABS).await.1["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_changed_definitions_loses_no_object() {
    const CHANGES: usize = 20;
    let server = TestServer::start().await;
    server.define(&crontabs(|_| ())).await;
    let uri = format!("{CRDS}/crontabs.stable.example.com");
    let change = async {
        for i in 0..CHANGES {
            let path = format!("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/f{i}");
            let (code, body) = server
                .patch("json-patch", &uri, json!([{"op": "add", "path": path, "value": {"type": "string"}}]))
                .await;
            assert_eq!(code, 200, "{body}");
        }
    };
    let write = async {
        for i in 0..CHANGES {
            let (code, body) = server.post(TABS, tab(&format!("t{i}"), json!({}))).await;
            assert_eq!(code, 201, "{body}");
        }
    };
    let watch = async {
        let mut seen = std::collections::BTreeSet::new();
        let mut version = String::from("0");
        while seen.len() < CHANGES {
            let uri = format!("{TABS}?watch=1&resourceVersion={version}");
            let answer = server.send(Request::get(uri).body(Full::default()).unwrap()).await;
            assert_eq!(answer.status(), 200);
            let mut frames = answer.into_body().into_data_stream();
            while let Some(frame) = frames.next().await {
                for line in String::from_utf8_lossy(&frame.unwrap()).lines() {
                    let event: Value = serde_json::from_str(line).unwrap();
                    assert_ne!(event["type"], "ERROR", "{event}");
                    version = event["object"]["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
                    seen.insert(event["object"]["metadata"]["name"].as_str().unwrap().to_owned());
                }
                if seen.len() == CHANGES {
                    break;
                }
            }
        }
    };
    timeout(PATIENCE * 2, async { tokio::join!(change, write, watch) }).await.expect("all objects are seen");
    // The newest schema holds in the end: until then it is an older one that prunes what it does not know.
    let last = format!("f{}", CHANGES - 1);
    let newest = async {
        loop {
            let dry = format!("{TABS}?dryRun=All");
            let (code, made) = server.post(&dry, tab("last", json!({last.as_str(): "x"}))).await;
            assert_eq!(code, 201, "{made}");
            if made["spec"][&last] == json!("x") {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, newest).await.expect("the newest schema is served");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_server_defines_another_serves() {
    let first = TestServer::start().await;
    let storage =
        skep_storage::Storage::connect(first.etcd.etcd_config(), skep_apiserver::resource_schemas()).await.unwrap();
    let kubelet =
        skep_pki::client_config(first.pki.ca().certificate(), Some(first.pki.apiserver_kubelet_client())).unwrap();
    let config =
        Config::new(storage, "10.96.0.0/24".parse().unwrap(), "192.0.2.2".parse().unwrap(), 6443, kubelet.into());
    let second = ApiServer::new(config).await.unwrap();
    let client = kube::Client::new(second.service().with_user(skep_apiserver::UserInfo::master("admin")), "default");
    first.define(&crontabs(|_| ())).await;
    // No patience here: the second server catches up before it says that it knows nothing of this.
    let request = http::Request::get(TABS).body(Vec::new()).unwrap();
    let list: Value = client.request(request).await.unwrap();
    assert_eq!(list["kind"], "CronTabList");
    assert_eq!(first.post(TABS, tab("a", json!({}))).await.0, 201);
    let request = http::Request::get(format!("{TABS}/a")).body(Vec::new()).unwrap();
    let object: Value = client.request(request).await.unwrap();
    assert_eq!(object["spec"]["replicas"], 1);
}
