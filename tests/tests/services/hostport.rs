//! Host ports of pods: who reaches them, where, and until when.

use anyhow::{Result, ensure};
use skep_tests::cluster::{LIMIT, Shape, TestCluster};
use skep_tests::hammer::Hammer;
use xtask::command::output;
use xtask::wait;

use crate::{Met, last_client, meet, patient, service, wait_heard, web};

const NODE: &str = "10.111.0.1";
const OTHER: &str = "10.111.0.2";
const CLIENT: &str = "10.111.0.100";

/// A web server `name` on node `number` with these `ports` of its container.
fn hosted(cluster: &TestCluster, name: &str, number: usize, ports: &str) -> String {
    let probe = "      readinessProbe";
    web(cluster, name, "hosted", number).replace(probe, &format!("      ports: [{ports}]\n{probe}"))
}

/// What a pod hears there, or the error it meets.
fn from_pod(cluster: &TestCluster, pod: &str, how: &str, address: &str) -> Result<String> {
    cluster.kubectl(&["exec", pod, "--", "busybox", "timeout", "3", "toolbox", how, address])
}

/// Waits until a process of node `number` hears `expected` there.
fn wait_node_hears(cluster: &TestCluster, number: usize, how: &str, address: &str, expected: &str) -> Result<()> {
    wait::until(&format!("{expected} at {address} ({how}), on node {number}"), LIMIT, || {
        let answer = output(&mut patient(&cluster.toolbox_on(cluster.nodes()[number - 1], &[how, address])))?;
        ensure!(answer.trim() == expected, "the answer is {answer:?}");
        Ok(())
    })
}

fn wait_refused(cluster: &TestCluster, address: &str) -> Result<()> {
    wait::until(&format!("{address} refuses"), LIMIT, || {
        let met = meet(cluster, address)?;
        ensure!(matches!(&met, Met::Error(text) if text.contains("refused")), "the client meets {met:?}");
        Ok(())
    })
}

#[test]
fn a_host_port_leads_to_its_pod_at_the_nodes_addresses_and_from_everywhere() -> Result<()> {
    let cluster = TestCluster::start_shape(&Shape::nodes(2))?;
    let port = |more: &str| format!("{{ containerPort: 8080, hostPort: 54323, {more} }}");
    let manifest = [
        // As in upstream's conformance test: one port three times, by address and protocol.
        hosted(&cluster, "loop", 1, &port("hostIP: 127.0.0.1")),
        hosted(&cluster, "tcp", 1, &port(&format!("hostIP: {NODE}"))),
        hosted(&cluster, "udp", 1, &port(&format!("hostIP: {NODE}, protocol: UDP"))),
        hosted(
            &cluster,
            "any",
            1,
            "{ containerPort: 8080, hostPort: 8080 }, { containerPort: 8080, hostPort: 8080, protocol: UDP }",
        ),
        hosted(&cluster, "low", 1, "{ containerPort: 8080, hostPort: 30777 }"),
        web(&cluster, "near", "hosted", 1),
        web(&cluster, "far", "hosted", 2),
    ];
    cluster.apply(&manifest.concat())?;
    cluster.wait_ready_pods("app=hosted", 7)?;
    outside_and_pods_are_heard_as_themselves(&cluster)?;
    the_node_reaches_them_at_loopback_too(&cluster)?;
    a_service_comes_before_a_host_port(&cluster)?;
    they_outlive_the_daemon_and_end_with_their_pods(&cluster)
}

