//! The fast lane: a client outside, a node that only passes its packets on, and a pod on another node.

use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use skep_tests::cluster::{LIMIT, Shape, TestCluster};
use skep_tests::hammer::Hammer;
use xtask::command::output;
use xtask::wait;

use crate::restart::Stream;
use crate::{fetch, node_ports, service, wait_heard, web};

const NODE: &str = "10.111.0.1";

#[test]
fn packets_that_pass_through_take_the_fast_lane_and_none_is_lost() -> Result<()> {
    let flags = ["--acceleration", "best-effort"].map(str::to_owned).to_vec();
    let cluster = TestCluster::start_shape(&Shape { node_flags: flags, ..Shape::nodes(2) })?;
    cluster.apply(&[web(&cluster, "web", "web", 2), service("web", "web", "type: NodePort")].concat())?;
    cluster.wait_ready_pods("app=web", 1)?;
    let (tcp, udp) = node_ports(&cluster, "web")?;
    let (tcp, udp) = (format!("{NODE}:{tcp}"), format!("{NODE}:{udp}"));
    wait_heard(&cluster, &tcp, &udp, "web")?;
    unfinished_checksums_go_through_tc(&cluster, &tcp)?;
    finish_checksums(&cluster)?;
    ensure!(lanes(&cluster)? == ["from_wire_generic"], "nobody hears what a driver would send: {:?}", lanes(&cluster)?);
    carries(&cluster, &tcp, &udp).context("behind the driver")?;

    // The other ends of the wires take a driver's frames now; the next daemon finds that out.
    hear(&cluster)?;
    let (stream, hammer) = (Stream::open(&cluster, &tcp)?, Hammer::start(cluster.outside_toolbox(&["hammer", &tcp])?)?);
    let node = cluster.nodes()[0];
    node.node.kill()?;
    let before = forwarded(&cluster)?;
    wait::until("packets are forwarded without a daemon", LIMIT, || {
        ensure!(forwarded(&cluster)? > before + 20, "none more than {before}");
        Ok(())
    })?;
    node.start_node()?;
    wait::until("the driver has the lane", LIMIT, || {
        let lanes = lanes(&cluster)?;
        ensure!(lanes == ["from_wire"], "{lanes:?}");
        Ok(())
    })?;
    carries(&cluster, &tcp, &udp).context("in the driver")?;
    ensure!(stream.end()?.ends_with("web\n"), "the stream was cut");
    let heard = hammer.stop()?;
    ensure!(heard.errors.is_empty() && heard.answers.contains_key("web"), "{:?}", heard.errors);
    let text = fetch(node, "127.0.0.1:10249", "/metrics")?.body;
    ensure!(text.contains(r#"skep_proxy_packets_forwarded_total{path="xdp"} "#), "{text}");
    Ok(())
}

/// As devices of one machine hand packets to each other, their checksums are not finished: what the lane would send on would
/// be wrong.
fn unfinished_checksums_go_through_tc(cluster: &TestCluster, tcp: &str) -> Result<()> {
    let before = forwarded(cluster)?;
    let stream = Stream::open(cluster, tcp)?;
    std::thread::sleep(Duration::from_secs(1));
    ensure!(stream.end()?.ends_with("web\n"), "the stream was cut");
    let after = forwarded(cluster)?;
    ensure!(after == before, "{} unfinished packets took the lane", after - before);
    Ok(())
}

/// A stream and datagrams arrive, by the lane.
fn carries(cluster: &TestCluster, tcp: &str, udp: &str) -> Result<()> {
    let before = forwarded(cluster)?;
    let stream = Stream::open(cluster, tcp)?;
    std::thread::sleep(Duration::from_secs(1));
    ensure!(stream.end()?.ends_with("web\n"), "the stream was cut");
    let between = forwarded(cluster)?;
    ensure!(between >= before + 10, "of the stream's packets {} took the lane", between - before);
    datagrams(cluster, udp)?;
    let after = forwarded(cluster)?;
    ensure!(after >= between + 20, "of 30 datagrams and their answers {} took the lane", after - between);
    Ok(())
}

/// Thirty questions and answers of one socket outside.
fn datagrams(cluster: &TestCluster, udp: &str) -> Result<()> {
    let netns = std::fs::File::open(cluster.outside()?.path())?;
    let udp = udp.to_owned();
    let ask = move || -> Result<()> {
        setns(netns, CloneFlags::CLONE_NEWNET)?;
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.connect(&udp)?;
        let mut buffer = [0; 256];
        for number in 0..30 {
            socket.send(b"who are you?\n")?;
            let length = socket.recv(&mut buffer).with_context(|| format!("answer {number}"))?;
            let answer = String::from_utf8_lossy(&buffer[..length]).trim().to_owned();
            ensure!(answer == "web", "the answer is {answer:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    };
    std::thread::spawn(ask).join().map_err(|_| anyhow!("asking panicked"))?
}

/// How many packets the first node's lane has forwarded.
fn forwarded(cluster: &TestCluster) -> Result<u64> {
    let status = status(cluster)?;
    let paths = status["forwarded"].as_array().context("nothing is forwarded")?;
    let lane = paths.iter().find(|path| path["path"] == "xdp").context("the lane is not counted")?;
    lane["packets"].as_u64().context("no number")
}

/// The lanes of the first node's device, by mode.
fn lanes(cluster: &TestCluster) -> Result<Vec<String>> {
    let status = status(cluster)?;
    let programs = status["devices"].as_array().context("no devices")?.iter();
    let on_wire = programs.filter(|one| one["device"] == "eth0").filter_map(|one| one["program"].as_str());
    Ok(on_wire.filter(|name| name.starts_with("from_wire")).map(str::to_owned).collect())
}

/// What `skepctl status` says on the first node.
fn status(cluster: &TestCluster) -> Result<Value> {
    let node = cluster.nodes()[0];
    let root = node.spec().bpf_root.display().to_string();
    let text = output(node.program("skepctl").args(["--bpf-root", &root, "status", "-o", "json"]))?;
    serde_json::from_str(&text).with_context(|| text)
}

/// Machines that finish their packets' checksums themselves, as those of a real network do before a node sees them.
fn finish_checksums(cluster: &TestCluster) -> Result<()> {
    output(cluster.outside()?.command("ethtool").args(["-K", "eth0", "tx", "off"]))?;
    for node in cluster.nodes() {
        output(node.on_machine("ethtool").args(["-K", "eth0", "tx", "off"]))?;
    }
    Ok(())
}

/// The switch's ends of the wires take frames of a driver.
fn hear(cluster: &TestCluster) -> Result<()> {
    let switch = format!("--net=/run/netns/{}-lan0", cluster.nodes()[0].spec().name);
    let ports = output(Command::new("nsenter").args([&switch, "ls", "/proc/self/net/dev_snmp6"]))?;
    for port in ports.split_whitespace().filter(|name| name.starts_with('p')) {
        output(Command::new("nsenter").args([&switch, "ethtool", "-K", port, "gro", "on"]))?;
    }
    Ok(())
}
