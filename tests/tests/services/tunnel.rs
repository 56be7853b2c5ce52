//! Nodes on two networks: traffic from outside that has to go on to another node takes the tunnel, both ways.

use anyhow::{Result, ensure};
use skep_tests::cluster::{Shape, TestCluster};
use xtask::command::output;

use crate::{Met, last_client, meet, node_ports, service, wait_heard, web};

#[test]
fn a_pod_on_another_network_answers_a_client_outside_through_the_tunnel() -> Result<()> {
    let cluster = TestCluster::start_shape(&Shape { segments: 2, ..Shape::nodes(2) })?;
    // The networks between drop what comes from pods, as clouds do.
    let router = cluster.router()?;
    router.ip(&["rule", "add", "from", "10.113.0.0/16", "blackhole"])?;
    cluster.apply(&[web(&cluster, "web", "web", 2), service("web", "web", "type: NodePort")].concat())?;
    cluster.wait_ready_pods("app=web", 1)?;
    let (tcp, udp) = node_ports(&cluster, "web")?;
    wait_heard(&cluster, &format!("10.111.0.1:{tcp}"), &format!("10.111.0.1:{udp}"), "web")?;
    ensure!(meet(&cluster, &format!("10.111.0.1:{tcp}"))? == Met::Answer("web".into()));
    let cidr = cluster.get(&["node", &cluster.nodes()[0].spec().name], "{.spec.podCIDR}")?;
    let (end, client) = (cidr.split('/').next().unwrap_or_default().to_owned(), last_client(&cluster, "web")?);
    ensure!(client == end, "the pod sees {client}, not the first node's end of the tunnel, {end}");

    // A node that is taken down leaves nothing in the kernel.
    let second = cluster.nodes()[1];
    let reserved = || output(second.on_machine("cat").arg("/proc/sys/net/ipv4/ip_local_reserved_ports"));
    ensure!(reserved()?.trim() == "1024-29999", "reserved are {}", reserved()?);
    ensure!(second.spec().bpf_root.exists(), "there are no pins");
    second.destroy(true)?;
    second.prepare()?;
    ensure!(reserved()?.trim().is_empty(), "reserved are {}", reserved()?);
    ensure!(!second.spec().bpf_root.exists(), "pins are left");
    Ok(())
}
