//! The node's daemon is killed, and stopped as for an upgrade, in the middle of traffic: nothing may fail.

use std::time::Duration;

use anyhow::{Result, ensure};
use xtask::cluster::Cluster;

use super::duel::{ECHO, MIRROR, serve_all};
use super::load::{Load, Outcome};
use super::manifest::{pod, service};
use super::node_port::node_ports;
use super::place::Place;
use super::profile;
use super::row::{Goal, Row};
use crate::cluster::{LIMIT, Shape, TestCluster};

/// How long the traffic flows before and after what happens to the daemon, and how long the daemon is away.
const CALM: Duration = Duration::from_secs(1);
/// How long it flows with nothing happening: what the machine itself loses.
const UNDISTURBED: Duration = Duration::from_secs(3);
/// Datagrams a second, on each of two ways.
const RATE: &str = "10000";

/// Where traffic comes from and what it asks.
struct Way {
    from: Place,
    /// Answers one byte and closes.
    echo: String,
    /// Returns what comes on connections.
    mirror: String,
    /// Returns datagrams.
    datagrams: String,
}

/// Measures this group.
pub fn measure() -> Result<Vec<Row>> {
    let shape = Shape { profile: profile::chosen(), ..Shape::nodes(2) };
    let cluster = TestCluster::start_shape(&shape)?;
    let nodes = cluster.nodes();
    let pods = [pod("client", nodes[0], 8081), pod("near", nodes[0], 8082), pod("far", nodes[1], 8083)].concat();
    let ports = [(ECHO, "TCP"), (MIRROR, "TCP"), (MIRROR, "UDP")];
    cluster.apply(&[pods, service("near", "NodePort", &ports), service("far", "NodePort", &ports)].concat())?;
    cluster.wait_ready_pods("app", 3)?;
    let servers = [Place::pod(nodes[0], 8082)?, Place::pod(nodes[1], 8083)?];
    let _servers = [serve_all(&servers[0])?, serve_all(&servers[1])?];

    let (client, outside) = (Place::pod(nodes[0], 8081)?, Place::bare(cluster.outside()?));
    let node = shape.address(1).to_string();
    let ways = [
        way(&outside, &node, &node_ports(&cluster, "near")?)?,
        way(&outside, &node, &node_ports(&cluster, "far")?)?,
        way(&client, &cluster.get(&["service", "near"], "{.spec.clusterIP}")?, &[ECHO, MIRROR, MIRROR])?,
        way(&client, &cluster.get(&["service", "far"], "{.spec.clusterIP}")?, &[ECHO, MIRROR, MIRROR])?,
    ];
    let [from_outside, _, _, from_pod] = &ways;

    let streams = || ways.iter().map(|way| Load::start(&way.from, &["streams", &way.mirror, "4"])).collect();
    // From outside to the near pod only: to the far one each connection would take one of the node's translated ports.
    let storm = |way: &Way| Load::start(&way.from, &["storm", &way.echo, "1"]);
    let storms = || Ok(vec![storm(from_outside)?, storm(from_pod)?]);
    let blast = |way: &Way| Load::start(&way.from, &["blast", &way.datagrams, RATE]);
    let blasts = || Ok(vec![blast(from_outside)?, blast(from_pod)?]);
    let receivers = [&servers[0], &servers[1], &outside, &client];
    Ok(vec![
        row("TCP streams", undisturbed(streams)?, disturbed(nodes[0], streams)?),
        row("connect storms", undisturbed(storms)?, disturbed(nodes[0], storms)?),
        row(
            &format!("UDP at {RATE}/s"),
            without_overruns(&receivers, || undisturbed(blasts))?,
            without_overruns(&receivers, || disturbed(nodes[0], blasts))?,
        ),
    ])
}

/// The way to a host's three ports, once it answers.
fn way(from: &Place, host: &str, ports: &[u16]) -> Result<Way> {
    ensure!(ports.len() == 3, "{host} has the ports {ports:?}");
    let at = |port: u16| format!("{host}:{port}");
    let way = Way { from: from.clone(), echo: at(ports[0]), mirror: at(ports[1]), datagrams: at(ports[2]) };
    xtask::wait::until(&format!("{host} answers"), LIMIT, || from.time(&["crr", &way.echo, "1"]))?;
    xtask::wait::until(&format!("{host} answers"), LIMIT, || from.time(&["rr", "tcp", &way.mirror, "1"]))?;
    xtask::wait::until(&format!("{host} answers"), LIMIT, || from.time(&["rr", "udp", &way.datagrams, "1"]))?;
    Ok(way)
}

/// What the traffic loses by itself.
fn undisturbed(start: impl FnOnce() -> Result<Vec<Load>>) -> Result<Outcome> {
    let loads = start()?;
    std::thread::sleep(UNDISTURBED);
    stop(loads)
}

/// What it loses while the node's daemon is killed, gone for a while, back; stopped as an upgrade does, gone, back.
fn disturbed(node: &Cluster, start: impl FnOnce() -> Result<Vec<Load>>) -> Result<Outcome> {
    let loads = start()?;
    std::thread::sleep(CALM);
    for end in [|node: &Cluster| node.node.kill(), |node: &Cluster| node.node.stop()] {
        end(node)?;
        std::thread::sleep(CALM);
        node.spawn_node()?;
        std::thread::sleep(2 * CALM);
        node.wait_node_ready()?;
    }
    stop(loads)
}

fn stop(loads: Vec<Load>) -> Result<Outcome> {
    loads.into_iter().try_fold(Outcome::default(), |sum, load| Ok(sum.and(load.stop()?)))
}

/// Does not count as failed what reached a socket that had no room for it: its process got no processor in time.
fn without_overruns(places: &[&Place], run: impl FnOnce() -> Result<Outcome>) -> Result<Outcome> {
    let overruns = || places.iter().try_fold(0, |sum, place| anyhow::Ok(sum + place.overruns()?));
    let before = overruns()?;
    let mut outcome = run()?;
    let lost = (overruns()? - before).min(outcome.failed);
    if lost > 0 {
        outcome.failed -= lost;
        outcome.errors.insert("(not counted) found the receiver's buffer full".to_owned(), lost);
    }
    Ok(outcome)
}

fn row(name: &str, calm: Outcome, disturbed: Outcome) -> Row {
    for (error, count) in &disturbed.errors {
        eprintln!("{name}: {count} × {error}");
    }
    let show = |outcome: &Outcome| format!("{} of {} failed", outcome.failed, outcome.failed + outcome.done);
    Row {
        name: format!("daemon killed and restarted: {name}"),
        measured: show(&disturbed),
        limit: format!("{} undisturbed", show(&calm)),
        score: disturbed.failed as f64,
        goal: Goal::Under(1.0, " failures"),
    }
}
