//! Devices that go and come back under the same name.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use skep_tests::cluster::{LIMIT, Shape, TestCluster};
use xtask::cluster::Cluster;
use xtask::command::output;
use xtask::wait;

use crate::{pod, service, wait_node_hears, wait_outside_hears};

const NODE: &str = "10.111.0.2";

#[test]
fn a_device_that_is_made_anew_serves_as_the_old_one_did() -> Result<()> {
    let cluster = TestCluster::start_shape(&Shape::nodes(2))?;
    let manifest = [
        pod(&cluster, "here", "here", 2, "serve"),
        pod(&cluster, "there", "there", 1, "serve"),
        service("here", "here", "10.112.0.60", 30_560),
        service("there", "there", "10.112.0.61", 30_561),
    ];
    cluster.apply(&manifest.concat())?;
    cluster.wait_ready_pods("app in (here, there)", 2)?;
    let second = cluster.nodes()[1];
    // A pod of the node itself, and one that takes the way through it: both directions meet its device.
    let works = || {
        for (port, pod) in [(30_560, "here"), (30_561, "there")] {
            wait_outside_hears(&cluster, &format!("{NODE}:{port}"), pod)?;
        }
        wait_node_hears(&cluster, second, "10.112.0.61:80", "there")?;
        wait_node_hears(&cluster, cluster.nodes()[0], "10.112.0.60:80", "here")
    };
    works()?;

    let before = index(second, "eth0")?;
    replace_eth0(second)?;
    ensure!(index(second, "eth0")? != before, "it is still the same device");
    let start = Instant::now();
    works()?;
    println!("the node's device serves again after {:?}", start.elapsed());

    // The node's end takes the pod's with it.
    let address = cluster.get(&["pod", "here"], "{.status.podIP}")?;
    let device = device_of(second, &address)?;
    ip(second, &["link", "del", &device])?;
    let start = Instant::now();
    works()?;
    println!("the pod's device serves again after {:?}", start.elapsed());
    ensure!(device_of(second, &address)? == device, "the pod has another device");
    Ok(())
}

/// What one part of a daemon puts right is news to the others: they must not keep each other busy.
#[test]
fn a_node_at_rest_writes_no_devices_addresses_or_routes() -> Result<()> {
    let cluster = TestCluster::start_shape(&Shape { segments: 2, ..Shape::nodes(2) })?;
    cluster.apply(&pod(&cluster, "web", "web", 2, "serve"))?;
    cluster.wait_ready_pods("app=web", 1)?;
    let node = cluster.nodes()[1];
    let monitor = || {
        let mut command = node.on_machine("timeout");
        // It ends by the signal, which is no failure here.
        let done = command.args(["10", "ip", "monitor", "link", "address", "route"]).output()?;
        Ok::<_, anyhow::Error>(String::from_utf8_lossy(&done.stdout).into_owned())
    };
    wait::until("a time of rest", LIMIT, || {
        let told = monitor()?;
        ensure!(told.is_empty(), "the kernel tells of\n{told}");
        Ok(())
    })
}

fn ip(node: &Cluster, args: &[&str]) -> Result<String> {
    output(node.on_machine("ip").args(args))
}

fn index(node: &Cluster, device: &str) -> Result<String> {
    let shown = ip(node, &["-o", "link", "show", device])?;
    Ok(shown.split(':').next().unwrap_or_default().to_owned())
}

/// The device that the route to a pod's address names.
fn device_of(node: &Cluster, address: &str) -> Result<String> {
    let route = ip(node, &["route", "get", address])?;
    let mut words = route.split_whitespace().skip_while(|word| *word != "dev").skip(1);
    Ok(words.next().with_context(|| format!("no device in {route}"))?.to_owned())
}

/// Removes the node's device, and plugs a new one into the same network, with the same addresses: neighbours would take their
/// time to notice another Ethernet address.
fn replace_eth0(node: &Cluster) -> Result<()> {
    let netns = node.spec().netns.as_ref().and_then(|path| path.file_name()?.to_str()).context("no namespace")?;
    let network = format!("{}-lan0", netns.strip_suffix("-n2").context("not the second node")?);
    let run = |args: &[&str]| output(Command::new("ip").args(args)).map(drop);
    let shown = ip(node, &["-o", "link", "show", "eth0"])?;
    let ethernet = shown.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).context("no address")?;
    ip(node, &["link", "del", "eth0"])?;
    let peer = ["peer", "name", "eth0", "address", ethernet, "netns", netns];
    run(&[&["-n", &network, "link", "add", "new", "type", "veth"], &peer[..]].concat())?;
    run(&["-n", &network, "link", "set", "new", "master", "br0", "up"])?;
    ip(node, &["addr", "add", &format!("{NODE}/24"), "dev", "eth0"])?;
    ip(node, &["link", "set", "eth0", "up"]).map(drop)
}
