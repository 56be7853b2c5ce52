//! `--node-port-mode dsr`: backends on another node answer a client outside past the node that it asked.

use anyhow::{Context as _, Result, ensure};
use skep_tests::cluster::{LIMIT, Shape, TestCluster};
use skep_tests::hammer::Hammer;
use xtask::wait;

use crate::restart::Stream;
use crate::{Met, last_client, meet, node_ports, service, wait_heard, web};

const CLIENT: &str = "10.111.0.100";
const ASKED: &str = "10.111.0.1";
const EXTERNAL: &str = "203.0.113.20";

fn shape(segments: u8) -> Shape {
    Shape { segments, node_flags: vec!["--node-port-mode".into(), "dsr".into()], ..Shape::nodes(2) }
}

/// The pod is on the second node, the client asks the first.
fn start(segments: u8) -> Result<(TestCluster, String, String)> {
    let cluster = TestCluster::start_shape(&shape(segments))?;
    let external = service("external", "web", &format!("externalIPs: [{EXTERNAL}]"));
    cluster.apply(&[web(&cluster, "web", "web", 2), service("web", "web", "type: NodePort"), external].concat())?;
    cluster.wait_ready_pods("app=web", 1)?;
    let (tcp, udp) = node_ports(&cluster, "web")?;
    let (tcp, udp) = (format!("{ASKED}:{tcp}"), format!("{ASKED}:{udp}"));
    wait_heard(&cluster, &tcp, &udp, "web")?;
    Ok((cluster, tcp, udp))
}

/// From now on nothing that the first node sends to the client arrives.
fn cut_off(cluster: &TestCluster) -> Result<()> {
    let neighbour = ["neigh", "replace", CLIENT, "lladdr", "02:00:00:00:00:77", "dev", "eth0", "nud", "permanent"];
    let done = cluster.nodes()[0].on_machine("ip").args(neighbour).status()?;
    ensure!(done.success(), "the first node does not take an address of nobody for the client's");
    Ok(())
}

fn sees_the_client(cluster: &TestCluster, tcp: &str) -> Result<()> {
    // The first node may have learned of the second's address only now; the first connections go through it then.
    wait::until("the pod sees the client", LIMIT, || {
        ensure!(meet(cluster, tcp)? == Met::Answer("web".into()));
        ensure!(last_client(cluster, "web")? == CLIENT, "it sees {}", last_client(cluster, "web")?);
        Ok(())
    })
}

#[test]
fn a_pod_of_another_node_answers_a_client_outside_itself() -> Result<()> {
    let (cluster, tcp, udp) = start(1)?;
    sees_the_client(&cluster, &tcp)?;
    cut_off(&cluster)?;
    wait_heard(&cluster, &tcp, &udp, "web")?;
    cluster.outside()?.ip(&["route", "add", EXTERNAL, "via", ASKED])?;
    wait_heard(&cluster, &format!("{EXTERNAL}:80"), &format!("{EXTERNAL}:80"), "web")?;

    // Neither daemon is missed.
    let stream = Stream::open(&cluster, &tcp)?;
    let hammer = Hammer::start(cluster.outside_toolbox(&["hammer", &tcp])?)?;
    for node in cluster.nodes() {
        node.node.kill()?;
    }
    std::thread::sleep(std::time::Duration::from_secs(1));
    wait_heard(&cluster, &tcp, &udp, "web")?;
    for node in cluster.nodes() {
        node.start_node()?;
    }
    std::thread::sleep(std::time::Duration::from_secs(1));
    let answer = stream.end().context("the stream")?;
    ensure!(answer.ends_with("web\n"), "the stream ends with {answer:?}");
    let heard = hammer.stop()?;
    ensure!(heard.errors.is_empty(), "{:?}", heard.errors);
    ensure!(heard.answers.keys().eq(["web"]), "{:?}", heard.answers);

    policies_judge_the_clients_own_address(&cluster, &tcp)
}

fn policies_judge_the_clients_own_address(cluster: &TestCluster, tcp: &str) -> Result<()> {
    let allow = |cidr: &str| {
        format!(
            "---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{ name: web }}
spec:
  podSelector: {{ matchLabels: {{ app: web }} }}
  ingress: [{{ from: [{{ ipBlock: {{ cidr: {cidr} }} }}] }}]
"
        )
    };
    for (cidr, expected) in [("192.0.2.0/24", Met::Silence), ("10.111.0.100/32", Met::Answer("web".into()))] {
        cluster.apply(&allow(cidr))?;
        wait::until(&format!("{cidr} alone may ask"), LIMIT, || {
            let met = meet(cluster, tcp)?;
            ensure!(met == expected, "the client meets {met:?}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_pod_on_another_network_answers_a_client_outside_past_the_tunnel() -> Result<()> {
    let (cluster, tcp, udp) = start(2)?;
    // The networks between drop what comes from pods, as clouds do. What comes from the asked node's address passes.
    cluster.router()?.ip(&["rule", "add", "from", "10.113.0.0/16", "blackhole"])?;
    sees_the_client(&cluster, &tcp)?;
    cut_off(&cluster)?;
    wait_heard(&cluster, &tcp, &udp, "web")
}
