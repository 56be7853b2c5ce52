//! A pod whose connected UDP socket speaks to a pod that goes.

use std::time::Duration;

use anyhow::{Result, ensure};
use skep_tests::cluster::{LIMIT, Shape, TestCluster};
use xtask::command::output;
use xtask::wait;

use crate::{service, web};

#[test]
fn a_connected_datagram_socket_moves_on_when_its_pod_serves_no_more() -> Result<()> {
    let cluster = TestCluster::start_shape(&Shape::nodes(2))?;
    let ask = format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{ name: asking }}
spec:
  nodeName: {}
  terminationGracePeriodSeconds: 1
  containers:
    - {{ name: ask, image: 'localhost/skep/toolbox:1', command: [toolbox, stay, '10.112.0.50:80'] }}
",
        cluster.nodes()[0].spec().name
    );
    // It terminates for as long as the test wants, and serves meanwhile.
    let waits = "until test -e /tmp/end; do busybox sleep 0.1; done";
    let old = web(&cluster, "old", "web", 2).replace("GracePeriodSeconds: 1", "GracePeriodSeconds: 300").replace(
        "      image",
        &format!(
            "      lifecycle: {{ preStop: {{ exec: {{ command: [busybox, sh, -c, '{waits}'] }} }} }}\n      image"
        ),
    );
    cluster.apply(&[old, service("web", "web", "clusterIP: 10.112.0.50")].concat())?;
    cluster.wait_ready_pods("app=web", 1)?;
    cluster.apply(&ask)?;
    let heard = |expected: &str| {
        wait::until(&format!("{expected} answers"), LIMIT, || {
            let log = cluster.kubectl(&["logs", "asking"])?;
            ensure!(log.lines().next_back() == Some(expected), "heard was\n{log}");
            Ok(log)
        })
    };
    heard("old")?;
    // Another pod changes nothing; that the first one goes does.
    cluster.apply(&web(&cluster, "new", "web", 1))?;
    cluster.wait_ready_pods("app=web", 2)?;
    ensure!(heard("old")?.lines().all(|line| line == "old" || line.starts_with("error")), "the socket has moved");
    cluster.kubectl(&["delete", "pod", "old", "--wait=false"])?;
    wait::until("new sockets go to the other pod", LIMIT, || {
        let ask = || output(&mut cluster.toolbox_on(cluster.nodes()[0], &["udp", "10.112.0.50:80"]));
        for _ in 0..10 {
            let answer = ask()?;
            ensure!(answer.trim() == "new", "a new socket hears {answer:?}");
        }
        Ok(())
    })?;
    // A socket that was cut off would have asked again several times by then.
    std::thread::sleep(Duration::from_secs(2));
    let log = cluster.kubectl(&["logs", "asking"])?;
    ensure!(log.lines().next_back() == Some("old"), "a pod that still serves has lost its socket:\n{log}");
    // Another daemon knows of it, too.
    cluster.nodes()[0].node.kill()?;
    cluster.nodes()[0].start_node()?;
    cluster.kubectl(&["exec", "old", "--", "busybox", "touch", "/tmp/end"])?;
    let log = heard("new")?;
    ensure!(!log.contains("unreachable") && !log.contains("No route"), "the socket was left to itself first:\n{log}");
    Ok(())
}
