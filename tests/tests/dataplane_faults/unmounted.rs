//! The BPF file system goes while the daemon works.

use anyhow::{Result, ensure};
use nix::mount::{MntFlags, umount2};
use skep_tests::cluster::{LIMIT, Shape, TestCluster};
use skep_tests::hammer::Hammer;
use xtask::wait;

use crate::{pod, service, wait_node_hears, wait_outside_hears};

const VIP: &str = "10.112.0.60:80";
const NODE_PORT: &str = "10.111.0.1:30560";

/// Nobody but their node may ask these pods.
const SHUT: &str = "---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: shut }
spec: { podSelector: { matchLabels: { app: shut } }, policyTypes: [Ingress] }
";

/// Another pod gets no answer there.
fn is_shut(cluster: &TestCluster, pod: &str) -> Result<()> {
    let address = cluster.get(&["pod", pod], "{.status.podIP}")?;
    let ask = ["exec", "web", "--", "busybox", "timeout", "2", "toolbox", "get", &format!("{address}:8080")];
    let asked = cluster.kubectl(&ask);
    // 143: the signal of `timeout`.
    let silent = asked.as_ref().is_err_and(|error| format!("{error:#}").contains("exit code 143"));
    ensure!(silent, "{pod} answers {asked:?}");
    Ok(())
}

#[test]
fn a_node_serves_on_without_its_bpf_file_system_and_a_new_daemon_mounts_another() -> Result<()> {
    let cluster = TestCluster::start_shape(&Shape { own_bpffs: true, ..Shape::nodes(1) })?;
    let manifest = [
        pod(&cluster, "web", "web", 1, "serve"),
        pod(&cluster, "shut", "shut", 1, "serve"),
        service("web", "web", "10.112.0.60", 30_560),
        SHUT.to_owned(),
    ];
    cluster.apply(&manifest.concat())?;
    cluster.wait_ready_pods("app in (web, shut)", 2)?;
    wait::until("the first pod is shut", LIMIT, || is_shut(&cluster, "shut"))?;
    let node = cluster.nodes()[0];
    let root = &node.spec().bpf_root;
    wait_node_hears(&cluster, node, VIP, "web")?;
    wait_outside_hears(&cluster, NODE_PORT, "web")?;
    let hammers = [
        ("inside", Hammer::start(cluster.toolbox_on(node, &["hammer", VIP]))?),
        ("outside", Hammer::start(cluster.outside_toolbox(&["hammer", NODE_PORT])?)?),
    ];
    // As `umount -l`: the daemon has a folder of it open.
    umount2(root, MntFlags::MNT_DETACH)?;
    ensure!(std::fs::read_dir(root)?.next().is_none(), "pins are still there");
    wait::until("the daemon says what is wrong", LIMIT * 2, || {
        let log = node.node.log_tail(400);
        ensure!(log.contains("pins are gone"), "it does not");
        Ok(())
    })?;
    // Programs and maps are the daemon's, not the file system's: what is new is served, too.
    cluster.apply(&pod(&cluster, "more", "web", 1, "serve"))?;
    cluster.wait_ready_pods("app=web", 2)?;
    wait_node_hears(&cluster, node, VIP, "more")?;
    wait_outside_hears(&cluster, NODE_PORT, "more")?;
    cluster.apply(&pod(&cluster, "late", "shut", 1, "serve"))?;
    cluster.wait_ready_pods("app=shut", 2)?;
    for pod in ["shut", "late"] {
        is_shut(&cluster, pod)?;
    }
    for (what, hammer) in hammers {
        let heard = hammer.stop()?;
        ensure!(heard.errors.is_empty() && heard.answers.contains_key("web"), "{what}: {heard:?}");
    }

    node.node.kill()?;
    node.start_node()?;
    ensure!(std::fs::read_dir(root)?.next().is_some(), "nothing is pinned anew");
    for pod in ["web", "more"] {
        wait_node_hears(&cluster, node, VIP, pod)?;
        wait_outside_hears(&cluster, NODE_PORT, pod)?;
    }
    Ok(())
}
