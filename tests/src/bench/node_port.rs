//! From a machine outside through a node port to a pod, against plain routing from such a machine to a pod.

use anyhow::{Context as _, Result};

use super::duel::{ECHO, Traffic, Way, fight_over};
use super::manifest::{pod, service};
use super::place::Place;
use super::profile;
use super::row::Row;
use super::wire::{Between, Wire};
use crate::cluster::{LIMIT, Shape, TestCluster};

/// Connections of a round to a pod of another node. Each keeps one of the node's 4,535 translated ports for a while after
/// its end, and all rounds together must leave most of them free.
const TRANSLATED: u32 = 70;

/// Measures this group.
pub fn measure() -> Result<Vec<Row>> {
    let shape = Shape { profile: profile::chosen(), ..Shape::nodes(2) };
    let cluster = TestCluster::start_shape(&shape)?;
    let nodes = cluster.nodes();
    let wire = Wire::build(&nodes[0].spec().name, Between::Direct)?;
    let (outside, bare_outside) = (Place::bare(cluster.outside()?), Place::bare(wire.outside()));
    let manifest = [pod("near", nodes[0], 8081), pod("far", nodes[1], 8082)].into_iter();
    let services = ["near", "far"].map(|name| service(name, "NodePort", &[(ECHO, "TCP")]));
    cluster.apply(&manifest.chain(services).collect::<String>())?;
    cluster.wait_ready_pods("app", 2)?;

    let mut rows = Vec::new();
    for (name, served, machine) in [("near", 8081, 1), ("far", 8082, 2)] {
        let place = Place::pod(nodes[machine - 1], served)?;
        let bare_place = wire.pod(machine, 1)?;
        let echo = ["echo", &ECHO.to_string()];
        let _servers = (place.serve(&echo)?, bare_place.serve(&echo)?);
        let port = node_ports(&cluster, name)?[0];
        let ours = Way { port: Some(port), ..Way::new(&outside, shape.address(1)) };
        let address = format!("{}:{port}", ours.host);
        xtask::wait::until(&format!("an answer of {name}"), LIMIT, || outside.time(&["crr", &address, "1"]))?;
        let bare = Way::new(&bare_outside, Wire::address(machine as u8, 1));
        let (amount, which) =
            if machine == 1 { (Traffic::TcpCrr.amount(), "that node") } else { (TRANSLATED, "another node") };
        let what = format!("through a node port, pod on {which}");
        let against = (&bare, "routed straight to a pod without programs");
        rows.push(fight_over(Traffic::TcpCrr, amount, &what, &ours, against, 0.90)?);
    }
    Ok(rows)
}

/// The node ports of a Service, in the order of its ports.
pub fn node_ports(cluster: &TestCluster, service: &str) -> Result<Vec<u16>> {
    let ports = cluster.get(&["service", service], "{.spec.ports[*].nodePort}")?;
    let parsed: Result<Vec<u16>, _> = ports.split_whitespace().map(str::parse).collect();
    parsed.ok().filter(|ports| !ports.is_empty()).with_context(|| format!("the node ports of {service} are {ports:?}"))
}
