//! etcd dies, comes back, and forgets.

use crate::harness::*;
use skep_storage::{Error, EventKind, Storage, Tuning, Txn};
use std::time::Duration;

#[tokio::test]
async fn a_watch_has_no_gap_and_nothing_twice_over_kills_of_etcd() {
    let mut etcd = Etcd::start().await;
    let storage = etcd.storage().await;
    let mut watcher = pods(&storage).watch(PODS, storage.revision()).unwrap();
    let writer = tokio::spawn({
        let storage = storage.clone();
        async move {
            let mut written = Vec::new();
            for n in 0..300 {
                let name = format!("p{n:03}");
                loop {
                    match storage.commit(Txn::new().create(pod_key(&name), pod(&name, n))).await {
                        Ok(committed) => written.push((name.clone(), committed.revision)),
                        // An earlier attempt whose outcome was unknown did get through.
                        Err(Error::Conflict(c)) => {
                            written.push((name.clone(), c.failed[0].current.as_ref().unwrap().mod_revision));
                        }
                        Err(Error::Unavailable(_) | Error::OutcomeUnknown(_) | Error::Timeout { .. }) => {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                            continue;
                        }
                        Err(other) => panic!("{other}"),
                    }
                    break;
                }
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            written
        }
    });
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        etcd.kill();
        tokio::time::sleep(Duration::from_millis(100)).await;
        etcd.run().await;
    }
    let written = soon(writer).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < written.len() {
        let event = soon(watcher.next()).await.unwrap();
        assert_eq!(event.kind, EventKind::Added);
        seen.push((event.object.name().to_owned(), event.revision));
    }
    assert_eq!(seen, written);
}

#[tokio::test]
async fn a_cache_that_compaction_overtook_is_loaded_anew_and_its_watchers_expire() {
    let mut etcd = Etcd::start().await;
    // The other server goes on alone while this one cannot reach etcd: its endpoint is a relay that can be cut.
    let relay = Relay::start(&etcd.url()).await;
    let mut config = etcd.config();
    config.endpoints = vec![relay.url()];
    let storage = Storage::connect(config, schemas()).await.unwrap();
    for name in ["kept", "changed", "deleted"] {
        storage.commit(Txn::new().create(pod_key(name), pod(name, 1))).await.unwrap();
    }
    let before = storage.read_revision().await.unwrap();
    storage.wait_for(before).await.unwrap();
    let kept = pods(&storage).get(&pod_key("kept")).unwrap();
    let mut watcher = pods(&storage).watch(PODS, before).unwrap();
    relay.cut();
    eventually("the watch is down", || !storage.readiness().ready).await;
    assert!(matches!(storage.read_revision().await, Err(Error::Unavailable(_))));
    assert!(matches!(storage.wait_for(before + 1).await, Err(Error::Unavailable(_))));

    let mut raw = etcd.raw().await;
    raw.put(pod_key("changed"), pod("changed", 2), None).await.unwrap();
    raw.delete(pod_key("deleted"), None).await.unwrap();
    let now = raw.put(pod_key("new"), pod("new", 1), None).await.unwrap().header().unwrap().revision();
    raw.compact(now, None).await.unwrap();
    relay.mend();

    eventually("the watch is back", || storage.readiness().ready).await;
    assert!(matches!(soon(watcher.next()).await, Err(Error::Expired { .. })));
    assert!(matches!(pods(&storage).watch(PODS, before), Err(Error::Expired { .. })));
    let snapshot = pods(&storage).snapshot();
    let names: Vec<_> = snapshot.iter().map(|o| o.name()).collect();
    assert_eq!((names, snapshot.revision()), (vec!["changed", "kept", "new"], now));
    assert_eq!(snapshot.get(&pod_key("changed")).unwrap().label("n"), Some("2"));
    assert!(std::sync::Arc::ptr_eq(snapshot.get(&pod_key("kept")).unwrap(), &kept));
    let mut watcher = pods(&storage).watch(PODS, now).unwrap();
    let r = storage.commit(Txn::new().create(pod_key("later"), pod("later", 1))).await.unwrap().revision;
    assert_eq!(soon(watcher.next()).await.unwrap().revision, r);
    etcd.kill();
}

#[tokio::test]
async fn two_servers_compact_in_turn_and_idle_caches_survive_it() {
    let etcd = Etcd::start().await;
    let tuning = Tuning { compaction_interval: Some(Duration::from_millis(300)), ..Tuning::default() };
    let a = Storage::connect(etcd.config_with(tuning.clone()), schemas()).await.unwrap();
    let b = Storage::connect(etcd.config_with(tuning), schemas()).await.unwrap();
    let watched = a.commit(Txn::new().create(pod_key("a"), pod("a", 1))).await.unwrap().revision;
    b.wait_for(watched).await.unwrap();
    let mut watcher = pods(&b).watch(PODS, watched).unwrap();
    let mut raw = etcd.raw().await;
    soon(async {
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let old = etcd_client::GetOptions::new().with_revision(watched);
            if raw.get(pod_key("a"), Some(old)).await.is_err() {
                break;
            }
        }
    })
    .await;
    // The key counts intervals, not servers.
    let moved = || async { etcd.raw().await.get("compact_rev_key", None).await.unwrap().kvs()[0].version() };
    let before = moved().await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let steps = moved().await - before;
    assert!((1..=7).contains(&steps), "{steps} steps in 5 intervals");
    assert!(a.readiness().ready && b.readiness().ready);
    let r = a.commit(Txn::new().update(pod_key("a"), watched, pod("a", 2))).await.unwrap().revision;
    assert_eq!(soon(watcher.next()).await.unwrap().revision, r);
}

