//! Which backend a client outside gets from which node, with `--backend-choice maglev`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use skep_tests::cluster::{LIMIT, Shape, TestCluster};
use xtask::wait;

use crate::{service, web};

const NODES: [&str; 2] = ["10.111.0.1", "10.111.0.2"];
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 111, 0, 100));
const EXTERNAL: &str = "203.0.113.20";
/// Client ports, a flow each. So many do not meet the same backends twice by chance.
const TRIED: Range<u16> = 20_000..20_050;
const AGREED: Range<u16> = 21_000..21_200;
const MOVED: Range<u16> = 22_000..22_200;

#[test]
fn a_flow_from_outside_gets_the_same_backend_at_every_node_even_when_others_go() -> Result<()> {
    let flags = ["--backend-choice", "maglev", "--maglev-table-size", "1021"].map(str::to_owned);
    let cluster = TestCluster::start_shape(&Shape { node_flags: flags.into(), ..Shape::nodes(2) })?;
    let pods = [("a", 1), ("b", 1), ("c", 2), ("d", 2)];
    let mut manifest: Vec<String> = pods.iter().map(|(name, node)| web(&cluster, name, "web", *node)).collect();
    manifest.push(service("web", "web", &format!("externalIPs: [{EXTERNAL}]")));
    cluster.apply(&manifest.concat())?;
    cluster.wait_ready_pods("app=web", pods.len())?;
    let all: BTreeSet<String> = pods.iter().map(|(name, _)| (*name).to_owned()).collect();
    for node in NODES {
        wait_all(&cluster, node, &all)?;
    }
    let first = ask(&cluster, NODES[0], AGREED)?;
    let second = ask(&cluster, NODES[1], AGREED)?;
    ensure!(first == second, "one node chose {first:?}, the other one {second:?}");

    // The first one of all goes, by which a choice that only counts them would move a quarter of the flows to others.
    let before = ask(&cluster, NODES[0], MOVED)?;
    let mut addresses = Vec::new();
    for name in &all {
        addresses.push((cluster.get(&["pod", name], "{.status.podIP}")?.parse::<Ipv4Addr>()?, name.clone()));
    }
    let (_, gone) = addresses.into_iter().min().context("there are no pods")?;
    cluster.kubectl(&["delete", "pod", &gone])?;
    wait_all(&cluster, NODES[1], &all.into_iter().filter(|name| *name != gone).collect())?;
    let after = ask(&cluster, NODES[1], MOVED)?;
    let moved = before.iter().zip(&after).filter(|(before, now)| **before != gone && before != now).count();
    ensure!(moved < MOVED.len() / 8, "{moved} flows left a backend that lives: {before:?}, then {after:?}");
    Ok(())
}

/// Waits until these answer by way of that node, and nobody else.
fn wait_all(cluster: &TestCluster, node: &str, expected: &BTreeSet<String>) -> Result<()> {
    wait::until(&format!("{expected:?} answer by way of {node}"), LIMIT, || {
        let heard: BTreeSet<String> = ask(cluster, node, TRIED)?.into_iter().collect();
        ensure!(heard == *expected, "heard were {heard:?}");
        Ok(())
    })
}

/// Who answers a datagram from each of the ports, by way of that node. A node remembers flows it has seen.
fn ask(cluster: &TestCluster, node: &str, ports: Range<u16>) -> Result<Vec<String>> {
    let outside = cluster.outside()?;
    outside.ip(&["route", "replace", EXTERNAL, "via", node])?;
    let netns = std::fs::File::open(outside.path())?;
    let work = move || -> Result<Vec<String>> {
        nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET)?;
        let one = |port| -> Result<String> {
            let socket = UdpSocket::bind((CLIENT, port))?;
            socket.set_read_timeout(Some(Duration::from_secs(3)))?;
            socket.send_to(b"who", (EXTERNAL, 80))?;
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer).with_context(|| format!("no answer to port {port}"))?;
            Ok(String::from_utf8_lossy(&buffer[..length]).trim().to_owned())
        };
        ports.map(one).collect()
    };
    // A thread of its own, for it joins the network namespace outside.
    std::thread::spawn(work).join().map_err(|_| anyhow!("asking panicked"))?
}
