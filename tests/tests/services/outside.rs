//! A client outside the cluster.

use anyhow::{Result, ensure};
use skep_tests::cluster::{LIMIT, Shape, TestCluster};
use xtask::wait;

use crate::{Met, last_client, meet, node_ports, service, wait_heard, web};

const NODES: [&str; 2] = ["10.111.0.1", "10.111.0.2"];
const CLIENT: &str = "10.111.0.100";
const BALANCER: &str = "203.0.113.10";
const EXTERNAL: &str = "203.0.113.20";

#[test]
fn a_client_outside_reaches_services_at_every_node_as_they_allow() -> Result<()> {
    let cluster = TestCluster::start_shape(&Shape::nodes(2))?;
    let manifest = [
        web(&cluster, "web", "web", 2),
        web(&cluster, "own", "own", 2).replace("spec:\n", "spec:\n  hostNetwork: true\n"),
        service("own", "own", "type: NodePort"),
        service("anywhere", "web", "type: NodePort"),
        service("local", "web", "type: NodePort\n  externalTrafficPolicy: Local"),
        service("nobody", "none", "type: NodePort"),
        service("external", "web", &format!("externalIPs: [{EXTERNAL}]")),
        service("open", "web", &format!("type: LoadBalancer\n  loadBalancerSourceRanges: [{CLIENT}/32]")),
        service("closed", "web", "type: LoadBalancer\n  loadBalancerSourceRanges: [192.0.2.0/24]"),
    ];
    cluster.apply(&manifest.concat())?;
    cluster.wait_ready_pods("app=web", 1)?;
    cluster.wait_ready_pods("app=own", 1)?;
    node_ports_answer_on_both_nodes(&cluster)?;
    processes_of_a_node_answer(&cluster)?;
    policy_local_keeps_the_client_and_the_node(&cluster)?;
    nobody_is_refused_at_once(&cluster)?;
    balancers_and_external_addresses_answer(&cluster)
}

fn node_ports_answer_on_both_nodes(cluster: &TestCluster) -> Result<()> {
    let (tcp, udp) = node_ports(cluster, "anywhere")?;
    for node in NODES {
        wait_heard(cluster, &format!("{node}:{tcp}"), &format!("{node}:{udp}"), "web")?;
    }
    // By way of the node without the pod, the pod sees that node.
    ensure!(meet(cluster, &format!("{}:{tcp}", NODES[0]))? == Met::Answer("web".into()));
    ensure!(last_client(cluster, "web")? == NODES[0], "the client is {}", last_client(cluster, "web")?);
    Ok(())
}

/// A pod in the node's network: its answers meet the program only on their way out.
fn processes_of_a_node_answer(cluster: &TestCluster) -> Result<()> {
    let (tcp, udp) = node_ports(cluster, "own")?;
    let name = cluster.kubectl(&["exec", "own", "--", "hostname"])?;
    for node in NODES {
        wait_heard(cluster, &format!("{node}:{tcp}"), &format!("{node}:{udp}"), name.trim())?;
    }
    Ok(())
}

fn policy_local_keeps_the_client_and_the_node(cluster: &TestCluster) -> Result<()> {
    let (tcp, udp) = node_ports(cluster, "local")?;
    wait_heard(cluster, &format!("{}:{tcp}", NODES[1]), &format!("{}:{udp}", NODES[1]), "web")?;
    ensure!(meet(cluster, &format!("{}:{tcp}", NODES[1]))? == Met::Answer("web".into()));
    ensure!(last_client(cluster, "web")? == CLIENT, "the client is {}", last_client(cluster, "web")?);
    let elsewhere = meet(cluster, &format!("{}:{tcp}", NODES[0]))?;
    ensure!(elsewhere == Met::Silence, "the node without the pod says {elsewhere:?}");
    Ok(())
}

fn nobody_is_refused_at_once(cluster: &TestCluster) -> Result<()> {
    let (tcp, _) = node_ports(cluster, "nobody")?;
    for node in NODES {
        let met = meet(cluster, &format!("{node}:{tcp}"))?;
        ensure!(matches!(&met, Met::Error(text) if text.contains("refused")), "{node} says {met:?}");
    }
    Ok(())
}

fn balancers_and_external_addresses_answer(cluster: &TestCluster) -> Result<()> {
    // What a cloud would do: note the balancer's address, and lead it to a node.
    let second = BALANCER.replace(".10", ".11");
    for (service, address) in [("open", BALANCER), ("closed", second.as_str())] {
        let status = format!(r#"{{"status":{{"loadBalancer":{{"ingress":[{{"ip":"{address}"}}]}}}}}}"#);
        cluster.kubectl(&["patch", "service", service, "--subresource=status", "--type=merge", "-p", &status])?;
    }
    for address in [BALANCER, &second, EXTERNAL] {
        cluster.outside()?.ip(&["route", "add", address, "via", NODES[0]])?;
    }
    for address in [BALANCER, EXTERNAL] {
        wait_heard(cluster, &format!("{address}:80"), &format!("{address}:80"), "web")?;
    }
    // It is known by now: its node port answers, for that is open to all.
    let (tcp, udp) = node_ports(cluster, "closed")?;
    wait_heard(cluster, &format!("{}:{tcp}", NODES[0]), &format!("{}:{udp}", NODES[0]), "web")?;
    let met = meet(cluster, &format!("{second}:80"))?;
    ensure!(met == Met::Silence, "a client in no source range meets {met:?}");
    cluster.kubectl(&[
        "patch",
        "service",
        "closed",
        "--type=merge",
        "-p",
        r#"{"spec":{"loadBalancerSourceRanges":[]}}"#,
    ])?;
    wait::until("the balancer opens", LIMIT, || {
        let met = meet(cluster, &format!("{second}:80"))?;
        ensure!(met == Met::Answer("web".into()), "the client meets {met:?}");
        Ok(())
    })
}
