//! A pod whose connected UDP socket speaks to a pod that goes.

use anyhow::{Result, ensure};
use skep_tests::cluster::{LIMIT, Shape, TestCluster};
use xtask::wait;

use crate::{service, web};

#[test]
fn a_connected_datagram_socket_moves_on_when_its_pod_is_deleted() -> Result<()> {
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
    cluster.apply(&[web(&cluster, "old", "web", 2), service("web", "web", "clusterIP: 10.112.0.50")].concat())?;
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
    cluster.kubectl(&["delete", "pod", "old"])?;
    let log = heard("new")?;
    ensure!(!log.contains("unreachable") && !log.contains("No route"), "the socket was left to itself first:\n{log}");
    Ok(())
}
