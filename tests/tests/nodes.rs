//! Several nodes: their pods reach each other, however the nodes are joined.
#![allow(clippy::disallowed_methods, reason = "these tests have no runtime: they may sleep")]

use anyhow::{Result, ensure};
use skep_tests::cluster::{Shape, TestCluster};

#[test]
fn three_nodes_come_up_and_are_told_apart_from_the_outside() -> Result<()> {
    let cluster = TestCluster::start_nodes(3)?;
    let shape = Shape::nodes(3);
    let addresses = cluster.get(
        &["nodes"],
        "{range .items[*]}{.status.addresses[?(@.type=='InternalIP')].address} {.spec.podCIDR}{'\\n'}{end}",
    )?;
    for number in 1..=3 {
        let address = format!("{} 10.113.", shape.address(number));
        ensure!(addresses.lines().any(|line| line.starts_with(&address)), "no {address} in {addresses}");
        let node = cluster.nodes()[number - 1];
        let route = xtask::command::output(node.on_machine("ip").args(["route", "show", "default"]))?;
        ensure!(route.is_empty(), "a node has a route to the outside: {route}");
    }
    cluster.outside()?.ip(&["route", "get", "10.111.0.2"])?;
    Ok(())
}
