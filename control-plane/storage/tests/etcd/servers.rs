//! Several API servers on one etcd, and one alone.

use crate::harness::{Etcd, PODS, schemas};
use bytes::Bytes;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use skep_storage::{EtcdConfig, Member, Storage, Txn};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

/// Longer than any lease here; only a test that fails waits for it.
const LIMIT: Duration = Duration::from_secs(60);

fn config(etcd: &Etcd, id: &str, address: u8) -> EtcdConfig {
    let address = IpAddr::V4(Ipv4Addr::new(198, 51, 100, address));
    EtcdConfig { member: Some(Member { id: id.into(), address }), ..etcd.config() }
}

async fn server(etcd: &Etcd, id: &str, address: u8) -> Storage {
    Storage::connect(config(etcd, id, address), schemas()).await.unwrap()
}

/// The value of one of the storage's metrics.
fn metric(storage: &Storage, name: &str) -> i64 {
    let mut registry = Registry::default();
    storage.register_metrics(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}"));
    line.trim_start_matches("_total").trim().parse().unwrap()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = std::time::Instant::now();
    while !holds().await {
        assert!(start.elapsed() < LIMIT, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn alone(storage: &Storage) {
    until("the server is alone", async || metric(storage, "skep_storage_alone") == 1).await;
}

fn pod(number: i64) -> Bytes {
    Bytes::from(format!(r#"{{"kind":"Pod","metadata":{{"name":"p","labels":{{"number":"{number}"}}}}}}"#))
}

fn pod_key() -> String {
    format!("{PODS}default/p")
}

async fn write(storage: &Storage, number: i64) -> skep_storage::Result<i64> {
    storage.commit(Txn::new().put(pod_key(), pod(number), None)).await.map(|committed| committed.revision)
}

/// What a consistent read finds.
async fn read(storage: &Storage) -> Option<i64> {
    let revision = storage.read_revision().await.unwrap();
    storage.wait_for(revision).await.unwrap();
    let pods = storage.resource(PODS).unwrap().snapshot();
    let number = pods.iter().next()?.label("number")?.parse().unwrap();
    Some(number)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_server_reads_its_own_writes_without_asking() {
    let etcd = Etcd::start().await;
    let storage = server(&etcd, "a", 1).await;
    alone(&storage).await;
    let asked = metric(&storage, "skep_storage_read_rounds");
    for number in 0..200 {
        write(&storage, number).await.unwrap();
        assert_eq!(read(&storage).await, Some(number));
    }
    // Who waits long for the watch asks whether it will ever come; on a busy machine that happens.
    let asked = metric(&storage, "skep_storage_read_rounds") - asked;
    assert!(asked < 20, "{asked} questions for 200 reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_wrote_before_it_left_is_read_by_who_is_alone_then() {
    let etcd = Etcd::start().await;
    let first = server(&etcd, "a", 1).await;
    let second = server(&etcd, "b", 2).await;
    for number in 0..20 {
        write(&first, number).await.unwrap();
    }
    first.leave().await;
    alone(&second).await;
    assert_eq!(read(&second).await, Some(19));
}

/// The point of it all: whoever is told that something is written finds it wherever he reads, while servers come and go.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reads_never_miss_an_acknowledged_write_of_a_server_that_comes_or_goes() {
    let etcd = Etcd::start().await;
    let steady = server(&etcd, "steady", 1).await;
    alone(&steady).await;
    let (acknowledged, done) = (Arc::new(AtomicI64::new(-1)), Arc::new(AtomicBool::new(false)));
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (steady, acknowledged, done) = (steady.clone(), acknowledged.clone(), done.clone());
            tokio::spawn(async move {
                let mut reads = 0_u64;
                while !done.load(Ordering::SeqCst) {
                    let floor = acknowledged.load(Ordering::SeqCst);
                    let found = read(&steady).await.unwrap_or(-1);
                    assert!(found >= floor, "read {found} after {floor} had been acknowledged");
                    reads += 1;
                    // Such a read waits for nothing, so it would keep the thread for ever.
                    tokio::task::yield_now().await;
                }
                reads
            })
        })
        .collect();
    let mut number = 0;
    for round in 0..12 {
        let guest = server(&etcd, &format!("guest-{round}"), 2).await;
        for _ in 0..20 {
            write(&guest, number).await.unwrap();
            acknowledged.store(number, Ordering::SeqCst);
            number += 1;
        }
        guest.leave().await;
        // Long enough for the steady one to be alone again, most of the time.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
    assert_eq!(metric(&steady, "skep_storage_fenced_writes"), 0, "the steady one kept its place");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_does_not_write_before_a_lone_server_that_hangs_has_lost_its_lease() {
    let etcd = Etcd::start().await;
    // A server that died while it was alone: only its key is left, and nobody renews its lease.
    let mut raw = etcd.raw().await;
    let lease = raw.lease_grant(4, None).await.unwrap().id();
    let options = etcd_client::PutOptions::new().with_lease(lease);
    raw.put("/registry/skep-servers/dead", "alone", Some(options)).await.unwrap();
    let storage = server(&etcd, "b", 2).await;
    write(&storage, 1).await.unwrap();
    let left = raw.get("/registry/skep-servers/dead", None).await.unwrap();
    assert!(left.kvs().is_empty(), "the write was made while the other could still think it was alone");
    alone(&storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_starts_again_does_not_wait_for_itself() {
    let etcd = Etcd::start().await;
    let mut raw = etcd.raw().await;
    // The key of a crash: a lease that outlives this test.
    let lease = raw.lease_grant(3600, None).await.unwrap().id();
    let options = etcd_client::PutOptions::new().with_lease(lease);
    raw.put("/registry/skep-servers/a", "alone", Some(options)).await.unwrap();
    let storage = server(&etcd, "a", 1).await;
    write(&storage, 1).await.unwrap();
    alone(&storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lost_its_place_enters_anew_before_it_writes() {
    let etcd = Etcd::start().await;
    let storage = server(&etcd, "a", 1).await;
    alone(&storage).await;
    let mut raw = etcd.raw().await;
    for number in 0..10 {
        let key = raw.get("/registry/skep-servers/a", None).await.unwrap();
        if let Some(kv) = key.kvs().first() {
            raw.lease_revoke(kv.lease()).await.unwrap();
        }
        write(&storage, number).await.unwrap();
        assert_eq!(read(&storage).await, Some(number));
        let key = raw.get("/registry/skep-servers/a", None).await.unwrap();
        assert_eq!(key.kvs().len(), 1, "it is back in its place");
    }
    assert!(metric(&storage, "skep_storage_fenced_writes") > 0, "at least one write met the lost place");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_alone_beside_an_upstream_server() {
    let etcd = Etcd::start().await;
    let mut raw = etcd.raw().await;
    raw.put("/registry/masterleases/203.0.113.9", "{}", None).await.unwrap();
    let storage = server(&etcd, "a", 1).await;
    write(&storage, 1).await.unwrap();
    assert_eq!(metric(&storage, "skep_storage_alone"), 0);
    // What somebody else writes is found.
    raw.put(pod_key(), pod(2).to_vec(), None).await.unwrap();
    assert_eq!(read(&storage).await, Some(2));
    raw.delete("/registry/masterleases/203.0.113.9", None).await.unwrap();
    alone(&storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_server_without_etcd_reads_only_as_long_as_its_lease_lasts() {
    let mut etcd = Etcd::start().await;
    let storage = server(&etcd, "a", 1).await;
    alone(&storage).await;
    write(&storage, 1).await.unwrap();
    assert_eq!(read(&storage).await, Some(1));
    etcd.kill();
    until("reads stop", async || storage.read_revision().await.is_err()).await;
    etcd.run().await;
    until("reads go on", async || storage.read_revision().await.is_ok()).await;
    write(&storage, 2).await.unwrap();
    assert_eq!(read(&storage).await, Some(2));
}
