//! Services of a cluster of two nodes, asked from outside and from within.
#![allow(clippy::disallowed_methods, reason = "these tests have no runtime: they may sleep")]

mod acceleration;
mod dsr;
mod hostport;
mod maglev;
mod masquerade;
mod observed;
mod outside;
mod restart;
mod stale;
mod tunnel;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use skep_tests::cluster::{LIMIT, TestCluster};
use xtask::cluster::Cluster;
use xtask::command::output;
use xtask::wait;

/// How long a client waits before it takes its packets for dropped, seconds. Far more than an answer takes.
const PATIENCE: &str = "3";

/// A web server `name` (labels `app: <app>`) on node `number` (from 1).
fn web(cluster: &TestCluster, name: &str, app: &str, number: usize) -> String {
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
    - name: web
      image: localhost/skep/toolbox:1
      command: [toolbox, serve, '8080']
      readinessProbe: {{ httpGet: {{ port: 8080, path: /ready }}, periodSeconds: 1 }}
"
    )
}

/// A Service `name` of `app`: port 80 for TCP and UDP, and what else its spec shall say.
fn service(name: &str, app: &str, more: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{ name: {name} }}
spec:
  selector: {{ app: {app} }}
  {more}
  ports:
    - {{ name: http, port: 80, targetPort: 8080 }}
    - {{ name: ask, port: 80, targetPort: 8080, protocol: UDP }}
"
    )
}

/// The node ports of a Service: TCP, UDP.
fn node_ports(cluster: &TestCluster, service: &str) -> Result<(String, String)> {
    let ports = cluster.get(&["service", service], "{.spec.ports[*].nodePort}")?;
    let (tcp, udp) = ports.split_once(' ').with_context(|| format!("node ports are {ports:?}"))?;
    Ok((tcp.to_owned(), udp.to_owned()))
}

/// Waits until the client outside hears `expected` over HTTP and UDP (at `tcp` and `udp`).
fn wait_heard(cluster: &TestCluster, tcp: &str, udp: &str, expected: &str) -> Result<()> {
    for (how, address) in [("get", tcp), ("udp", udp)] {
        wait::until(&format!("{expected} at {address} ({how})"), LIMIT, || {
            let answer = output(&mut patient(&cluster.outside_toolbox(&[how, address])?))?;
            ensure!(answer.trim() == expected, "the answer is {answer:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// The command, given up after [`PATIENCE`].
fn patient(command: &Command) -> Command {
    let mut limited = Command::new("timeout");
    limited.arg(PATIENCE).arg(command.get_program()).args(command.get_args());
    limited
}

/// What the client outside meets when it asks `address`: an answer, or an error's text, or nothing.
#[derive(Debug, PartialEq, Eq)]
enum Met {
    Answer(String),
    Error(String),
    Silence,
}

fn meet(cluster: &TestCluster, address: &str) -> Result<Met> {
    let done = patient(&cluster.outside_toolbox(&["get", address])?).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    Ok(match done.status.code() {
        Some(0) => Met::Answer(text(&done.stdout)),
        Some(124) => Met::Silence,
        _ => Met::Error(text(&done.stderr)),
    })
}

/// The client address of the last request that a web server tells of in its log.
fn last_client(cluster: &TestCluster, pod: &str) -> Result<String> {
    let log = cluster.kubectl(&["logs", pod])?;
    // The kubelet's probes come from the node, and are in the log, too: they ask for another path.
    let line = log.lines().rfind(|line| line.ends_with(" GET / HTTP/1.1")).context("nobody has asked")?;
    Ok(line.split(' ').next().unwrap_or_default().to_owned())
}

/// An HTTP answer: the code, the lines of the head, the body.
struct Fetched {
    code: u16,
    head: String,
    body: String,
}

/// Asks `address` on a node for `path`, as a process beside the node's own (and in none of its cgroups).
fn fetch(node: &Cluster, address: &str, path: &str) -> Result<Fetched> {
    let netns = std::fs::File::open(node.spec().netns.as_deref().context("not a test's node")?)?;
    let (address, path) = (address.to_owned(), path.to_owned());
    let ask = move || -> Result<Fetched> {
        nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET)?;
        let mut stream = TcpStream::connect(&address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("not an answer: {text}"))?;
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no code")?;
        Ok(Fetched { code, head: head.to_lowercase(), body: body.to_owned() })
    };
    // A thread of its own, for it joins the node's network namespace.
    std::thread::spawn(ask).join().map_err(|_| anyhow!("asking panicked"))?
}
