//! Pods' addresses, who tells of them, and who reaches them.

use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use skep_tests::cluster::{Shape, TestCluster};
use xtask::cluster::Cluster;
use xtask::command::output;

use crate::{Web, apply_webs, ask_everybody, at, families, in_pod, ips, services, wait_said};

/// A pod in its node's network.
fn host_pod(node: &Cluster) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{ name: host, labels: {{ app: host }} }}
spec:
  nodeName: {}
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
    - {{ name: web, image: 'localhost/skep/toolbox:1', command: [toolbox, serve, '8099', host] }}
",
        node.spec().name
    )
}

fn node_ips(cluster: &TestCluster, node: &Cluster) -> Result<Vec<IpAddr>> {
    ips(cluster, &["node", &node.spec().name], "{.status.addresses[?(@.type=='InternalIP')].address}")
}

fn ip(node: &Cluster, args: &[&str]) -> Result<String> {
    output(node.on_machine("ip").args(args))
}

#[test]
fn pods_on_one_ethernet_have_two_addresses_and_reach_each_other_over_both() -> Result<()> {
    let shape = Shape::dual_stack(2);
    let cluster = TestCluster::start_shape(&shape)?;
    let webs = apply_webs(&cluster)?;
    for (number, (web, node)) in (1..).zip(webs.iter().zip(cluster.nodes())) {
        ensure!(families(&web.addresses) == "46", "{} has {:?}", web.name, web.addresses);
        let nodes = node_ips(&cluster, node)?;
        let own: [IpAddr; 2] = [shape.address(number).into(), shape.address6(number).into()];
        ensure!(nodes == own, "the node has {nodes:?}");
        let cidrs = cluster.get(&["node", &node.spec().name], "{.spec.podCIDRs[*]}")?;
        ensure!(cidrs.split(' ').count() == 2, "the node's pod CIDRs are {cidrs}");
        told(&cluster, web, &nodes)?;
        // Plain routes of both families lead to the other node.
        for family in ["-4", "-6"] {
            let routes = ip(node, &[family, "route", "show", "proto", "84"])?;
            ensure!(routes.contains("dev eth0") && !routes.contains("skep-vxlan"), "{family}: {routes}");
        }
        let pod_device = output(&mut in_pod_sh(&cluster, &web.name, "busybox ip link show eth0"))?;
        ensure!(pod_device.contains("mtu 1500"), "nothing is inside anything, yet: {pod_device}");
    }
    ask_everybody(&cluster, &webs)?;

    let first = cluster.nodes()[0];
    cluster.apply(&host_pod(first))?;
    cluster.wait_ready_pods("app=host", 1)?;
    let host = Web::read(&cluster, "host")?;
    ensure!(host.addresses == node_ips(&cluster, first)?, "the pod has {:?}", host.addresses);
    let hosts = ips(&cluster, &["pod", "host"], "{.status.hostIPs[*].ip}")?;
    ensure!(hosts == host.addresses, "its hostIPs are {hosts:?}");
    for target in host.addresses.iter().map(|address| at(*address, 8099)) {
        wait_said(&format!("the host's pod at {target}"), "host", || Ok(in_pod(&cluster, "web-2", &["get", &target])))?;
    }

    // The daemon comes back and finds all as it was.
    first.node.kill()?;
    first.start_node()?;
    let again = Web::read(&cluster, "web-1")?;
    ensure!(again.addresses == webs[0].addresses, "now it has {:?}", again.addresses);
    ask_everybody(&cluster, &webs)?;

    // What cleans up removes what is of either family.
    let second = cluster.nodes()[1];
    second.destroy(true)?;
    let netns = format!("--net={}", second.spec().netns.as_deref().context("a machine")?.display());
    let look = |args: &[&str]| output(Command::new("nsenter").args([&netns, "--", "ip"]).args(args));
    for args in [
        &["-4", "route", "show", "proto", "83"][..],
        &["-6", "route", "show", "proto", "83"],
        &["-4", "route", "show", "proto", "84"],
        &["-6", "route", "show", "proto", "84"],
        &["-4", "address", "show", "dev", "lo", "to", "10.112.0.0/16"],
        &["-6", "address", "show", "dev", "lo", "to", "fd00:112::/108"],
    ] {
        let left = look(args)?;
        ensure!(left.trim().is_empty(), "{args:?}: {left}");
    }
    let links = look(&["link", "show"])?;
    ensure!(!links.contains(": skep"), "{links}");
    Ok(())
}

