//! Transactions.

use crate::harness::*;
use skep_storage::{Compare, Error, Txn, response_bytes};
use std::time::Duration;

#[tokio::test]
async fn objects_are_created_updated_and_deleted_and_conflicts_say_what_is_there() {
    let etcd = Etcd::start().await;
    let storage = etcd.storage().await;
    let key = pod_key("a");

    let created = storage.commit(Txn::new().create(&key, pod("a", 1))).await.unwrap().revision;
    storage.wait_for(created).await.unwrap();
    let object = pods(&storage).get(&key).unwrap();
    assert_eq!(object.json(), &response_bytes(pod("a", 1).as_bytes(), created).unwrap());
    assert_eq!((object.mod_revision(), object.create_revision()), (created, created));
    assert_eq!((object.namespace(), object.name()), (Some("default"), "a"));
    assert_eq!((object.label("n"), object.field("spec.nodeName")), (Some("1"), Some("n1")));

    let Err(Error::Conflict(conflict)) = storage.commit(Txn::new().create(&key, pod("a", 2))).await else {
        panic!("created twice")
    };
    let current = conflict.failed[0].current.as_ref().unwrap();
    assert_eq!((current.mod_revision, &current.value[..]), (created, pod("a", 1).as_bytes()));
    assert_eq!(conflict.failed[0].compare, Compare::Absent(key.clone()));

    let updated = storage.commit(Txn::new().update(&key, created, pod("a", 3))).await.unwrap().revision;
    let Err(Error::Conflict(conflict)) = storage.commit(Txn::new().update(&key, created, pod("a", 4))).await else {
        panic!("a lost update")
    };
    assert_eq!(conflict.failed[0].current.as_ref().unwrap().mod_revision, updated);

    let deleted = storage.commit(Txn::new().delete(&key, updated)).await.unwrap().revision;
    storage.wait_for(deleted).await.unwrap();
    assert!(pods(&storage).get(&key).is_none());
    let Err(Error::Conflict(conflict)) = storage.commit(Txn::new().delete(&key, updated)).await else {
        panic!("deleted twice")
    };
    assert!(conflict.failed[0].current.is_none());
    assert_eq!(storage.read(&key).await.unwrap(), None);
}

#[tokio::test]
async fn a_transaction_over_several_keys_is_applied_wholly_or_not_at_all() {
    let etcd = Etcd::start().await;
    let storage = etcd.storage().await;
    let (a, b, node) = (pod_key("a"), pod_key("b"), format!("{NODES}n1"));
    let both = Txn::new().create(&a, pod("a", 1)).create(&node, pod("n1", 1));
    let first = storage.commit(both).await.unwrap().revision;

    let half = Txn::new().create(&b, pod("b", 1)).update(&a, first, pod("a", 2)).create(&node, pod("n1", 2));
    let Err(Error::Conflict(conflict)) = storage.commit(half).await else { panic!("applied") };
    assert_eq!(conflict.failed.len(), 1);
    assert_eq!(conflict.failed[0].compare, Compare::Absent(node.clone()));

    storage.wait_for(storage.read_revision().await.unwrap()).await.unwrap();
    assert_eq!(pods(&storage).get(&a).unwrap().mod_revision(), first);
    assert_eq!(storage.resource(NODES).unwrap().get(&node).unwrap().mod_revision(), first);
    assert!(pods(&storage).get(&b).is_none());
}

#[tokio::test]
async fn a_value_beyond_etcds_limit_is_too_large() {
    let etcd = Etcd::start().await;
    let storage = etcd.storage().await;
    for size in [1_600_000, 5_000_000] {
        let error = storage.commit(Txn::new().create(pod_key("a"), vec![b' '; size])).await.unwrap_err();
        assert!(matches!(error, Error::TooLarge), "{size}: {error}");
    }
}

#[tokio::test]
async fn keys_of_one_ttl_share_a_lease_and_vanish() {
    let etcd = Etcd::start().await;
    let storage = etcd.storage().await;
    let mut watcher = pods(&storage).watch(PODS, storage.revision()).unwrap();
    for name in ["a", "b"] {
        let txn = Txn::new().compare(Compare::Absent(pod_key(name))).put(pod_key(name), pod(name, 1), Some(1));
        storage.commit(txn).await.unwrap();
    }
    let mut raw = etcd.raw().await;
    assert_eq!(raw.leases().await.unwrap().leases().len(), 1);
    // Leases that etcd has lost are replaced.
    let id = raw.leases().await.unwrap().leases()[0].id();
    raw.lease_revoke(id).await.unwrap();
    storage.commit(Txn::new().put(pod_key("c"), pod("c", 1), Some(1))).await.unwrap();
    let mut kinds = Vec::new();
    for _ in 0..6 {
        let event = soon(watcher.next()).await.unwrap();
        kinds.push(format!("{:?} {}", event.kind, event.object.name()));
    }
    kinds.sort();
    assert_eq!(kinds, ["Added a", "Added b", "Added c", "Deleted a", "Deleted b", "Deleted c"]);
}

#[tokio::test]
async fn writes_fail_plainly_while_etcd_is_away() {
    let mut etcd = Etcd::start().await;
    let storage = etcd.storage().await;
    etcd.kill();
    // The connection may break under the first write; after that there is none to send on.
    let _ = storage.commit(Txn::new().create(pod_key("a"), pod("a", 1))).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    for _ in 0..4 {
        let error = storage.commit(Txn::new().create(pod_key("a"), pod("a", 1))).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable(_) | Error::OutcomeUnknown(_)), "{error}");
    }
    let error = storage.commit(Txn::new().create(pod_key("a"), pod("a", 1))).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    assert!(matches!(storage.read_revision().await, Err(Error::Unavailable(_))));
    eventually("not ready", || !storage.readiness().ready).await;
    etcd.run().await;
    storage.commit(Txn::new().create(pod_key("a"), pod("a", 1))).await.unwrap();
    soon(async { while storage.wait_for(storage.read_revision().await.unwrap()).await.is_err() {} }).await;
    assert!(storage.readiness().ready);
}
