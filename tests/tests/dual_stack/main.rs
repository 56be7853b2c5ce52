//! Clusters whose pods and Services have addresses of two families (KEP-563): two nodes, driven by kubectl.
#![allow(clippy::disallowed_methods, reason = "these tests have no runtime: they may sleep")]

mod ipv6_first;
mod names;
mod pods;
mod policy;
mod services;

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use skep_tests::cluster::{LIMIT, TestCluster};
use xtask::command::output;
use xtask::wait;

/// How long a client waits before it takes its packets for dropped, seconds. Far more than an answer takes.
const PATIENCE: &str = "3";

/// A web server `web-<n>` (label `app: web`) on each node; they are ready when this returns. What they are told of their own
/// addresses is in their environment.
fn apply_webs(cluster: &TestCluster) -> Result<Vec<Web>> {
    let mut manifest = String::new();
    for (node, number) in cluster.nodes().iter().zip(1..) {
        manifest += &format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{ name: web-{number}, labels: {{ app: web, name: web-{number} }} }}
spec:
  nodeName: {node}
  hostname: web-{number}
  subdomain: headless
  terminationGracePeriodSeconds: 1
  containers:
    - name: web
      image: localhost/skep/toolbox:1
      command: [toolbox, serve, '8080']
      env:
        - {{ name: POD_IP, valueFrom: {{ fieldRef: {{ fieldPath: status.podIP }} }} }}
        - {{ name: POD_IPS, valueFrom: {{ fieldRef: {{ fieldPath: status.podIPs }} }} }}
        - {{ name: HOST_IPS, valueFrom: {{ fieldRef: {{ fieldPath: status.hostIPs }} }} }}
      readinessProbe: {{ httpGet: {{ port: 8080, path: /ready }}, periodSeconds: 1 }}
",
            node = node.spec().name
        );
    }
    cluster.apply(&manifest)?;
    let names = cluster.wait_ready_pods("app=web", cluster.nodes().len())?;
    (1..=names.len()).map(|number| Web::read(cluster, &format!("web-{number}"))).collect()
}

/// A pod and its addresses, in their order.
struct Web {
    name: String,
    addresses: Vec<IpAddr>,
}

impl Web {
    fn read(cluster: &TestCluster, name: &str) -> Result<Self> {
        Ok(Self { name: name.to_owned(), addresses: ips(cluster, &["pod", name], "{.status.podIPs[*].ip}")? })
    }
}

/// The addresses that a path of an object names, with a blank between.
fn ips(cluster: &TestCluster, args: &[&str], path: &str) -> Result<Vec<IpAddr>> {
    let text = cluster.get(args, path)?;
    text.split_whitespace().map(|ip| ip.parse().with_context(|| format!("{args:?}: {text:?}"))).collect()
}

/// `address:port`, with brackets where they must be.
fn at(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}

fn families(addresses: &[IpAddr]) -> String {
    addresses.iter().map(|ip| if ip.is_ipv4() { "4" } else { "6" }).collect()
}

/// The toolbox in a pod's container.
fn in_pod(cluster: &TestCluster, pod: &str, args: &[&str]) -> Command {
    cluster.parts().kubectl(&[&["exec", pod, "--", "toolbox"], args].concat())
}

/// Waits until the command says `expected`.
fn wait_said(what: &str, expected: &str, mut command: impl FnMut() -> Result<Command>) -> Result<()> {
    wait::until(what, LIMIT, || {
        let said = output(&mut patient(&command()?))?;
        ensure!(said.trim() == expected, "the answer is {said:?}");
        Ok(())
    })
}

/// The command, given up after [`PATIENCE`].
fn patient(command: &Command) -> Command {
    let mut limited = Command::new("timeout");
    limited.arg(PATIENCE).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            limited.env(key, value);
        }
    }
    limited
}

/// Every pod and a process of every node reach every pod at each of its addresses, over TCP and UDP.
fn ask_everybody(cluster: &TestCluster, webs: &[Web]) -> Result<()> {
    for to in webs {
        for target in to.addresses.iter().map(|address| at(*address, 8080)) {
            for how in ["get", "udp"] {
                for from in webs {
                    let what = format!("{} at {target} ({how}) from {}", to.name, from.name);
                    wait_said(&what, &to.name, || Ok(in_pod(cluster, &from.name, &[how, &target])))?;
                }
                for node in cluster.nodes() {
                    let what = format!("{} at {target} ({how}) from node {}", to.name, node.spec().name);
                    wait_said(&what, &to.name, || Ok(cluster.toolbox_on(node, &[how, &target])))?;
                }
            }
        }
    }
    Ok(())
}
