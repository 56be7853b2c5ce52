//! Several nodes: their pods reach each other, however the nodes are joined.
#![allow(clippy::disallowed_methods, reason = "these tests have no runtime: they may sleep")]

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use anyhow::{Context as _, Result, ensure};
use skep_tests::cluster::{LIMIT, Shape, TestCluster};
use xtask::cluster::Cluster;
use xtask::command::output;
use xtask::wait;

/// A web server `web-<n>` on every node and, behind one Service, `name: web`.
fn apply_webs(cluster: &TestCluster) -> Result<Vec<String>> {
    let mut manifest = "
apiVersion: v1
kind: Service
metadata: { name: web }
spec:
  selector: { app: web }
  ports: [{ name: http, port: 80, targetPort: 8080 }]
"
    .to_owned();
    for (node, number) in cluster.nodes().iter().zip(1..) {
        manifest += &format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{ name: web-{number}, labels: {{ app: web }} }}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers:
    - name: web
      image: localhost/skep/toolbox:1
      command: [toolbox, serve, '8080']
      readinessProbe: {{ httpGet: {{ port: 8080 }}, periodSeconds: 1 }}
",
            node = node.spec().name
        );
    }
    cluster.apply(&manifest)?;
    let names = cluster.wait_ready_pods("app=web", cluster.nodes().len())?;
    let mut addresses = Vec::new();
    for number in 1..=names.len() {
        addresses.push(cluster.get(&["pod", &format!("web-{number}")], "{.status.podIP}")?);
    }
    Ok(addresses)
}

/// Every pod asks every pod, and so does every node.
fn ask_everybody(cluster: &TestCluster, addresses: &[String]) -> Result<()> {
    ask_from(cluster, 1..=addresses.len(), addresses)
}

/// The pods of some nodes ask every pod, and so does every node.
fn ask_from(cluster: &TestCluster, pods: RangeInclusive<usize>, addresses: &[String]) -> Result<()> {
    for (address, to) in addresses.iter().zip(1..) {
        let (target, expected) = (format!("{address}:8080"), format!("web-{to}"));
        for from in pods.clone() {
            let what = format!("web-{to} at {target} asked from web-{from}");
            wait::until(&what, LIMIT, || {
                let answer = cluster.kubectl(&["exec", &format!("web-{from}"), "--", "toolbox", "get", &target])?;
                ensure!(answer.trim() == expected, "the answer is {answer:?}");
                Ok(())
            })?;
        }
        for node in cluster.nodes() {
            let answer = output(&mut cluster.toolbox_on(node, &["get", &target]))
                .with_context(|| format!("{expected} asked from {}", node.spec().name))?;
            ensure!(answer.trim() == expected, "the answer is {answer:?}");
        }
    }
    Ok(())
}

/// The Service answers with every pod's name to a process of each node.
fn ask_service(cluster: &TestCluster, count: usize) -> Result<()> {
    let vip = format!("{}:80", cluster.get(&["service", "web"], "{.spec.clusterIP}")?);
    let expected: BTreeSet<String> = (1..=count).map(|number| format!("web-{number}")).collect();
    for node in cluster.nodes() {
        let mut heard = BTreeSet::new();
        wait::until(&format!("answers of {expected:?} on {}", node.spec().name), LIMIT, || {
            heard.insert(output(&mut cluster.toolbox_on(node, &["get", &vip]))?.trim().to_owned());
            ensure!(heard == expected, "heard were {heard:?}");
            Ok(())
        })?;
    }
    Ok(())
}

fn ip(node: &Cluster, args: &[&str]) -> Result<String> {
    output(node.on_machine("ip").args(args))
}

/// What a node has for others: routes, and the VXLAN device's neighbours and forwarding entries.
fn ways(node: &Cluster) -> Result<String> {
    let mut ways = ip(node, &["route", "show", "proto", "84"])?;
    if ip(node, &["link", "show"])?.contains("skep-vxlan") {
        ways += &ip(node, &["neigh", "show", "dev", "skep-vxlan", "nud", "permanent"])?;
        ways += &output(node.on_machine("bridge").args(["fdb", "show", "dev", "skep-vxlan"]))?;
    }
    // The kernel's order is that of its making.
    let lines: BTreeSet<&str> = ways.lines().collect();
    Ok(lines.into_iter().map(|line| format!("{line}\n")).collect())
}

/// Waits until a node's ways are `expected`.
fn wait_ways(node: &Cluster, expected: &str) -> Result<()> {
    wait::until("the ways to other nodes", LIMIT, || {
        let now = ways(node)?;
        ensure!(now == expected, "there are\n{now}instead of\n{expected}");
        Ok(())
    })
}

