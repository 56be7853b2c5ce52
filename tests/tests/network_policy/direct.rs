//! The short way to pods of a node: whoever is isolated is reached through the node's end of its device only.

use anyhow::{Context as _, Result, ensure};
use skep_tests::cluster::LIMIT;
use xtask::command::output;
use xtask::wait;

use crate::net::{Net, start};

/// Questions of an exchange, and answers.
const MANY: u64 = 1000;

/// How many packets the device of a pod on the first node has sent to it, by the node's count.
fn sent_to(net: &Net, pod: &str) -> Result<u64> {
    let ip = |args: &[&str]| output(net.cluster.nodes()[0].on_machine("ip").args(args));
    let route = ip(&["route", "show", &net.ip(pod)?])?;
    let device = route.split(' ').skip_while(|word| *word != "dev").nth(1).with_context(|| route.clone())?;
    let told: serde_json::Value = serde_json::from_str(&ip(&["-j", "-s", "link", "show", "dev", device])?)?;
    told[0]["stats64"]["tx"]["packets"].as_u64().context("no count of packets")
}

/// Which of `pods` (of the first node) got their packets from the node's end of their device, when `client` asked `server`.
/// Probes go that way always: they are few.
fn reached_by_the_node(net: &Net, client: &str, server: &str, pods: &[&str]) -> Result<Vec<bool>> {
    let (namespace, name) = client.split_once('/').context("namespace/name")?;
    let (address, count) = (format!("{}:8080", net.ip(server)?), MANY.to_string());
    let counts = || pods.iter().map(|pod| sent_to(net, pod)).collect::<Result<Vec<u64>>>();
    let before = counts()?;
    let words = ["exec", "-n", namespace, name, "-c", "web", "--", "toolbox", "rr", "udp", &address, &count];
    net.cluster.kubectl(&words)?;
    Ok(counts()?.iter().zip(before).map(|(after, before)| after - before >= MANY).collect())
}

fn wait_reached(net: &Net, client: &str, server: &str, expected: &[(&str, bool)]) -> Result<()> {
    let (pods, expected): (Vec<&str>, Vec<bool>) = expected.iter().copied().unzip();
    wait::until(&format!("{pods:?} reached by the node: {expected:?}"), LIMIT, || {
        let reached = reached_by_the_node(net, client, server, &pods)?;
        ensure!(reached == expected, "it is {reached:?}");
        Ok(())
    })
}

#[test]
fn packets_go_past_the_node_to_pods_that_no_policy_selects() -> Result<()> {
    let net = start()?;
    let between = |server, client| wait_reached(&net, "nx/a", "nx/server", &[("nx/server", server), ("nx/a", client)]);
    let from_elsewhere = |server| wait_reached(&net, "nx/b", "nx/server", &[("nx/server", server)]);
    // There is no policy at all.
    between(false, false)?;
    from_elsewhere(false)?;

    net.policy("one", "{ podSelector: { matchLabels: { app: server } }, ingress: [{}] }")?;
    between(true, false)?;
    from_elsewhere(true)?;
    // Of a pod that may not send freely, the enforcement must see what it is answered.
    net.policy("two", "{ podSelector: { matchLabels: { app: a } }, policyTypes: [Egress], egress: [{}] }")?;
    between(true, true)?;
    net.delete_policy("one")?;
    between(false, true)?;
    from_elsewhere(false)?;
    net.delete_policy("two")?;
    between(false, false)
}
