//! Create, read, update, patch, watch and delete.

use futures::{StreamExt, TryStreamExt};
use http::Method;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::{Value, json};

use crate::support::{TestServer, config_map, pod};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(flavor = "multi_thread")]
async fn system_namespaces_and_the_kubernetes_service_are_there() {
    let server = TestServer::start().await;
    let namespaces: Api<Namespace> = Api::all(server.client());
    let names: Vec<_> =
        namespaces.list(&ListParams::default()).await.unwrap().into_iter().filter_map(|n| n.metadata.name).collect();
    assert_eq!(names, ["default", "kube-node-lease", "kube-public", "kube-system"]);
    let (code, service) = server.get("/api/v1/namespaces/default/services/kubernetes").await;
    assert_eq!(code, 200);
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    let (code, slice) = server.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await;
    assert_eq!(code, 200);
    assert_eq!(slice["endpoints"][0]["addresses"][0], "192.0.2.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_lives_from_create_to_delete() {
    let server = TestServer::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let made =
        maps.create(&PostParams::default(), &serde_json::from_value(config_map("a", "1")).unwrap()).await.unwrap();
    let uid = made.metadata.uid.clone().unwrap();
    assert!(made.metadata.creation_timestamp.is_some() && made.metadata.resource_version.is_some());
    assert_eq!(maps.get("a").await.unwrap(), made);

    let mut changed = made.clone();
    changed.data.as_mut().unwrap().insert("key".into(), "2".into());
    let changed = maps.replace("a", &PostParams::default(), &changed).await.unwrap();
    assert_eq!(changed.metadata.uid.as_deref(), Some(uid.as_str()));
    assert_ne!(changed.metadata.resource_version, made.metadata.resource_version);

    // The version it was based on is gone.
    let error = maps.replace("a", &PostParams::default(), &made).await.unwrap_err();
    let kube::Error::Api(status) = error else { panic!("{error}") };
    assert_eq!(status.code, 409);
    assert_eq!(
        status.message,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to \
         the latest version and try again"
    );

    // A replacement that changes nothing writes nothing.
    let same = maps.replace("a", &PostParams::default(), &changed).await.unwrap();
    assert_eq!(same.metadata.resource_version, changed.metadata.resource_version);

    let patch = Patch::Merge(json!({"data": {"other": "x"}, "metadata": {"labels": {"l": "v"}}}));
    let patched = maps.patch("a", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(patched.data.unwrap().len(), 2);

    assert_eq!(maps.list(&ListParams::default().labels("l=v")).await.unwrap().items.len(), 1);
    assert_eq!(maps.list(&ListParams::default().labels("l!=v")).await.unwrap().items.len(), 0);
    assert_eq!(maps.list(&ListParams::default().fields("metadata.name=a")).await.unwrap().items.len(), 1);

    let status = maps.delete("a", &DeleteParams::default()).await.unwrap().right().unwrap();
    assert_eq!(status.details.unwrap().uid, uid);
    let (code, body) = server.get(&format!("{MAPS}/a")).await;
    assert_eq!((code.as_u16(), &body["message"]), (404, &json!("configmaps \"a\" not found")));
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_comes_first_in_what_is_stored() {
    let server = TestServer::start().await;
    server.call(Method::POST, MAPS, config_map("a", "1")).await;
    let stored = server.storage.read("/registry/configmaps/default/a").await.unwrap().unwrap();
    let text = String::from_utf8(stored.value.to_vec()).unwrap();
    assert!(text.starts_with(r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"#), "{text}");
    assert!(!text.contains("resourceVersion"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_generated_and_taken_names_refused() {
    let server = TestServer::start().await;
    let body = json!({"metadata": {"generateName": "x-"}});
    let (code, made) = server.call(Method::POST, MAPS, body).await;
    assert_eq!(code, 201);
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("x-") && name.len() == 7, "{name}");
    let (code, body) = server.call(Method::POST, MAPS, config_map(name, "1")).await;
    assert_eq!((code.as_u16(), &body["reason"]), (409, &json!("AlreadyExists")));
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_run_writes_nothing() {
    let server = TestServer::start().await;
    let (code, body) = server.call(Method::POST, &format!("{MAPS}?dryRun=All"), config_map("a", "1")).await;
    assert_eq!(code, 201);
    assert!(body["metadata"]["uid"].is_string() && body["metadata"]["resourceVersion"].is_null());
    assert_eq!(server.get(&format!("{MAPS}/a")).await.0, 404);
    let (_, made) = server.call(Method::POST, MAPS, config_map("a", "1")).await;
    let (code, body) = server.call(Method::PUT, &format!("{MAPS}/a?dryRun=All"), config_map("a", "2")).await;
    assert_eq!((code.as_u16(), &body["data"]["key"]), (200, &json!("2")));
    assert_eq!(server.call(Method::DELETE, &format!("{MAPS}/a?dryRun=All"), Value::Null).await.0, 200);
    assert_eq!(server.get(&format!("{MAPS}/a")).await.1, made);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_sees_every_change_in_order() {
    let server = TestServer::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    server.call(Method::POST, MAPS, config_map("before", "1")).await;
    let list = maps.list(&ListParams::default()).await.unwrap();
    let version = list.metadata.resource_version.unwrap();
    let mut watch = maps.watch(&WatchParams::default(), &version).await.unwrap().boxed();
    server.call(Method::POST, MAPS, config_map("a", "1")).await;
    server.call(Method::PUT, &format!("{MAPS}/a"), config_map("a", "2")).await;
    server.call(Method::DELETE, &format!("{MAPS}/a"), Value::Null).await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.push(match watch.try_next().await.unwrap().unwrap() {
            WatchEvent::Added(map) => ("added", map.data.unwrap()["key"].clone()),
            WatchEvent::Modified(map) => ("modified", map.data.unwrap()["key"].clone()),
            WatchEvent::Deleted(map) => ("deleted", map.data.unwrap()["key"].clone()),
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(seen, [("added", "1".into()), ("modified", "2".into()), ("deleted", "2".into())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selector_turns_changes_into_comings_and_goings() {
    let server = TestServer::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let mut watch = maps.watch(&WatchParams::default().labels("on=yes"), "0").await.unwrap().boxed();
    server.call(Method::POST, MAPS, config_map("a", "1")).await;
    for label in [json!("yes"), json!(null)] {
        let patch = Patch::Merge(json!({"metadata": {"labels": {"on": label}}}));
        maps.patch("a", &PatchParams::default(), &patch).await.unwrap();
    }
    let added = watch.try_next().await.unwrap().unwrap();
    assert!(matches!(added, WatchEvent::Added(_)), "{added:?}");
    let WatchEvent::Deleted(gone) = watch.try_next().await.unwrap().unwrap() else { panic!() };
    assert_eq!(gone.metadata.labels.unwrap()["on"], "yes", "shown as it was");
    assert_eq!(
        gone.metadata.resource_version,
        maps.get("a").await.unwrap().metadata.resource_version,
        "at the version of the change"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streaming_list_ends_with_a_marked_bookmark() {
    let server = TestServer::start().await;
    server.call(Method::POST, MAPS, config_map("a", "1")).await;
    let maps: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let params = WatchParams::default().initial_events();
    let mut watch = maps.watch(&params, "").await.unwrap().boxed();
    let first = watch.try_next().await.unwrap().unwrap();
    assert!(matches!(first, WatchEvent::Added(_)), "{first:?}");
    let WatchEvent::Bookmark(bookmark) = watch.try_next().await.unwrap().unwrap() else { panic!() };
    assert_eq!(bookmark.metadata.annotations["k8s.io/initial-events-end"], "true");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_show_one_state_whatever_happens_between_them() {
    let server = TestServer::start().await;
    for i in 0..5 {
        server.call(Method::POST, MAPS, config_map(&format!("m{i}"), "1")).await;
    }
    let maps: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let first = maps.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!(first.items.len(), 2);
    assert_eq!(first.metadata.remaining_item_count, Some(3));
    server.call(Method::DELETE, &format!("{MAPS}/m3"), Value::Null).await;
    server.call(Method::POST, MAPS, config_map("m9", "1")).await;
    let token = first.metadata.continue_.unwrap();
    let second = maps.list(&ListParams::default().limit(2).continue_token(&token)).await.unwrap();
    assert_eq!(second.metadata.resource_version, first.metadata.resource_version);
    let third =
        maps.list(&ListParams::default().limit(2).continue_token(&second.metadata.continue_.unwrap())).await.unwrap();
    assert!(third.metadata.continue_.is_none());
    let names: Vec<_> =
        [first.items, second.items, third.items].concat().into_iter().filter_map(|m| m.metadata.name).collect();
    assert_eq!(names, ["m0", "m1", "m2", "m3", "m4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn finalizers_keep_an_object_until_the_last_is_gone() {
    let server = TestServer::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let mut map = config_map("a", "1");
    map["metadata"]["finalizers"] = json!(["example.com/hold"]);
    server.call(Method::POST, MAPS, map).await;
    let waiting = maps.delete("a", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert!(waiting.metadata.deletion_timestamp.is_some());
    assert!(maps.get("a").await.is_ok());
    let patch = Patch::Merge(json!({"metadata": {"finalizers": ["example.com/hold", "example.com/new"]}}));
    let error = maps.patch("a", &PatchParams::default(), &patch).await.unwrap_err();
    assert!(error.to_string().contains("no new finalizers can be added if the object is being deleted"), "{error}");
    let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    maps.patch("a", &PatchParams::default(), &patch).await.unwrap();
    assert!(maps.get_opt("a").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn propagation_becomes_a_finalizer() {
    let server = TestServer::start().await;
    for (policy, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
        server.call(Method::POST, MAPS, config_map("a", "1")).await;
        let uri = format!("{MAPS}/a?propagationPolicy={policy}");
        let (code, body) = server.call(Method::DELETE, &uri, Value::Null).await;
        assert_eq!(code, 200);
        assert_eq!(body["metadata"]["finalizers"], json!([finalizer]));
        let uri = format!("{MAPS}/a?propagationPolicy=Background");
        server.call(Method::DELETE, &uri, Value::Null).await;
        assert_eq!(server.get(&format!("{MAPS}/a")).await.0, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_is_deleted_by_selector() {
    let server = TestServer::start().await;
    for name in ["a", "b", "c"] {
        let mut map = config_map(name, "1");
        map["metadata"]["labels"] = json!({"keep": if name == "b" { "yes" } else { "no" }});
        server.call(Method::POST, MAPS, map).await;
    }
    let (code, gone) = server.call(Method::DELETE, &format!("{MAPS}?labelSelector=keep%3Dno"), Value::Null).await;
    assert_eq!(code, 200);
    assert_eq!(gone["items"].as_array().unwrap().len(), 2);
    let (_, left) = server.get(MAPS).await;
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn preconditions_of_a_deletion_are_kept() {
    let server = TestServer::start().await;
    let (_, made) = server.call(Method::POST, MAPS, config_map("a", "1")).await;
    let body = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "other"}});
    let (code, answer) = server.call(Method::DELETE, &format!("{MAPS}/a"), body).await;
    assert_eq!(code, 409, "{answer}");
    let body = json!({"preconditions": {"resourceVersion": made["metadata"]["resourceVersion"]}});
    assert_eq!(server.call(Method::DELETE, &format!("{MAPS}/a"), body).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_bound_once() {
    let server = TestServer::start().await;
    server.default_account().await;
    let pods: Api<Pod> = Api::namespaced(server.client(), "default");
    let made = pods.create(&PostParams::default(), &serde_json::from_value(pod("a")).unwrap()).await.unwrap();
    assert_eq!(made.spec.unwrap().service_account_name.as_deref(), Some("default"));
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n1"}});
    let uri = "/api/v1/namespaces/default/pods/a/binding";
    let (code, body) = server.call(Method::POST, uri, binding.clone()).await;
    assert_eq!((code.as_u16(), &body["status"]), (201, &json!("Success")));
    let bound = pods.get("a").await.unwrap();
    assert_eq!(bound.spec.unwrap().node_name.as_deref(), Some("n1"));
    let condition = &bound.status.unwrap().conditions.unwrap()[0];
    assert_eq!((condition.type_.as_str(), condition.status.as_str()), ("PodScheduled", "True"));
    let (code, body) = server.call(Method::POST, uri, binding).await;
    assert_eq!(code, 409);
    assert_eq!(
        body["message"],
        "Operation cannot be fulfilled on pods/binding \"a\": pod a is already assigned to node \"n1\""
    );
    assert_eq!(pods.list(&ListParams::default()).await.unwrap().items.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_patches_all_arrive() {
    let server = TestServer::start().await;
    server.call(Method::POST, MAPS, config_map("a", "1")).await;
    let maps: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let patches = (0..8).map(|i| {
        let maps = maps.clone();
        async move {
            let mut data = serde_json::Map::new();
            data.insert(format!("k{i}"), "x".into());
            maps.patch("a", &PatchParams::default(), &Patch::Merge(json!({"data": data}))).await
        }
    });
    for result in futures::future::join_all(patches).await {
        result.unwrap();
    }
    assert_eq!(maps.get("a").await.unwrap().data.unwrap().len(), 9);
}
