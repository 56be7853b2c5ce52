//! The watch cache: reads, snapshots, watches.

use crate::harness::*;
use skep_storage::{Error, EventKind, ResourceSchema, SelectableField, Storage, Tuning, Txn};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

#[tokio::test]
async fn what_was_there_before_is_listed_in_pages_and_what_is_not_json_is_skipped() {
    let etcd = Etcd::start().await;
    let mut raw = etcd.raw().await;
    for n in 0..25 {
        raw.put(pod_key(&format!("p{n:02}")), pod("p", n), None).await.unwrap();
    }
    raw.put(pod_key("protobuf"), b"k8s\0\n\x09\n\x02v1".to_vec(), None).await.unwrap();
    raw.put("/registry/unknown/x", "{", None).await.unwrap();
    let config = etcd.config_with(Tuning { page_size: 10, ..Tuning::default() });
    let storage = Storage::connect(config, schemas()).await.unwrap();
    let snapshot = pods(&storage).snapshot();
    assert_eq!((snapshot.len(), snapshot.revision()), (25, 28));
    let names: Vec<_> =
        snapshot.range("/registry/pods/default/", &pod_key("p22")).map(|o| o.name().to_owned()).collect();
    assert_eq!(names, ["p22", "p23", "p24"]);
    assert_eq!(snapshot.range("/registry/pods/def/", "").count(), 0);

    // Neither does such a value stop the watch; one that replaces an object takes it away.
    let mut watcher = pods(&storage).watch(PODS, storage.revision()).unwrap();
    raw.put(pod_key("p00"), b"k8s\0".to_vec(), None).await.unwrap();
    raw.put(pod_key("p01"), pod("p", 99), None).await.unwrap();
    let event = soon(watcher.next()).await.unwrap();
    assert_eq!((event.kind, event.object.name(), event.revision), (EventKind::Deleted, "p00", 29));
    assert_eq!(soon(watcher.next()).await.unwrap().object.name(), "p01");
    let mut registry = prometheus_client::registry::Registry::default();
    storage.register_metrics(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.contains("skep_storage_undecodable_values_total 2"), "{text}");
    assert!(text.contains("apiserver_resource_objects{resource=\"pods\"} 24"), "{text}");
}

#[tokio::test]
async fn events_come_in_order_with_frames_that_all_watchers_share() {
    let etcd = Etcd::start().await;
    let storage = etcd.storage().await;
    let start = storage.revision();
    let r1 = storage.commit(Txn::new().create(pod_key("a"), pod("a", 1))).await.unwrap().revision;
    let r2 = storage.commit(Txn::new().update(pod_key("a"), r1, pod("a", 2))).await.unwrap().revision;
    let r3 = storage.commit(Txn::new().delete(pod_key("a"), r2)).await.unwrap().revision;
    storage.wait_for(r3).await.unwrap();

    let mut watcher = pods(&storage).watch(PODS, start).unwrap();
    let (added, modified, deleted) =
        (watcher.next().await.unwrap(), watcher.next().await.unwrap(), watcher.next().await.unwrap());
    let json = |n, r: i64| {
        String::from_utf8(skep_storage::response_bytes(pod("a", n).as_bytes(), r).unwrap().to_vec()).unwrap()
    };
    assert_eq!(added.frame(), format!("{{\"type\":\"ADDED\",\"object\":{}}}\n", json(1, r1)));
    assert_eq!(modified.frame(), format!("{{\"type\":\"MODIFIED\",\"object\":{}}}\n", json(2, r2)));
    assert_eq!(deleted.frame(), format!("{{\"type\":\"DELETED\",\"object\":{}}}\n", json(2, r3)));
    // A watcher of n=1 sees the object leave: its old content, at the revision of the change.
    assert_eq!(modified.seen_by(|o| o.label("n") == Some("1")), Some(EventKind::Deleted));
    assert_eq!(modified.seen_by(|o| o.label("n") == Some("2")), Some(EventKind::Added));
    assert_eq!(modified.seen_by(|o| o.label("n") == Some("3")), None);
    assert_eq!(deleted.seen_by(|o| o.label("n") == Some("2")), Some(EventKind::Deleted));
    assert_eq!(modified.frame_as(EventKind::Deleted), format!("{{\"type\":\"DELETED\",\"object\":{}}}\n", json(1, r2)));

    let mut other = pods(&storage).watch(&pod_key("a"), r1).unwrap();
    let mut batch = Vec::new();
    other.next_batch(&mut batch, 100).await.unwrap();
    assert_eq!(batch.len(), 2);
    assert!(Arc::ptr_eq(&batch[0], &modified));
    assert_eq!(batch[0].frame().as_ptr(), modified.frame().as_ptr());
    assert_eq!(other.bookmark(), r3);
    let mut elsewhere = pods(&storage).watch("/registry/pods/other/", start).unwrap();
    assert_eq!(elsewhere.bookmark(), r1 - 1);
    assert!(tokio::time::timeout(Duration::from_millis(50), elsewhere.next()).await.is_err());
    assert_eq!(elsewhere.bookmark(), r3);
}

