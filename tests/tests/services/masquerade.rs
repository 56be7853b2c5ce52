//! Pods that ask somebody outside who knows nothing of pods' addresses.

use std::fs::File;
use std::process::{Child, Stdio};

use anyhow::{Result, ensure};
use skep_tests::cluster::{LIMIT, Shape, TestCluster};
use xtask::wait;

use crate::{last_client, web};

const OUTSIDE: &str = "10.111.0.100:9000";

/// A web server outside, ended with this.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Ended by the test's end, however that is.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn pods_ask_the_outside_as_their_node_and_each_other_as_themselves() -> Result<()> {
    let shape = Shape { node_flags: vec!["--masquerade".into(), "true".into()], ..Shape::nodes(2) };
    let cluster = TestCluster::start_shape(&shape)?;
    let log = cluster.parts().spec().data.join("outside.log");
    let mut serve = cluster.outside_toolbox(&["serve", "9000"])?;
    let _server = Server(serve.stdin(Stdio::null()).stdout(File::create(&log)?).spawn()?);
    cluster.apply(&[web(&cluster, "one", "web", 1), web(&cluster, "two", "web", 2)].concat())?;
    cluster.wait_ready_pods("app=web", 2)?;
    for (pod, node) in [("one", "10.111.0.1"), ("two", "10.111.0.2")] {
        for how in ["get", "udp"] {
            wait::until(&format!("{pod} hears the outside ({how})"), LIMIT, || {
                cluster.kubectl(&["exec", pod, "--", "busybox", "timeout", "3", "toolbox", how, OUTSIDE]).map(drop)
            })?;
        }
        let heard = std::fs::read_to_string(&log)?;
        let last = heard.lines().next_back().unwrap_or_default();
        ensure!(last.starts_with(&format!("{node} ")), "the outside heard from {last:?}");
    }
    // Between pods, and between a pod and another node's own process, nothing is hidden.
    let address = |pod: &str| cluster.get(&["pod", pod], "{.status.podIP}");
    cluster.kubectl(&["exec", "one", "--", "toolbox", "get", &format!("{}:8080", address("two")?)])?;
    ensure!(last_client(&cluster, "two")? == address("one")?, "a pod is seen as {}", last_client(&cluster, "two")?);
    let answer = cluster.toolbox_on(cluster.nodes()[1], &["udp", &format!("{}:8080", address("one")?)]).output()?;
    ensure!(answer.stdout.starts_with(b"one"), "a datagram from another node: {answer:?}");
    Ok(())
}
