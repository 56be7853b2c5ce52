//! How many pods a second the scheduler binds, beside what the API server takes of bindings alone at the same concurrency:
//! `cargo run --release -p skep-scheduler --example bindings [PODS [NODES]]`. API server, etcd and scheduler are real; nodes
//! are Node objects without kubelets, which is all the scheduler knows of a node.

#[path = "../tests/cluster/harness.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod harness;

use std::time::Instant;

use futures::{StreamExt, stream};
use harness::{Cluster, eventually};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::{Value, json};
use skep_scheduler::Config;

#[tokio::main]
async fn main() {
    let number = |index: usize, default: usize| {
        std::env::args().nth(index).map_or(default, |text| text.parse().expect("usage: bindings [PODS [NODES]]"))
    };
    let (pods, nodes) = (number(1, 2000), number(2, 50));
    // Both halves stay on the nodes, and a node takes 110 pods.
    assert!(2 * pods <= 110 * nodes, "{nodes} nodes have no room for twice {pods} pods");
    let config = Config::default();
    let concurrency = config.bindings_in_flight;

    let cluster = Cluster::start().await;
    for index in 0..nodes {
        cluster.node(&format!("node-{index}"), json!({ "cpu": "64", "memory": "256Gi" }), json!({})).await;
    }
    let cluster = &cluster;
    let create = |prefix: &'static str, scheduler: &'static str| async move {
        let requests = json!({ "cpu": "10m", "memory": "10Mi" });
        stream::iter(0..pods)
            .for_each_concurrent(64, |index| {
                let requests = requests.clone();
                async move {
                    let spec = json!({ "schedulerName": scheduler });
                    cluster.pod(&format!("{prefix}-{index}"), requests, spec).await;
                }
            })
            .await;
    };
    create("raw", "nobody").await;
    create("pod", "default-scheduler").await;

    let api: &Api<Pod> = &cluster.pods();
    let began = Instant::now();
    stream::iter(0..pods)
        .for_each_concurrent(concurrency, |index| async move {
            let binding = json!({ "metadata": { "name": format!("raw-{index}") },
                "target": { "kind": "Node", "name": format!("node-{}", index % nodes) } });
            let (name, params) = (format!("raw-{index}"), PostParams::default());
            api.create_subresource::<Value, Value>("binding", &name, &params, &binding).await.expect("a binding");
        })
        .await;
    let raw = pods as f64 / began.elapsed().as_secs_f64();

    // The pods wait already, as after a restart: the rate includes listing them and reading them in.
    let began = Instant::now();
    let scheduler = cluster.schedule(config);
    // Asks for one pod at most: the question must not cost what it measures.
    let waiting = ListParams::default().fields("spec.nodeName=,spec.schedulerName=default-scheduler").limit(1);
    eventually("every pod to be bound", || async {
        let left = api.list_metadata(&waiting).await.expect("a list of pods");
        left.items.is_empty().then_some(())
    })
    .await;
    let scheduled = pods as f64 / began.elapsed().as_secs_f64();
    scheduler.stop().await;

    println!("pods {pods}, nodes {nodes}, bindings at once {concurrency}");
    println!("API server alone: {raw:.0} bindings/s");
    println!("scheduler:        {scheduled:.0} pods/s, {:.2} of that", scheduled / raw);
}
