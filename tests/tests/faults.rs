//! One process at a time is killed: pods keep running, VIPs keep answering, nothing acknowledged is lost.
#![allow(clippy::disallowed_methods, reason = "these tests have no runtime: they may sleep")]

use std::time::Duration;

use anyhow::{Result, ensure};
use skep_tests::cluster::{LIMIT, TestCluster};
use xtask::{process, wait};

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: { name: web }
spec:
  replicas: 2
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      terminationGracePeriodSeconds: 5
      containers:
        - { name: web, image: 'localhost/skep/toolbox:1', command: [toolbox, serve] }
---
apiVersion: v1
kind: Service
metadata: { name: web }
spec: { selector: { app: web }, ports: [{ port: 80, targetPort: 8080 }] }
";

/// A cluster with a service of two pods, and that service's address.
fn serving() -> Result<(TestCluster, String)> {
    let cluster = TestCluster::start()?;
    cluster.apply(WEB)?;
    let pods = cluster.wait_ready_pods("app=web", 2)?;
    let address = format!("{}:80", cluster.get(&["service", "web"], "{.spec.clusterIP}")?);
    cluster.wait_answers(&address, &pods)?;
    Ok((cluster, address))
}

/// After the fault: the same pods run, and the cluster still does its work.
fn still_works(cluster: &TestCluster, address: &str, pods: &[String]) -> Result<()> {
    let mut now = cluster.wait_ready_pods("app=web", 2)?;
    now.sort();
    ensure!(now == pods, "the pods were replaced: {pods:?} became {now:?}");
    cluster.kubectl(&["scale", "deployment/web", "--replicas=3"])?;
    let pods = cluster.wait_ready_pods("app=web", 3)?;
    cluster.wait_answers(address, &pods)
}

fn sorted_pods(cluster: &TestCluster) -> Result<Vec<String>> {
    let mut pods = cluster.ready_pods("app=web")?;
    pods.sort();
    Ok(pods)
}

#[test]
fn a_killed_server_loses_nothing_it_acknowledged() -> Result<()> {
    let (cluster, address) = serving()?;
    let pods = sorted_pods(&cluster)?;
    let hammer = cluster.hammer(&address)?;
    let mut acknowledged = Vec::new();
    for number in 0..20 {
        let name = format!("cm-{number}");
        cluster.kubectl(&["create", "configmap", &name, "--from-literal=a=b"])?;
        acknowledged.push(name);
    }
    cluster.parts().server.kill()?;
    ensure!(cluster.kubectl(&["get", "pods"]).is_err(), "a killed server answered");
    cluster.parts().start_server()?;
    let there = cluster.get(&["configmaps"], "{.items[*].metadata.name}")?;
    for name in acknowledged {
        ensure!(there.split(' ').any(|found| found == name), "{name} is lost: {there}");
    }
    still_works(&cluster, &address, &pods)?;
    let heard = hammer.stop()?;
    ensure!(heard.errors.is_empty(), "the VIP failed meanwhile: {:?}", heard.errors);
    Ok(())
}

#[test]
fn without_etcd_requests_fail_with_a_clear_error_and_recover_by_themselves() -> Result<()> {
    let (cluster, address) = serving()?;
    let pods = sorted_pods(&cluster)?;
    let hammer = cluster.hammer(&address)?;
    // Stopped, not killed: the server would start a new one at once.
    let etcd = cluster.etcd_pid()?;
    let signal = |signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(etcd), signal);
    signal(nix::sys::signal::Signal::SIGSTOP)?;
    let refused = cluster.kubectl(&["create", "configmap", "never", "--from-literal=a=b", "--request-timeout=40s"]);
    let error = format!("{:#}", refused.err().unwrap_or_else(|| anyhow::anyhow!("it was acknowledged")));
    signal(nix::sys::signal::Signal::SIGCONT)?;
    ensure!(
        ["ServiceUnavailable", "Timeout", "etcdserver", "unable to handle", "timed out"]
            .iter()
            .any(|word| error.contains(word)),
        "without etcd kubectl said: {error}"
    );
    wait::until("writes work again", LIMIT, || {
        cluster.kubectl(&["create", "configmap", "again", "--from-literal=a=b", "--dry-run=server"]).map(drop)
    })?;

    process::end(cluster.etcd_pid()?);
    wait::until("a new etcd serves", LIMIT, || {
        cluster.kubectl(&["create", "configmap", "after", "--from-literal=a=b"]).map(drop)
    })?;
    still_works(&cluster, &address, &pods)?;
    let heard = hammer.stop()?;
    ensure!(heard.errors.is_empty(), "the VIP failed meanwhile: {:?}", heard.errors);
    Ok(())
}

#[test]
fn a_killed_containerd_takes_no_pod_with_it() -> Result<()> {
    let (cluster, address) = serving()?;
    let pods = sorted_pods(&cluster)?;
    let hammer = cluster.hammer(&address)?;
    cluster.parts().containerd.daemon.kill()?;
    std::thread::sleep(Duration::from_secs(2));
    cluster.parts().start_containerd()?;
    still_works(&cluster, &address, &pods)?;
    let heard = hammer.stop()?;
    ensure!(heard.errors.is_empty(), "the VIP failed meanwhile: {:?}", heard.errors);
    Ok(())
}

#[test]
fn what_happened_while_the_node_daemon_was_dead_is_made_up_for() -> Result<()> {
    let (cluster, address) = serving()?;
    cluster.parts().node.kill()?;
    cluster.kubectl(&["scale", "deployment/web", "--replicas=1"])?;
    cluster.kubectl(&["run", "late", "--image=localhost/skep/toolbox:1"])?;
    cluster.parts().start_node()?;
    let pods = cluster.wait_ready_pods("app=web", 1)?;
    cluster.wait_ready_pods("run=late", 1)?;
    cluster.wait_answers(&address, &pods)
}

#[test]
fn a_node_whose_lease_is_old_becomes_unknown_and_comes_back() -> Result<()> {
    let (cluster, _) = serving()?;
    let node = cluster.parts().spec().name.clone();
    let ready = || cluster.get(&["node", &node], "{.status.conditions[?(@.type=='Ready')].status}");
    cluster.parts().node.kill()?;
    // 40 s of silence, and a round of the controller.
    wait::until("Ready Unknown", Duration::from_secs(90), || {
        ensure!(ready()? == "Unknown", "Ready is {}", ready()?);
        Ok(())
    })?;
    let taints = cluster.get(&["node", &node], "{.spec.taints[*].key}")?;
    ensure!(taints.contains("node.kubernetes.io/unreachable"), "taints: {taints}");
    cluster.parts().start_node()?;
    wait::until("no taint is left", LIMIT, || {
        let taints = cluster.get(&["node", &node], "{.spec.taints[*].key}")?;
        ensure!(taints.is_empty(), "taints: {taints}");
        Ok(())
    })
}