#[test]
fn pods_of_three_nodes_on_one_ethernet_reach_each_other_by_plain_routes() -> Result<()> {
    let cluster = TestCluster::start_nodes(3)?;
    let addresses = apply_webs(&cluster)?;
    ask_everybody(&cluster, &addresses)?;
    ask_service(&cluster, 3)?;
    let nodes = cluster.nodes();
    for node in &nodes {
        let ways = ways(node)?;
        ensure!(ways.lines().count() == 2 && !ways.contains("skep-vxlan"), "{ways}");
        ensure!(ip(node, &["route", "show", "default"])?.is_empty(), "a node has a route to the outside");
    }

    // A killed daemon loses nothing, and what is lost meanwhile is there again once it is back.
    let whole = ways(nodes[0])?;
    nodes[0].node.kill()?;
    // `kubectl exec` on the first node needs its daemon.
    ask_from(&cluster, 2..=3, &addresses)?;
    ip(nodes[0], &["route", "del", whole.split(' ').next().context("no route")?])?;
    nodes[0].start_node()?;
    wait_ways(nodes[0], &whole)?;

    // Somebody flushes the routes: they come back without anybody asking.
    ip(nodes[0], &["route", "flush", "proto", "84"])?;
    wait_ways(nodes[0], &whole)?;
    ask_everybody(&cluster, &addresses)?;

    // A node that leaves takes its route with it, and only its.
    nodes[2].node.kill()?;
    let gone = cluster.get(&["node", &nodes[2].spec().name], "{.spec.podCIDR}")?;
    cluster.kubectl(&["delete", "node", &nodes[2].spec().name])?;
    let left: String = whole.lines().filter(|line| !line.starts_with(&gone)).map(|line| format!("{line}\n")).collect();
    ensure!(left.lines().count() == 1, "{left}");
    wait_ways(nodes[0], &left)
}

#[test]
fn pods_of_nodes_on_two_networks_reach_each_other_through_a_vxlan() -> Result<()> {
    let shape = Shape { segments: 2, ..Shape::nodes(3) };
    let cluster = TestCluster::start_shape(&shape)?;
    let addresses = apply_webs(&cluster)?;
    ask_everybody(&cluster, &addresses)?;
    ask_service(&cluster, 3)?;
    let nodes = cluster.nodes();
    // 1 and 3 are on one Ethernet, 2 is elsewhere.
    for (node, tunnels) in nodes.iter().zip([1, 2, 1]) {
        let routes = ip(node, &["route", "show", "proto", "84"])?;
        let through = routes.lines().filter(|line| line.contains("skep-vxlan")).count();
        ensure!((routes.lines().count(), through) == (2, tunnels), "{routes}");
        let link = ip(node, &["link", "show", "skep-vxlan"])?;
        ensure!(link.contains("mtu 1450"), "{link}");
    }
    // Nobody speaks of pods' addresses on the networks between.
    let router = cluster.router()?.ip(&["route", "show"])?;
    ensure!(!router.contains("10.113."), "{router}");

    // The device goes: it comes back whole.
    let whole = ways(nodes[1])?;
    ip(nodes[1], &["link", "del", "skep-vxlan"])?;
    wait_ways(nodes[1], &whole)?;
    ask_everybody(&cluster, &addresses)?;

    // With the last node elsewhere, the device goes, too; what is left is the way to the neighbour.
    nodes[1].node.kill()?;
    cluster.kubectl(&["delete", "node", &nodes[1].spec().name])?;
    wait::until("the end of the VXLAN device", LIMIT, || {
        let links = ip(nodes[0], &["link", "show"])?;
        ensure!(!links.contains("skep-vxlan"), "{links}");
        Ok(())
    })?;
    let left = ip(nodes[0], &["route", "show", "proto", "84"])?;
    ensure!(left.lines().count() == 1, "{left}");
    Ok(())
}

#[test]
fn a_cluster_can_insist_on_vxlan_or_leave_routes_to_others() -> Result<()> {
    let flags = |how: &str| vec!["--node-routing".to_owned(), how.to_owned()];
    let vxlan = TestCluster::start_shape(&Shape { node_flags: flags("vxlan"), ..Shape::nodes(2) })?;
    let addresses = apply_webs(&vxlan)?;
    ask_everybody(&vxlan, &addresses)?;
    let routes = ip(vxlan.nodes()[0], &["route", "show", "proto", "84"])?;
    ensure!(routes.lines().count() == 1 && routes.contains("skep-vxlan"), "{routes}");
    drop(vxlan);

    let none = TestCluster::start_shape(&Shape { node_flags: flags("routes"), ..Shape::nodes(2) })?;
    let addresses = apply_webs(&none)?;
    let nodes = none.nodes();
    ensure!(ways(nodes[0])?.is_empty(), "there are ways: {}", ways(nodes[0])?);
    for (node, other, gateway) in [(nodes[0], nodes[1], "10.111.0.2"), (nodes[1], nodes[0], "10.111.0.1")] {
        let cidr = none.get(&["node", &other.spec().name], "{.spec.podCIDR}")?;
        ip(node, &["route", "add", &cidr, "via", gateway])?;
    }
    ask_everybody(&none, &addresses)
}