fn outside_and_pods_are_heard_as_themselves(cluster: &TestCluster) -> Result<()> {
    let at = format!("{NODE}:54323");
    for (how, expected) in [("get", "tcp"), ("udp", "udp")] {
        wait::until(&format!("{expected} answers outside"), LIMIT, || {
            let answer = output(&mut patient(&cluster.outside_toolbox(&[how, &at])?))?;
            ensure!(answer.trim() == expected, "the answer is {answer:?}");
            Ok(())
        })?;
    }
    wait_heard(cluster, &format!("{NODE}:8080"), &format!("{NODE}:8080"), "any")?;
    for pod in ["tcp", "any"] {
        let client = last_client(cluster, pod)?;
        ensure!(client == CLIENT, "{pod} sees {client}");
    }
    // The port is this node's alone.
    wait_refused(cluster, &format!("{OTHER}:8080"))?;
    for pod in ["near", "far", "tcp"] {
        for (how, expected) in [("get", "tcp"), ("udp", "udp")] {
            let answer = from_pod(cluster, pod, how, &at)?;
            ensure!(answer.trim() == expected, "{pod} hears {answer:?} ({how})");
        }
        let (client, own) = (last_client(cluster, "tcp")?, cluster.get(&["pod", pod], "{.status.podIP}")?);
        ensure!(client == own, "{pod}, {own}, is seen as {client}");
    }
    // A pod's loopback is its own: it serves one of these ports itself, and nobody the other.
    let own = from_pod(cluster, "near", "get", "127.0.0.1:8080")?;
    ensure!(own.trim() == "near", "near hears {own:?} at its own address");
    let own = from_pod(cluster, "near", "get", "127.0.0.1:54323");
    ensure!(own.as_ref().is_err_and(|error| format!("{error:#}").contains("refused")), "near hears {own:?}");
    Ok(())
}

fn the_node_reaches_them_at_loopback_too(cluster: &TestCluster) -> Result<()> {
    wait_node_hears(cluster, 1, "get", "127.0.0.1:54323", "loop")?;
    wait_node_hears(cluster, 1, "get", &format!("{NODE}:54323"), "tcp")?;
    wait_node_hears(cluster, 1, "udp", &format!("{NODE}:54323"), "udp")?;
    wait_node_hears(cluster, 1, "get", "127.0.0.1:8080", "any")?;
    wait_node_hears(cluster, 1, "udp", "127.0.0.1:8080", "any")?;
    wait_node_hears(cluster, 2, "get", &format!("{NODE}:8080"), "any")
}

/// As upstream's proxy comes before the plugin `portmap`.
fn a_service_comes_before_a_host_port(cluster: &TestCluster) -> Result<()> {
    let at = format!("{NODE}:30777");
    let hears = |expected: &str| {
        wait::until(&format!("{expected} answers at {at}"), LIMIT, || {
            let met = meet(cluster, &at)?;
            ensure!(met == Met::Answer(expected.into()), "the client meets {met:?}");
            Ok(())
        })
    };
    hears("low")?;
    cluster.apply(&web(cluster, "chosen", "chosen", 2))?;
    cluster.wait_ready_pods("app=chosen", 1)?;
    let same = service("same", "chosen", "type: NodePort")
        .replace("port: 80, targetPort: 8080 }", "port: 80, targetPort: 8080, nodePort: 30777 }");
    cluster.apply(&same)?;
    hears("chosen")?;
    cluster.kubectl(&["delete", "service", "same"])?;
    hears("low")
}

fn they_outlive_the_daemon_and_end_with_their_pods(cluster: &TestCluster) -> Result<()> {
    let at = format!("{NODE}:8080");
    let hammer = Hammer::start(cluster.outside_toolbox(&["hammer", &at])?)?;
    let first = cluster.nodes()[0];
    first.node.kill()?;
    wait_heard(cluster, &at, &at, "any")?;
    // It ends while nobody looks.
    cluster.kubectl(&["delete", "pod", "low", "--force", "--grace-period=0"])?;
    first.start_node()?;
    wait_refused(cluster, &format!("{NODE}:30777"))?;
    let heard = hammer.stop()?;
    ensure!(heard.errors.is_empty() && heard.answers.contains_key("any"), "{:?} {:?}", heard.answers, heard.errors);
    cluster.kubectl(&["delete", "pod", "any", "tcp"])?;
    wait_refused(cluster, &at)?;
    wait_refused(cluster, &format!("{NODE}:54323"))?;
    // A successor gets the port.
    cluster.apply(&hosted(cluster, "next", 1, "{ containerPort: 8080, hostPort: 8080 }"))?;
    wait::until("the successor answers", LIMIT, || {
        let met = meet(cluster, &at)?;
        ensure!(met == Met::Answer("next".into()), "the client meets {met:?}");
        Ok(())
    })
}
