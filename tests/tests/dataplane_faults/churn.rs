//! Endpoints that change a hundred times a second.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use skep_tests::bench::load::Load;
use skep_tests::clients;
use skep_tests::cluster::{LIMIT, Shape, TestCluster};
use skep_tests::scrape;
use xtask::command::output;
use xtask::wait;

use crate::{flawless, nothing_mended, pod, service};

const STABLE: &str = "10.112.0.60:80";
const CHURNED: &str = "10.112.0.61:80";
const CHURNED_PORT: u16 = 30_561;

/// Changes, and the time they take if the API server can keep up.
const CHANGES: usize = 2000;
const EVERY: Duration = Duration::from_millis(10);

/// The daemon's self-check comes once in this time.
const CHECKED: Duration = Duration::from_secs(62);

#[test]
fn endpoints_that_change_without_pause_fail_no_connection() -> Result<()> {
    let cluster = TestCluster::start_shape(&Shape::nodes(2))?;
    // Its endpoints are written by hand.
    let churned = service("churned", "none", "10.112.0.61", CHURNED_PORT).replace("  selector: { app: none }\n", "");
    let manifest = [
        pod(&cluster, "stable", "stable", 2, "mirror"),
        pod(&cluster, "steady", "churned", 1, "mirror"),
        pod(&cluster, "here", "churned", 1, "mirror"),
        pod(&cluster, "there", "churned", 2, "mirror"),
        service("stable", "stable", "10.112.0.60", 30_560),
        churned,
    ];
    cluster.apply(&manifest.concat())?;
    cluster.wait_ready_pods("app=stable", 1)?;
    cluster.wait_ready_pods("app=churned", 3)?;
    let address = |pod: &str| cluster.get(&["pod", pod], "{.status.podIP}");
    let pods = [address("steady")?, address("here")?, address("there")?];
    cluster.apply(&serde_json::to_string(&slice(&pods))?)?;
    for node in cluster.nodes() {
        wait::until("both Services answer", LIMIT, || {
            for vip in [STABLE, CHURNED] {
                output(&mut cluster.toolbox_on(node, &["crr", vip, "1"]))?;
            }
            Ok(())
        })?;
    }
    let inside = |args: &[&str]| Load::run(cluster.toolbox_on(cluster.nodes()[0], args));
    let outside = format!("10.111.0.1:{CHURNED_PORT}");
    let loads = [
        ("connections to the stable Service", inside(&["storm", STABLE, "1"])?),
        ("streams to the stable Service", inside(&["streams", STABLE, "4"])?),
        ("connections to the churned Service", inside(&["storm", CHURNED, "1"])?),
        ("connections from outside", Load::run(cluster.outside_toolbox(&["storm", &outside, "1"])?)?),
    ];
    let before = scrape::value(cluster.nodes()[0], COUNTED)?;
    let took = churn(&cluster, &pods)?;
    for (what, load) in loads {
        flawless(what, load)?;
    }
    // As many as there were: the API's watch leaves none out.
    for node in cluster.nodes() {
        wait::until("all changes are seen", LIMIT, || {
            let seen = scrape::value(node, COUNTED)? - before;
            ensure!(seen >= CHANGES as f64, "{seen} of {CHANGES} are");
            ensure!(scrape::value(node, "kubeproxy_sync_proxy_rules_endpoint_changes_pending")? == 0.0);
            Ok(())
        })?;
        ensure!(backends(&cluster, node)? == sorted(&pods), "the maps of {} are not as the API", node.spec().name);
    }
    println!("{CHANGES} changes took {took:?}");
    std::thread::sleep(CHECKED);
    nothing_mended(&cluster)
}

const COUNTED: &str = "kubeproxy_sync_proxy_rules_endpoint_changes_total";

fn slice(pods: &[String]) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": { "name": "churned", "labels": {
            "kubernetes.io/service-name": "churned", "endpointslice.kubernetes.io/managed-by": "churn.skep.test" } },
        "addressType": "IPv4",
        "ports": [{ "name": "tcp", "port": 8080, "protocol": "TCP" }, { "name": "udp", "port": 8080, "protocol": "UDP" }],
        "endpoints": endpoints(pods),
    })
}

/// The first is always there.
fn endpoints(pods: &[String]) -> Value {
    pods.iter().map(|pod| json!({ "addresses": [pod], "conditions": { "ready": true } })).collect()
}

/// Changes the slice again and again; ends with all of `pods`. Returns how long it took.
fn churn(cluster: &TestCluster, pods: &[String]) -> Result<Duration> {
    let runtime = cluster.runtime()?;
    runtime.block_on(async {
        let client = clients::client(&cluster.parts().kubeconfig()).await?;
        let slices: Api<EndpointSlice> = Api::namespaced(client, "default");
        let start = Instant::now();
        let steps = futures::stream::iter(0..CHANGES).map(|step| {
            let slices = &slices;
            async move {
                tokio::time::sleep_until((start + EVERY * step as u32).into()).await;
                // Different from the one before, and all of them at the end.
                let some: Vec<String> = match (CHANGES - 1 - step) % 4 {
                    0 => pods.to_vec(),
                    1 => pods[..1].to_vec(),
                    2 => pods[..2].to_vec(),
                    _ => vec![pods[0].clone(), pods[2].clone()],
                };
                let patch = json!({ "endpoints": endpoints(&some) });
                slices.patch("churned", &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
            }
        });
        // One after the other, each at its time or as soon as the one before is done.
        let mut steps = steps.buffered(1);
        while let Some(done) = steps.next().await {
            done?;
        }
        Ok(start.elapsed())
    })
}

/// The addresses that a node's maps have for the Service, sorted.
fn backends(cluster: &TestCluster, node: &xtask::cluster::Cluster) -> Result<Vec<String>> {
    let mut skepctl = node.program("skepctl");
    skepctl.arg("--bpf-root").arg(&node.spec().bpf_root).args(["-o", "json", "service", "get", "default/churned:tcp"]);
    let services: Value = serde_json::from_str(&output(skepctl.env("KUBECONFIG", cluster.parts().kubeconfig()))?)?;
    let service = if services.is_array() { &services[0] } else { &services };
    let backends = service["backends"].as_array().with_context(|| format!("no backends in {services}"))?;
    let address = |backend: &Value| Some(backend["address"].as_str()?.rsplit_once(':')?.0.to_owned());
    Ok(sorted(&backends.iter().filter_map(address).collect::<Vec<_>>()))
}

fn sorted(addresses: &[String]) -> Vec<String> {
    let mut sorted = addresses.to_vec();
    sorted.sort();
    sorted.dedup();
    sorted
}
