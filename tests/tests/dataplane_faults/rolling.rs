//! The daemons of three nodes are killed and started one after the other.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use skep_tests::bench::load::{Load, Outcome};
use skep_tests::cluster::{LIMIT, Shape, TestCluster};
use skep_tests::scrape;
use xtask::cluster::Cluster;
use xtask::command::output;
use xtask::{process, wait, workspace};

use crate::{MENDED, flawless, nothing_mended, pod, service};

const VIP: &str = "10.112.0.60:80";
const PORT: u16 = 30_560;

/// Between the death of a daemon and its successor.
const AWAY: Duration = Duration::from_secs(1);

#[test]
fn daemons_killed_one_after_the_other_fail_no_connection_of_three_nodes() -> Result<()> {
    let cluster = TestCluster::start_shape(&Shape::nodes(3))?;
    let mut manifest = service("web", "web", "10.112.0.60", PORT);
    for number in 1..=3 {
        manifest += &pod(&cluster, &format!("web-{number}"), "web", number, "mirror");
        let name = format!("8080', '{}", client(&cluster, number));
        manifest +=
            &pod(&cluster, &format!("client-{number}"), "client", number, "serve").replace("8080'", &(name + "'"));
    }
    cluster.apply(&manifest)?;
    cluster.wait_ready_pods("app in (web, client)", 6)?;
    let nodes = cluster.nodes();
    let node_port = |number: usize| format!("10.111.0.{number}:{PORT}");
    for number in 1..=3 {
        wait::until(&format!("node {number} serves"), LIMIT, || {
            output(&mut cluster.outside_toolbox(&["crr", &node_port(number), "8"])?)?;
            output(&mut cluster.toolbox_on(nodes[number - 1], &["crr", VIP, "8"])).map(drop)
        })?;
    }
    let mut loads = Vec::new();
    for number in 1..=3 {
        let outside = node_port(number);
        for args in [["streams", &outside, "6"], ["storm", &outside, "1"], ["blast", &outside, "50"]] {
            loads.push((format!("{args:?} from outside"), Load::run(cluster.outside_toolbox(&args)?)?));
        }
        for args in [["streams", VIP, "6"], ["storm", VIP, "1"], ["blast", VIP, "50"]] {
            let inside = in_pods_network(nodes[number - 1], &client(&cluster, number), &args)?;
            loads.push((format!("{args:?} in the network of client-{number}"), Load::run(inside)?));
        }
    }
    for node in &nodes {
        node.node.kill()?;
        std::thread::sleep(AWAY);
        node.start_node()?;
        // The Node may be called Ready from its former life.
        wait::until("the new daemon answers", LIMIT, || scrape::value(node, MENDED).map(drop))?;
        std::thread::sleep(AWAY);
    }
    let mut sum = Outcome::default();
    for (what, load) in loads {
        sum = sum.and(flawless(&what, load)?);
    }
    println!("{} operations went well", sum.done);
    nothing_mended(&cluster)
}

/// What a client pod calls itself, on the whole machine.
fn client(cluster: &TestCluster, number: usize) -> String {
    format!("{}-client-{number}", cluster.parts().spec().name)
}

/// The toolbox in the network of the pod that calls itself `name`, and among the node's processes: `kubectl exec` would end with
/// the daemon that it goes through.
fn in_pods_network(node: &Cluster, name: &str, args: &[&str]) -> Result<Command> {
    let serves = |words: &[String]| {
        words.first().is_some_and(|word| word.ends_with("toolbox")) && words.iter().any(|word| word == name)
    };
    let pid = process::find(serves).first().copied().with_context(|| format!("no process {name}"))?;
    let mut command = node.on_machine("nsenter");
    command.arg(format!("--net=/proc/{pid}/ns/net")).arg("--");
    command.arg(workspace::target().join("static/release/skep-toolbox")).args(args);
    Ok(command)
}
