//! Writes through storage against raw etcd transactions, at the same concurrency, on a supervised etcd.
//!
//! `cargo run --release -p skep-storage --example throughput [-- SECONDS]`

use skep_storage::supervisor::{Supervisor, SupervisorConfig};
use skep_storage::{EtcdConfig, ResourceSchema, Storage, Tuning, Txn};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PODS: &str = "/registry/pods/";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let seconds = std::env::args().nth(1).map_or(Ok(3), |text| text.parse())?;
    let dir = tempfile::tempdir()?;
    let etcd = Supervisor::start(SupervisorConfig::new(dir.path().join("etcd"))).await?;
    let value = format!(
        r#"{{"kind":"Pod","apiVersion":"v1","metadata":{{"name":"a","labels":{{"app":"web"}}}},"spec":"{}"}}"#,
        "x".repeat(1000)
    );
    let endpoint = etcd.etcd_config().endpoints[0].clone();
    println!("{:>8} {:>6} {:>12} {:>12} {:>6}", "writers", "conns", "raw txn/s", "storage/s", "ratio");
    for writers in [32, 128] {
        for connections in [1, 2, 4] {
            let (mut raw, mut ours) = (0.0, 0.0);
            // Interleaved, so that whatever else the machine does strikes both.
            for round in 0..4 {
                raw += raw_rate(&endpoint, writers, seconds, &value, round).await?;
                let tuning = Tuning { connections, ..Tuning::default() };
                let config = EtcdConfig { endpoints: vec![endpoint.clone()], tuning, ..EtcdConfig::default() };
                ours += storage_rate(config, writers, seconds, &value, round).await?;
            }
            println!("{writers:>8} {connections:>6} {:>12.0} {:>12.0} {:>6.2}", raw / 4.0, ours / 4.0, ours / raw);
        }
    }
    reads(&endpoint, seconds).await?;
    etcd.stop().await;
    Ok(())
}

/// One plain client, shared, and a watch beside it, which no API server can do without.
async fn raw_rate(endpoint: &str, writers: usize, seconds: u64, value: &str, round: usize) -> anyhow::Result<f64> {
    use etcd_client::{Compare, CompareOp, Txn, TxnOp, WatchOptions};
    let client = etcd_client::Client::connect([endpoint], None).await?;
    let mut watch = etcd_client::Client::connect([endpoint], None).await?;
    let mut events = watch.watch("/raw/", Some(WatchOptions::new().with_prefix())).await?;
    let watching = tokio::spawn(async move { while let Ok(Some(_)) = events.message().await {} });
    let value = value.to_owned();
    let rate = run(writers, seconds, move |writer, n| {
        let (mut client, value) = (client.clone(), value.clone());
        async move {
            let key = format!("/raw/pods/{round}/{writer}-{n}");
            let txn = Txn::new()
                .when([Compare::mod_revision(key.as_str(), CompareOp::Equal, 0)])
                .and_then([TxnOp::put(key.as_str(), value, None)])
                .or_else([TxnOp::get(key, None)]);
            client.txn(txn).await.is_ok()
        }
    })
    .await;
    watching.abort();
    rate
}

/// Through storage, with its cache following.
async fn storage_rate(
    config: EtcdConfig,
    writers: usize,
    seconds: u64,
    value: &str,
    round: usize,
) -> anyhow::Result<f64> {
    let storage = Storage::connect(config, vec![ResourceSchema::new(PODS)]).await?;
    let run_id = storage.revision();
    let (writer_storage, value) = (storage.clone(), value.to_owned());
    let rate = run(writers, seconds, move |writer, n| {
        let (storage, value) = (writer_storage.clone(), value.clone());
        async move {
            let key = format!("{PODS}{round}/{run_id}-{writer}-{n}");
            storage.commit(Txn::new().create(key, value)).await.is_ok()
        }
    })
    .await?;
    let start = Instant::now();
    storage.wait_for(storage.read_revision().await?).await?;
    if start.elapsed() > Duration::from_millis(100) {
        println!("the cache lagged by {:?}", start.elapsed());
    }
    Ok(rate)
}

/// Linearizable reads: a revision from etcd, then the object from memory.
async fn reads(endpoint: &str, seconds: u64) -> anyhow::Result<()> {
    let config = EtcdConfig { endpoints: vec![endpoint.to_owned()], ..EtcdConfig::default() };
    let storage = Storage::connect(config, vec![ResourceSchema::new(PODS)]).await?;
    let client = etcd_client::Client::connect([endpoint], None).await?;
    let key: Arc<str> =
        storage.resource(PODS).and_then(|r| r.snapshot().iter().next().map(|o| o.key().clone())).unwrap();
    for readers in [1, 128] {
        let (raw_client, raw_key) = (client.clone(), key.clone());
        let raw = run(readers, seconds, move |_, _| {
            let (mut client, key) = (raw_client.clone(), raw_key.clone());
            async move { client.get(&*key, None).await.is_ok() }
        })
        .await?;
        let (our_storage, our_key) = (storage.clone(), key.clone());
        let ours = run(readers, seconds, move |_, _| {
            let (storage, key) = (our_storage.clone(), our_key.clone());
            async move {
                let Ok(revision) = storage.read_revision().await else { return false };
                storage.wait_for(revision).await.is_ok()
                    && storage.resource(PODS).is_some_and(|pods| pods.get(&key).is_some())
            }
        })
        .await?;
        println!("{readers:>8} readers: raw get/s {raw:.0}, consistent reads/s {ours:.0}, ratio {:.2}", ours / raw);
    }
    Ok(())
}

/// Calls `work` from as many tasks as there are writers; successes per second.
async fn run<F, R>(writers: usize, seconds: u64, work: F) -> anyhow::Result<f64>
where
    F: Fn(usize, u64) -> R + Clone + Send + 'static,
    R: Future<Output = bool> + Send,
{
    let done = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let until = start + Duration::from_secs(seconds);
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let (work, done) = (work.clone(), done.clone());
            tokio::spawn(async move {
                let mut n = 0;
                while Instant::now() < until {
                    if work(writer, n).await {
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    n += 1;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await?;
    }
    Ok(done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64())
}
