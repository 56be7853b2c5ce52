//! From a machine outside through a node port to a pod, against plain routing from such a machine to a pod.

use anyhow::{Context as _, Result};

use super::duel::{ECHO, Traffic, Way, fight};
use super::manifest::{pod, service};
use super::place::Place;
use super::profile;
use super::row::Row;
use super::wire::{Between, Wire};
use crate::cluster::{LIMIT, Shape, TestCluster};

/// Measures this group.
pub fn measure() -> Result<Vec<Row>> {
    let mut rows = by_mode("snat", &[("near", 8081, 1), ("far", 8082, 2)])?;
    rows.extend(by_mode("dsr", &[("far", 8082, 2)])?);
    Ok(rows)
}

/// Asks the first node for each of those pods (with the port it is served on, and its node's number).
fn by_mode(mode: &str, pods: &[(&str, u16, usize)]) -> Result<Vec<Row>> {
    let flags = vec!["--node-port-mode".to_owned(), mode.to_owned()];
    let shape = Shape { profile: profile::chosen(), node_flags: flags, ..Shape::nodes(2) };
    let cluster = TestCluster::start_shape(&shape)?;
    let nodes = cluster.nodes();
    let wire = Wire::build(&nodes[0].spec().name, Between::Direct)?;
    let (outside, bare_outside) = (Place::bare(cluster.outside()?), Place::bare(wire.outside()));
    let manifest = pods.iter().flat_map(|(name, served, machine)| {
        [pod(name, nodes[machine - 1], *served), service(name, "NodePort", &[(ECHO, "TCP")])]
    });
    cluster.apply(&manifest.collect::<String>())?;
    cluster.wait_ready_pods("app", pods.len())?;

    let mut rows = Vec::new();
    for (name, served, machine) in pods {
        let place = Place::pod(nodes[machine - 1], *served)?;
        let bare_place = wire.pod(*machine, 1)?;
        let echo = ["echo", &ECHO.to_string()];
        let _servers = (place.serve(&echo)?, bare_place.serve(&echo)?);
        let port = node_ports(&cluster, name)?[0];
        let ours = Way { port: Some(port), ..Way::new(&outside, shape.address(1)) };
        let address = format!("{}:{port}", ours.host);
        xtask::wait::until(&format!("an answer of {name}"), LIMIT, || outside.time(&["crr", &address, "1"]))?;
        let bare = Way::new(&bare_outside, Wire::address(*machine as u8, 1));
        let which = match (machine, mode) {
            (1, _) => "that node",
            (_, "dsr") => "another node, which answers the client itself",
            _ => "another node",
        };
        let what = format!("through a node port, pod on {which}");
        let against = (&bare, "routed straight to a pod without programs");
        rows.push(fight(Traffic::TcpCrr, &what, &ours, against, 0.90)?);
    }
    Ok(rows)
}

/// The node ports of a Service, in the order of its ports.
pub fn node_ports(cluster: &TestCluster, service: &str) -> Result<Vec<u16>> {
    let ports = cluster.get(&["service", service], "{.spec.ports[*].nodePort}")?;
    let parsed: Result<Vec<u16>, _> = ports.split_whitespace().map(str::parse).collect();
    parsed.ok().filter(|ports| !ports.is_empty()).with_context(|| format!("the node ports of {service} are {ports:?}"))
}
