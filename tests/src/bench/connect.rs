//! From a pod through a ClusterIP to a pod of the same node, against pods on bare links: no program, no netfilter rule.

use anyhow::Result;

use super::crowd;
use super::duel::{ECHO, MIRROR, SINK, Traffic, Way, fight, serve_all};
use super::manifest::{pod, service};
use super::place::Place;
use super::profile;
use super::row::Row;
use super::wire::{Between, Wire};
use crate::cluster::{LIMIT, TestCluster};

/// Services of the small cluster: two that every cluster has, this one, and a crowd of seven.
const FEW: usize = 10;

/// Measures this group.
pub fn measure() -> Result<Vec<Row>> {
    let cluster = TestCluster::create(profile::chosen())?;
    cluster.start_all()?;
    let node = cluster.parts();
    let ports = [(ECHO, "TCP"), (MIRROR, "TCP"), (MIRROR, "UDP"), (SINK, "TCP")];
    let early = service("server", "ClusterIP", &ports);
    cluster.apply(&[pod("client", node, 8081), pod("server", node, 8082), early].concat())?;
    cluster.wait_ready_pods("app", 2)?;
    crowd::gather(&cluster, 0..FEW - 3)?;

    let wire = Wire::build(&node.spec().name, Between::Direct)?;
    let (client, bare_client) = (Place::pod(node, 8081)?, wire.pod(1, 1)?);
    let _servers = (serve_all(&Place::pod(node, 8082)?)?, serve_all(&wire.pod(1, 2)?)?);
    let bare = Way::new(&bare_client, Wire::address(1, 2));
    let against = (&bare, "straight to a pod without programs");

    let ours = through(&cluster, &client, "server")?;
    let mut rows = vec![
        fight(Traffic::TcpRr, "through a ClusterIP", &ours, against, 0.99)?,
        fight(Traffic::UdpRr, "through a ClusterIP", &ours, against, 0.99)?,
        fight(Traffic::Stream, "through a ClusterIP", &ours, against, 0.99)?,
        fight(Traffic::TcpCrr, &format!("through a ClusterIP, {FEW} Services"), &ours, against, 0.97)?,
    ];
    let many = profile::many_services();
    crowd::gather(&cluster, FEW - 3..many - 4)?;
    // Once the node serves the last Service it has taken in the others.
    let late = service("server", "ClusterIP", &[(ECHO, "TCP")]).replacen(r#""name":"server""#, r#""name":"late""#, 1);
    cluster.apply(&late)?;
    let ours = through(&cluster, &client, "late")?;
    rows.push(fight(Traffic::TcpCrr, &format!("through a ClusterIP, {many} Services"), &ours, against, 0.97)?);
    Ok(rows)
}

/// The way through the ClusterIP of a Service, once it leads somewhere.
fn through<'a>(cluster: &TestCluster, client: &'a Place, service: &str) -> Result<Way<'a>> {
    let vip = cluster.get(&["service", service], "{.spec.clusterIP}")?;
    let address = format!("{vip}:{ECHO}");
    xtask::wait::until(&format!("an answer of {service}"), LIMIT, || client.time(&["crr", &address, "1"]))?;
    Ok(Way::new(client, vip))
}