#[tokio::test]
async fn a_snapshot_does_not_change_while_writes_go_on() {
    let etcd = Etcd::start().await;
    let storage = etcd.storage().await;
    let (empty, mut watcher) = pods(&storage).snapshot_and_watch(PODS);
    let mut last = 0;
    for n in 0..50 {
        last = storage.commit(Txn::new().create(pod_key(&format!("p{n}")), pod("p", n))).await.unwrap().revision;
        storage.wait_for(last).await.unwrap();
        let snapshot = pods(&storage).snapshot();
        assert_eq!((snapshot.len(), snapshot.revision()), (n as usize + 1, last));
        assert!(snapshot.iter().all(|o| o.mod_revision() <= snapshot.revision()));
    }
    assert!(empty.is_empty());
    assert!(empty.revision() < last);
    for n in 0..50 {
        assert_eq!(soon(watcher.next()).await.unwrap().object.name(), format!("p{n}"));
    }
}

#[tokio::test]
async fn every_revision_in_the_history_can_be_read_exactly() {
    let etcd = Etcd::start().await;
    let tuning = Tuning { history_min: 40, history_max: 40, ..Tuning::default() };
    let storage = Storage::connect(etcd.config_with(tuning), schemas()).await.unwrap();
    let mut now = std::collections::BTreeMap::new();
    let mut then = vec![(storage.revision(), now.clone())];
    for n in 0..60 {
        let name = format!("p{}", n % 7);
        let key = pod_key(&name);
        let txn = match now.remove(&key) {
            None => Txn::new().create(&key, pod(&name, n)),
            Some(at) if n % 3 == 0 => Txn::new().delete(&key, at),
            Some(at) => Txn::new().update(&key, at, pod(&name, n)),
        };
        let deletes = matches!(txn.ops[0], skep_storage::Op::Delete { .. });
        let revision = storage.commit(txn).await.unwrap().revision;
        if !deletes {
            now.insert(key, revision);
        }
        then.push((revision, now.clone()));
    }
    storage.wait_for(then[60].0).await.unwrap();
    for (age, (revision, want)) in then.iter().rev().enumerate() {
        let snapshot = pods(&storage).snapshot_at(*revision);
        if age > 40 {
            assert!(matches!(snapshot, Err(Error::Expired { .. })), "{age}");
            continue;
        }
        let snapshot = snapshot.unwrap();
        let got: std::collections::BTreeMap<_, _> =
            snapshot.iter().map(|o| (o.key().to_string(), o.mod_revision())).collect();
        assert_eq!((snapshot.revision(), &got), (*revision, want));
    }
    let error = pods(&storage).snapshot_at(then[60].0 + 1).unwrap_err();
    assert!(matches!(error, Error::TooLargeRevision { .. }), "{error}");
}

