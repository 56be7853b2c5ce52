//! Pod to pod, on one node and between nodes, against the same links without programs.

use anyhow::Result;

use super::duel::{Traffic, Way, fight, serve_all};
use super::manifest::pod;
use super::place::Place;
use super::profile;
use super::row::Row;
use super::wire::{Between, Wire};
use crate::cluster::{Shape, TestCluster};

const GOAL: f64 = 0.98;

/// Two nodes on one Ethernet that reach each other's pods directly; also two pods of one node.
pub fn direct() -> Result<Vec<Row>> {
    measure(Between::Direct)
}

/// Two nodes that reach each other's pods inside VXLAN.
pub fn vxlan() -> Result<Vec<Row>> {
    measure(Between::Vxlan)
}

fn measure(between: Between) -> Result<Vec<Row>> {
    let routing = if between == Between::Direct { "direct" } else { "vxlan" };
    let node_flags = vec!["--node-routing".to_owned(), routing.to_owned()];
    let shape = Shape { profile: profile::chosen(), node_flags, ..Shape::nodes(2) };
    let cluster = TestCluster::start_shape(&shape)?;
    let nodes = cluster.nodes();
    cluster.apply(&[pod("a", nodes[0], 8081), pod("b", nodes[0], 8082), pod("c", nodes[1], 8083)].concat())?;
    cluster.wait_ready_pods("app", 3)?;
    let client = Place::pod(nodes[0], 8081)?;
    let wire = Wire::build(&nodes[0].spec().name, between)?;
    let bare_client = wire.pod(1, 1)?;

    let mut ways = vec![("c", Place::pod(nodes[1], 8083)?, (2, 1), format!("to pod, across nodes ({routing})"))];
    if between == Between::Direct {
        ways.push(("b", Place::pod(nodes[0], 8082)?, (1, 2), "to pod, same node".to_owned()));
    }
    let mut rows = Vec::new();
    for (name, server, (machine, number), what) in ways {
        let address = cluster.get(&["pod", name], "{.status.podIP}")?;
        let bare = wire.pod(machine, number)?;
        let _servers = (serve_all(&server)?, serve_all(&bare)?);
        let ours = Way::new(&client, address);
        let limit = Way::new(&bare_client, Wire::address(machine as u8, number as u8));
        for traffic in [Traffic::TcpRr, Traffic::TcpCrr, Traffic::Stream] {
            rows.push(fight(traffic, &format!("pod {what}"), &ours, (&limit, "without programs"), GOAL)?);
        }
    }
    Ok(rows)
}
