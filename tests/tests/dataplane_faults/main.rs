//! Services while something breaks beneath them: endpoints that change without pause, an API server that is away, maps, mounts
//! and devices that somebody else changes, full connection tracking, daemons that die one after the other.
#![allow(clippy::disallowed_methods, reason = "these tests have no runtime: they may sleep")]

mod churn;
mod devices;
mod flows;
mod rolling;
mod tampered;
mod unmounted;
mod without_api;

use anyhow::{Context as _, Result, ensure};
use skep_tests::bench::load::{Load, Outcome};
use skep_tests::cluster::{LIMIT, TestCluster};
use skep_tests::scrape;
use xtask::cluster::Cluster;
use xtask::command::output;
use xtask::wait;

/// Entries of maps that the self-check put right.
const MENDED: &str = "skep_proxy_map_entries_mended_total";

/// A pod `name` on node `number` (from 1) that runs `toolbox <what>` with port 8080.
fn pod(cluster: &TestCluster, name: &str, app: &str, number: usize, what: &str) -> String {
    let node = &cluster.nodes()[number - 1].spec().name;
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, labels: {{ app: {app} }} }}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers:
    - name: toolbox
      image: localhost/skep/toolbox:1
      command: [toolbox, {what}, '8080']
      readinessProbe: {{ tcpSocket: {{ port: 8080 }}, periodSeconds: 1 }}
"
    )
}

/// A Service `name` of `app` with a node port, TCP and UDP.
fn service(name: &str, app: &str, cluster_ip: &str, node_port: u16) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{ name: {name} }}
spec:
  selector: {{ app: {app} }}
  type: NodePort
  clusterIP: {cluster_ip}
  ports:
    - {{ name: tcp, port: 80, targetPort: 8080, nodePort: {node_port} }}
    - {{ name: udp, port: 80, targetPort: 8080, nodePort: {node_port}, protocol: UDP }}
"
    )
}

/// Waits until a request from a process of `node` to `address` is answered with `expected`.
fn wait_node_hears(cluster: &TestCluster, node: &Cluster, address: &str, expected: &str) -> Result<()> {
    wait::until(&format!("{expected} at {address} on {}", node.spec().name), LIMIT, || {
        let answer = output(&mut cluster.toolbox_on(node, &["get", address]))?;
        ensure!(answer.trim() == expected, "the answer is {answer:?}");
        Ok(())
    })
}

/// The same from the machine outside, with time for it to find the way anew.
fn wait_outside_hears(cluster: &TestCluster, address: &str, expected: &str) -> Result<()> {
    wait::until(&format!("{expected} at {address} from outside"), LIMIT, || {
        let mut ask = std::process::Command::new("timeout");
        let command = cluster.outside_toolbox(&["get", address])?;
        ask.arg("3").arg(command.get_program()).args(command.get_args());
        let answer = output(&mut ask)?;
        ensure!(answer.trim() == expected, "the answer is {answer:?}");
        Ok(())
    })
}

/// Nothing failed, and something was done.
fn flawless(what: &str, load: Load) -> Result<Outcome> {
    let outcome = load.stop().with_context(|| what.to_owned())?;
    ensure!(outcome.failed == 0, "{what}: {} of {} failed: {:?}", outcome.failed, outcome.done, outcome.errors);
    Ok(outcome)
}

/// Nobody but the daemon wrote to the maps of these nodes.
fn nothing_mended(cluster: &TestCluster) -> Result<()> {
    for node in cluster.nodes() {
        let mended = scrape::value(node, MENDED)?;
        ensure!(mended == 0.0, "{mended} entries had to be mended on {}", node.spec().name);
    }
    Ok(())
}