#[tokio::test]
async fn a_watcher_that_falls_off_the_history_or_starts_before_it_gets_expired() {
    let etcd = Etcd::start().await;
    let tuning = Tuning { history_min: 8, history_max: 8, ..Tuning::default() };
    let storage = Storage::connect(etcd.config_with(tuning), schemas()).await.unwrap();
    let start = storage.revision();
    assert!(matches!(pods(&storage).watch(PODS, start - 1), Err(Error::Expired { .. })));
    let mut slow = pods(&storage).watch(PODS, start).unwrap();
    let mut last = 0;
    for n in 0..20 {
        last = storage.commit(Txn::new().create(pod_key(&format!("p{n}")), pod("p", n))).await.unwrap().revision;
    }
    storage.wait_for(last).await.unwrap();
    assert!(matches!(slow.next().await, Err(Error::Expired { .. })));
    assert!(matches!(pods(&storage).watch(PODS, start), Err(Error::Expired { requested, .. }) if requested == start));
    let mut recent = pods(&storage).watch(PODS, last - 8).unwrap();
    let mut batch = Vec::new();
    recent.next_batch(&mut batch, 100).await.unwrap();
    assert_eq!(batch.iter().map(|e| e.revision).collect::<Vec<_>>(), (last - 7..=last).collect::<Vec<_>>());
    // From a revision yet to come: nothing older is handed out.
    let mut future = pods(&storage).watch(PODS, last + 1).unwrap();
    for n in 20..22 {
        storage.commit(Txn::new().create(pod_key(&format!("p{n}")), pod("p", n))).await.unwrap();
    }
    assert_eq!(soon(future.next()).await.unwrap().revision, last + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_through_one_server_is_read_through_the_other() {
    let etcd = Etcd::start().await;
    let (a, b) = (etcd.storage().await, etcd.storage().await);
    let acknowledged = Arc::new(AtomicI64::new(0));
    let key = pod_key("counter");
    let first = a.commit(Txn::new().create(&key, pod("counter", 0))).await.unwrap().revision;
    acknowledged.store(first, Ordering::SeqCst);
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let (b, key, acknowledged) = (b.clone(), key.clone(), acknowledged.clone());
            tokio::spawn(async move {
                let mut seen = 0;
                for _ in 0..100 {
                    let before = acknowledged.load(Ordering::SeqCst);
                    let revision = b.read_revision().await.unwrap();
                    b.wait_for(revision).await.unwrap();
                    let now = pods(&b).get(&key).unwrap().mod_revision();
                    assert!(now >= before, "read {now} after {before} was acknowledged");
                    assert!(now >= seen, "went back from {seen} to {now}");
                    seen = now;
                }
            })
        })
        .collect();
    let mut at = first;
    for n in 1..200 {
        at = a.commit(Txn::new().update(&key, at, pod("counter", n))).await.unwrap().revision;
        acknowledged.store(at, Ordering::SeqCst);
    }
    for reader in readers {
        soon(reader).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_reader_of_two_servers_goes_back_in_time_while_questions_overlap() {
    const READERS: usize = 48;
    const READS: usize = 60;
    let etcd = Etcd::start().await;
    let servers = [etcd.storage().await, etcd.storage().await];
    let key = pod_key("counter");
    let first = servers[0].commit(Txn::new().create(&key, pod("counter", 0))).await.unwrap().revision;
    // What any reader or writer, of either server, has learnt. Whoever comes later must not learn less.
    let known = Arc::new(AtomicI64::new(first));
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writer = tokio::spawn({
        let (server, key, known, done) = (servers[0].clone(), key.clone(), known.clone(), done.clone());
        async move {
            let (mut at, mut n) = (first, 0);
            while !done.load(Ordering::SeqCst) {
                n += 1;
                at = server.commit(Txn::new().update(&key, at, pod("counter", n))).await.unwrap().revision;
                known.fetch_max(at, Ordering::SeqCst);
            }
        }
    });
    let readers: Vec<_> = (0..READERS)
        .map(|reader| {
            let (servers, key, known) = (servers.clone(), key.clone(), known.clone());
            tokio::spawn(async move {
                for n in 0..READS {
                    let server = &servers[(reader + n) % 2];
                    let before = known.load(Ordering::SeqCst);
                    let revision = server.read_revision().await.unwrap();
                    assert!(revision >= before, "revision {revision} after {before} was known");
                    server.wait_for(revision).await.unwrap();
                    let now = pods(server).get(&key).unwrap().mod_revision();
                    assert!(now >= before, "read {now} after {before} was known");
                    known.fetch_max(now, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for reader in readers {
        soon(reader).await.unwrap();
    }
    done.store(true, Ordering::SeqCst);
    soon(writer).await.unwrap();
    let rounds: usize = servers.iter().map(|server| metric(server, "skep_storage_read_rounds_total")).sum();
    assert!(rounds < READERS * READS, "{rounds} questions for {} reads", READERS * READS);
}

#[tokio::test]
async fn a_revision_of_a_foreign_key_is_reached_and_one_of_the_future_is_not() {
    let etcd = Etcd::start().await;
    let storage = etcd.storage().await;
    let mut raw = etcd.raw().await;
    for n in 0..5 {
        raw.put("elsewhere", format!("{n}"), None).await.unwrap();
    }
    let revision = storage.read_revision().await.unwrap();
    assert!(storage.revision() < revision);
    let waits = (0..10).map(|_| storage.wait_for(revision));
    for result in futures::future::join_all(waits).await {
        result.unwrap();
    }
    // One marker was enough, and a revision nobody has reached writes none.
    assert_eq!(storage.read_revision().await.unwrap(), revision + 1);
    let error = storage.wait_for(revision + 1000).await.unwrap_err();
    assert!(matches!(error, Error::TooLargeRevision { .. }), "{error}");
    assert_eq!(storage.read_revision().await.unwrap(), revision + 1);
}

#[tokio::test]
async fn resources_come_and_go_at_run_time() {
    let etcd = Etcd::start().await;
    let storage = etcd.storage().await;
    let prefix = "/registry/acme.dev/widgets/";
    let key = format!("{prefix}default/w1");
    storage.commit(Txn::new().create(&key, pod("w1", 1))).await.unwrap();
    assert!(storage.resource(prefix).is_none());
    assert!(matches!(storage.add_resource(ResourceSchema::new("/elsewhere/")).await, Err(Error::Invalid(_))));

    let widgets = storage.add_resource(ResourceSchema::new(prefix)).await.unwrap();
    assert_eq!(widgets.get(&key).unwrap().field("spec.nodeName"), None);
    let mut watcher = widgets.watch(prefix, storage.revision()).unwrap();
    let r = storage.commit(Txn::new().create(format!("{prefix}default/w2"), pod("w2", 1))).await.unwrap().revision;
    assert_eq!(soon(watcher.next()).await.unwrap().revision, r);

    let schema = ResourceSchema::new(prefix).with_fields([SelectableField::new("spec.nodeName")]);
    storage.add_resource(schema).await.unwrap();
    assert_eq!(widgets.get(&key).unwrap().field("spec.nodeName"), Some("n1"));
    assert!(matches!(watcher.next().await, Err(Error::Expired { .. })));

    let mut watcher = widgets.watch(prefix, storage.revision()).unwrap();
    storage.remove_resource(prefix);
    assert!(matches!(soon(watcher.next()).await, Err(Error::Expired { .. })));
    assert!(storage.resource(prefix).is_none());
    let mut watcher = pods(&storage).watch(PODS, storage.revision()).unwrap();
    storage.shutdown();
    assert!(matches!(soon(watcher.next()).await, Err(Error::Closed)));
}