fn in_pod_sh(cluster: &TestCluster, pod: &str, line: &str) -> Command {
    cluster.parts().kubectl(&["exec", pod, "--", "busybox", "sh", "-c", line])
}

/// A pod is told of its own and its node's addresses, in the cluster's order.
fn told(cluster: &TestCluster, web: &Web, nodes: &[IpAddr]) -> Result<()> {
    let list = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let environment = cluster.kubectl(&["exec", &web.name, "--", "busybox", "env"])?;
    for line in [
        format!("POD_IP={}", web.addresses[0]),
        format!("POD_IPS={}", list(&web.addresses)),
        format!("HOST_IPS={}", list(nodes)),
    ] {
        ensure!(environment.lines().any(|known| known == line), "{line} is missing in {environment}");
    }
    let hosts = cluster.kubectl(&["exec", &web.name, "--", "busybox", "cat", "/etc/hosts"])?;
    for address in &web.addresses {
        ensure!(hosts.lines().any(|line| line.starts_with(&format!("{address}\t{}", web.name))), "{hosts}");
    }
    Ok(())
}

#[test]
fn pods_of_two_networks_reach_each_other_over_both_families_through_the_vxlan() -> Result<()> {
    through_the_vxlan(&Shape::dual_stack(2), "local 10.111.0.1", 1450)
}

#[test]
fn a_vxlan_over_ipv6_carries_both_families() -> Result<()> {
    let shape = Shape {
        pod_cidr: "fd00:113::/56,10.113.0.0/16".into(),
        service_cidr: "fd00:112::/108,10.112.0.0/16".into(),
        ipv6_first: true,
        ..Shape::dual_stack(2)
    };
    through_the_vxlan(&shape, "local fd00:111::1", 1430)
}

/// On two networks: what is outside the packets, and the MTU that pods get.
fn through_the_vxlan(shape: &Shape, outer: &str, mtu: u32) -> Result<()> {
    let shape = Shape { segments: 2, ..shape.clone() };
    let cluster = TestCluster::start_shape(&shape)?;
    let webs = apply_webs(&cluster)?;
    ask_everybody(&cluster, &webs)?;
    // The pod is on the other network: what comes from outside goes on through the tunnel, too.
    services::ask_node_ports(&cluster, &shape, &[1])?;
    for node in cluster.nodes() {
        for family in ["-4", "-6"] {
            let routes = ip(node, &[family, "route", "show", "proto", "84"])?;
            ensure!(routes.contains("dev skep-vxlan"), "{family}: {routes}");
        }
    }
    let device = ip(cluster.nodes()[0], &["-details", "link", "show", "skep-vxlan"])?;
    ensure!(device.contains(outer), "{device}");
    // Pods that come when the other network is known get what the tunnel leaves them.
    cluster.apply(
        "
apiVersion: v1
kind: Pod
metadata: { name: later, labels: { app: later } }
spec:
  terminationGracePeriodSeconds: 1
  containers: [{ name: web, image: 'localhost/skep/toolbox:1', command: [toolbox, serve, '8080'] }]
",
    )?;
    cluster.wait_ready_pods("app=later", 1)?;
    let device = output(&mut in_pod_sh(&cluster, "later", "busybox ip link show eth0"))?;
    ensure!(device.contains(&format!("mtu {mtu}")), "{device}");
    Ok(())
}
