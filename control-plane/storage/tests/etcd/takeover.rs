//! An etcd that an upstream API server has written, and revisions the cache has forgotten.

use crate::harness::*;
use serde_json::{Value, json};
use skep_storage::{Error, EventKind, Past, ResourceSchema, Storage, Tuning, Txn};
use std::sync::Arc;

/// A pod as upstream stores it.
fn protobuf(name: &str, n: i64) -> Vec<u8> {
    let object: Value = serde_json::from_str(&pod(name, n)).unwrap();
    skep_protobuf::encode(&object).unwrap()
}

#[tokio::test]
async fn protobuf_values_are_loaded_followed_and_replaced() {
    let etcd = Etcd::start().await;
    let mut raw = etcd.raw().await;
    raw.put(pod_key("loaded"), protobuf("loaded", 1), None).await.unwrap();
    let storage = etcd.storage().await;
    let loaded = pods(&storage).get(&pod_key("loaded")).unwrap();
    let json: Value = serde_json::from_slice(loaded.json()).unwrap();
    assert_eq!((&json["kind"], &json["apiVersion"]), (&json!("Pod"), &json!("v1")));
    assert_eq!(json["metadata"]["resourceVersion"], loaded.mod_revision().to_string());
    assert_eq!((loaded.label("n"), loaded.field("spec.nodeName")), (Some("1"), Some("n1")));

    let mut watcher = pods(&storage).watch(PODS, storage.revision()).unwrap();
    raw.put(pod_key("followed"), protobuf("followed", 2), None).await.unwrap();
    let event = soon(watcher.next()).await.unwrap();
    assert_eq!((event.kind, event.object.name(), event.object.label("n")), (EventKind::Added, "followed", Some("2")));

    let update = Txn::new().update(pod_key("loaded"), loaded.mod_revision(), pod("loaded", 3));
    let written = storage.commit(update).await.unwrap().revision;
    let event = soon(watcher.next()).await.unwrap();
    assert_eq!((event.kind, event.revision, event.object.label("n")), (EventKind::Modified, written, Some("3")));
    assert_eq!(event.previous.as_ref().unwrap().label("n"), Some("1"));
    assert_eq!(metric(&storage, "skep_storage_undecodable_values_total"), 0);
}

#[tokio::test]
async fn a_value_stored_in_another_version_is_converted() {
    let etcd = Etcd::start().await;
    let other =
        json!({ "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": { "name": "a" } });
    etcd.raw().await.put("/registry/hpas/default/a", skep_protobuf::encode(&other).unwrap(), None).await.unwrap();
    let convert = |json: &[u8]| {
        let mut object: Value = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        object["apiVersion"] = "autoscaling/v2".into();
        Ok(object.to_string().into_bytes())
    };
    let schema = ResourceSchema::new("/registry/hpas/").with_conversion("autoscaling/v1", Arc::new(convert));
    let storage = Storage::connect(etcd.config(), vec![schema]).await.unwrap();
    let read = storage.resource("/registry/hpas/").unwrap().get("/registry/hpas/default/a").unwrap();
    let read: Value = serde_json::from_slice(read.json()).unwrap();
    assert_eq!(read["apiVersion"], "autoscaling/v2");
}

#[tokio::test]
async fn forgotten_revisions_are_read_from_etcd_page_by_page_until_it_forgets_them_too() {
    let etcd = Etcd::start().await;
    let tuning = Tuning { history_min: 0, history_max: 1, ..Tuning::default() };
    let storage = Storage::connect(etcd.config_with(tuning), schemas()).await.unwrap();
    let mut revision = 0;
    for n in 0..10 {
        let name = format!("p{n}");
        revision = storage.commit(Txn::new().create(pod_key(&name), pod(&name, n % 2))).await.unwrap().revision;
    }
    let other = "/registry/pods/other/x";
    let mut last = storage.commit(Txn::new().create(other, pod("x", 1))).await.unwrap().revision;
    for n in 0..10 {
        let key = pod_key(&format!("p{n}"));
        let at = pods(&storage).get(&key).unwrap().mod_revision();
        last = storage.commit(Txn::new().delete(key, at)).await.unwrap().revision;
    }
    storage.wait_for(last).await.unwrap();
    assert!(matches!(pods(&storage).snapshot_at(revision), Err(Error::Expired { .. })));

    let scope = "/registry/pods/default/";
    let page = async |start: &str, needed: usize, odd: bool| {
        let past = Past { revision, scope, start, needed };
        storage.past_page(&pods(&storage), past, |object| !odd || object.label("n") == Some("1")).await
    };
    let names = |snapshot: &skep_storage::Snapshot| snapshot.iter().map(|o| o.name().to_owned()).collect::<Vec<_>>();
    let first = page("", 4, false).await.unwrap();
    assert_eq!(
        (names(&first), first.beyond(), first.revision()),
        (vec!["p0", "p1", "p2", "p3"].into_iter().map(str::to_owned).collect(), 6, revision)
    );
    let rest = page(&pod_key("p7"), usize::MAX, false).await.unwrap();
    assert_eq!((names(&rest).join(" "), rest.beyond()), ("p7 p8 p9".to_owned(), 0));
    assert_eq!(names(&page("", 3, true).await.unwrap()).join(" "), "p1 p3 p5");

    etcd.raw().await.compact(last, None).await.unwrap();
    assert!(matches!(page("", 4, false).await, Err(Error::Compacted { requested }) if requested == revision));
}
