//! UDP flows whose only backend is replaced: from the API write to the first answer of the new one. The old one goes on
//! answering whoever still asks it.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, ensure};
use http::Method;

use super::client::Client;
use super::crowd::{self, SLICES_PATH, body};
use super::manifest::{bare_service, pod, slice};
use super::node_port::node_ports;
use super::place::Place;
use super::profile;
use super::row::{Goal, Row};
use crate::cluster::{Shape, TestCluster};

/// Replacements measured.
const CHANGES: usize = 100;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a flow may take to follow before the measurement counts as failed.
const LIMIT: Duration = Duration::from_secs(20);
/// The backends' port, and the Service's.
const PORT: u16 = 7100;

/// Measures this group.
pub fn measure() -> Result<Vec<Row>> {
    let shape = Shape { profile: profile::chosen(), ..Shape::nodes(1) };
    let cluster = TestCluster::start_shape(&shape)?;
    let node = cluster.parts();
    let pods = [("client", 8081), ("one", 8082), ("two", 8083)];
    let service = bare_service("flow", "NodePort", PORT, "UDP");
    cluster.apply(&(pods.map(|(name, port)| pod(name, node, port)).concat() + &format!("---\n{service}\n")))?;
    cluster.wait_ready_pods("app", 3)?;
    let mut backends = Vec::new();
    let mut servers = Vec::new();
    for (name, port) in &pods[1..] {
        servers.push(Place::pod(node, *port)?.serve(&["serve", &PORT.to_string(), name])?);
        backends.push((*name, cluster.get(&["pod", name], "{.status.podIP}")?));
    }

    let vip = format!("{}:{PORT}", cluster.get(&["service", "flow"], "{.spec.clusterIP}")?);
    let outside = format!("{}:{}", shape.address(1), node_ports(&cluster, "flow")?[0]);
    let places = [
        ("a pod", Place::pod(node, 8081)?, &vip),
        ("the node", Place::node(node)?, &vip),
        ("outside", Place::bare(cluster.outside()?), &outside),
    ];
    let (sender, heard) = channel();
    let mut flows = Vec::new();
    for (from, place, address) in &places {
        for kind in ["connected", "unconnected"] {
            let number = flows.len();
            flows.push(Flow::start(place, kind, address, number, sender.clone())?);
            flows[number].name = format!("UDP flow from {from}, {kind}: API write to the new backend, p99");
        }
    }
    drop(sender);

    let mut times = replace(&cluster, &backends, heard, flows.len())?;
    let names = flows.iter().map(|flow| flow.name.clone());
    Ok(names.zip(times.iter_mut()).map(|(name, times)| row(name, times)).collect())
}

fn row(name: String, times: &mut [f64]) -> Row {
    times.sort_by(f64::total_cmp);
    let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
    Row {
        name,
        measured: format!("median {:.2} ms, p99 {:.2} ms", at(50), at(99)),
        limit: String::new(),
        score: at(99),
        goal: Goal::Under(10.0, " ms"),
    }
}

/// Replaces the backend again and again; returns each flow's times in ms.
fn replace(
    cluster: &TestCluster,
    backends: &[(&str, String)],
    heard: Receiver<Heard>,
    flows: usize,
) -> Result<Vec<Vec<f64>>> {
    let (kubeconfig, address) = (cluster.parts().kubeconfig(), cluster.parts().spec().address);
    let work = move || -> Result<Vec<Vec<f64>>> {
        cluster.runtime()?.block_on(async {
            let api = crowd::connect(&kubeconfig, address).await?;
            let mut times = vec![Vec::new(); flows];
            for turn in 0..=CHANGES {
                let (name, ip) = &backends[turn % backends.len()];
                let start = now();
                put(&api, turn == 0, ip).await?;
                let ends = wait_for(&heard, name, flows)?;
                // With the first the flows begin.
                if turn > 0 {
                    times.iter_mut().zip(ends).for_each(|(times, end)| times.push((end - start) * 1e3));
                }
                tokio::time::sleep(PAUSE).await;
            }
            Ok(times)
        })
    };
    // A thread of its own, for it joins the machine's network namespace.
    std::thread::scope(|scope| scope.spawn(work).join()).map_err(|_| anyhow!("the change of backends panicked"))?
}

async fn put(api: &Client, first: bool, ip: &str) -> Result<()> {
    let slice = slice("flow", &[ip.to_owned()], PORT, "UDP");
    let (method, path) =
        if first { (Method::POST, SLICES_PATH.to_owned()) } else { (Method::PUT, format!("{SLICES_PATH}/flow")) };
    api.expect(method, &path, body(&slice)).await.map(drop)
}

/// When each flow heard `name` for the first time.
fn wait_for(heard: &Receiver<Heard>, name: &str, flows: usize) -> Result<Vec<f64>> {
    let deadline = Instant::now() + LIMIT;
    let mut ends = vec![None; flows];
    while ends.iter().any(Option::is_none) {
        let rest = deadline.saturating_duration_since(Instant::now());
        let next = heard.recv_timeout(rest);
        let next = next.with_context(|| format!("not all flows came to {name}: {ends:?}"))?;
        if next.answer == name {
            ends[next.flow].get_or_insert(next.at);
        }
    }
    Ok(ends.into_iter().flatten().collect())
}

/// Seconds since 1970, on the clock that the flows' processes use.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// What a flow hears.
struct Heard {
    flow: usize,
    /// Seconds since 1970.
    at: f64,
    answer: String,
}

/// A running client; it ends when this is dropped.
struct Flow {
    name: String,
    child: Child,
}

impl Flow {
    fn start(place: &Place, kind: &str, address: &str, number: usize, sender: Sender<Heard>) -> Result<Self> {
        let mut command = place.toolbox(&["flow", kind, address]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut flow = Self { name: String::new(), child };
        let stdout = flow.child.stdout.take().context("no stdout")?;
        // Ends with the pipe, or when nobody listens any more.
        std::thread::spawn(move || -> Result<()> {
            for line in BufReader::new(stdout).lines() {
                let line = line?;
                let (at, answer) = line.split_once(' ').context("a strange line")?;
                sender.send(Heard { flow: number, at: at.parse::<f64>()? / 1e9, answer: answer.to_owned() })?;
            }
            Ok(())
        });
        ensure!(flow.child.try_wait()?.is_none(), "the flow has ended at once");
        Ok(flow)
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        // An error means that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