#[tokio::test]
async fn an_endpoint_that_is_down_is_passed_over() {
    let etcd = Etcd::start().await;
    let mut config = etcd.config();
    config.endpoints.insert(0, format!("http://127.0.0.1:{}", free_port()));
    config.endpoints.push(format!("http://127.0.0.1:{}", free_port()));
    let storage = Storage::connect(config, schemas()).await.unwrap();
    for n in 0..20 {
        let name = format!("p{n}");
        storage.commit(Txn::new().create(pod_key(&name), pod(&name, n))).await.unwrap();
    }
    storage.wait_for(storage.read_revision().await.unwrap()).await.unwrap();
    assert_eq!(pods(&storage).snapshot().len(), 20);
}

#[tokio::test]
async fn an_answer_that_is_lost_is_no_success_and_no_failure() {
    let etcd = Etcd::start().await;
    let relay = Relay::start(&etcd.url()).await;
    let mut config = etcd.config_with(Tuning { request_timeout: Duration::from_millis(500), ..Tuning::default() });
    config.endpoints = vec![relay.url()];
    let storage = Storage::connect(config, schemas()).await.unwrap();
    storage.commit(Txn::new().create(pod_key("warm"), pod("warm", 1))).await.unwrap();
    relay.hold_answers();
    let error = storage.commit(Txn::new().create(pod_key("a"), pod("a", 1))).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown(_)), "{error}");
    assert_eq!(etcd.raw().await.get(pod_key("a"), None).await.unwrap().kvs().len(), 1);
    relay.cut();
    eventually("the watch is down", || !storage.readiness().ready).await;
    relay.mend();
    eventually("it is seen after all", || pods(&storage).get(&pod_key("a")).is_some()).await;
}

#[tokio::test]
async fn connecting_to_nothing_fails_with_a_reason() {
    let config = skep_storage::EtcdConfig {
        endpoints: vec![format!("http://127.0.0.1:{}", free_port())],
        tuning: Tuning { request_timeout: Duration::from_millis(700), ..Tuning::default() },
        ..skep_storage::EtcdConfig::default()
    };
    let error = soon(Storage::connect(config, schemas())).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    let error = Storage::connect(skep_storage::EtcdConfig::default(), schemas()).await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");
}

#[tokio::test]
async fn an_etcd_that_starts_later_is_waited_for() {
    let mut etcd = Etcd::start().await;
    etcd.kill();
    let storage = tokio::spawn(Storage::connect(etcd.config(), schemas()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!storage.is_finished());
    etcd.run().await;
    soon(storage).await.unwrap().unwrap();
}

#[tokio::test]
async fn etcd_is_reached_over_mutual_tls_and_not_without() {
    let etcd = Etcd::start_with_tls().await;
    let file = |name: &str| Some(etcd.dir().join(name));
    let with_certificate = skep_storage::EtcdConfig {
        endpoints: vec![format!("https://127.0.0.1:{}", etcd.port())],
        ca_file: file("ca.crt"),
        cert_file: file("client.crt"),
        key_file: file("client.key"),
        tuning: Tuning { request_timeout: Duration::from_secs(2), ..Tuning::default() },
        member: None,
    };
    let storage = soon(async {
        loop {
            match Storage::connect(with_certificate.clone(), schemas()).await {
                Ok(storage) => break storage,
                Err(Error::Unavailable(_) | Error::Timeout { .. }) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(other) => panic!("{other}"),
            }
        }
    })
    .await;
    let revision = storage.commit(Txn::new().create(pod_key("a"), pod("a", 1))).await.unwrap().revision;
    storage.wait_for(revision).await.unwrap();

    let without = skep_storage::EtcdConfig { cert_file: None, key_file: None, ..with_certificate.clone() };
    let error = soon(Storage::connect(without, schemas())).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    let half = skep_storage::EtcdConfig { key_file: None, ..with_certificate.clone() };
    assert!(matches!(Storage::connect(half, schemas()).await, Err(Error::Invalid(_))));
    let missing = skep_storage::EtcdConfig { ca_file: file("none"), ..with_certificate };
    assert!(matches!(Storage::connect(missing, schemas()).await, Err(Error::Invalid(_))));
}

/// A TCP relay that can be cut, mended, or made to swallow answers.
struct Relay {
    port: u16,
    mode: tokio::sync::watch::Sender<Mode>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    Cut,
    HoldAnswers,
}

impl Relay {
    async fn start(url: &str) -> Self {
        let target = url.trim_start_matches("http://").to_owned();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mode, watch) = tokio::sync::watch::channel(Mode::Open);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if *watch.borrow() == Mode::Cut {
                    continue;
                }
                let (target, mut cut, held) = (target.clone(), watch.clone(), watch.clone());
                tokio::spawn(async move {
                    let far = tokio::net::TcpStream::connect(target).await.unwrap();
                    let ((mut near_in, mut near_out), (mut far_in, mut far_out)) =
                        (near.into_split(), far.into_split());
                    let up = tokio::io::copy(&mut near_in, &mut far_out);
                    let down = async {
                        use tokio::io::{AsyncReadExt, AsyncWriteExt};
                        let mut buffer = vec![0; 65536];
                        while let Ok(n @ 1..) = far_in.read(&mut buffer).await {
                            if *held.borrow() == Mode::HoldAnswers {
                                std::future::pending::<()>().await;
                            }
                            if near_out.write_all(&buffer[..n]).await.is_err() {
                                break;
                            }
                        }
                    };
                    tokio::select! {
                        _ = up => {}
                        () = down => {}
                        _ = cut.wait_for(|mode| *mode == Mode::Cut) => {}
                    }
                });
            }
        });
        Self { port, mode }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    fn mend(&self) {
        self.mode.send_replace(Mode::Open);
    }

    fn hold_answers(&self) {
        self.mode.send_replace(Mode::HoldAnswers);
    }
}
