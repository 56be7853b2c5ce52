//! Nobody answers for the API.

use std::time::Duration;

use anyhow::{Result, ensure};
use skep_tests::bench::load::Load;
use skep_tests::cluster::{LIMIT, Shape, TestCluster};
use skep_tests::hammer::Hammer;
use xtask::wait;

use crate::{flawless, nothing_mended, pod, service, wait_node_hears, wait_outside_hears};

const VIP: &str = "10.112.0.60:80";
const NODE_PORT: &str = "10.111.0.2:30560";

#[test]
fn services_outlive_the_api_server_and_a_daemon_that_starts_without_it() -> Result<()> {
    let cluster = TestCluster::start_shape(&Shape::nodes(2))?;
    let manifest = [
        pod(&cluster, "here", "web", 2, "serve"),
        pod(&cluster, "mirror", "mirror", 1, "mirror"),
        service("web", "web", "10.112.0.60", 30_560),
        service("mirror", "mirror", "10.112.0.61", 30_561),
    ];
    cluster.apply(&manifest.concat())?;
    cluster.wait_ready_pods("app in (web, mirror)", 2)?;
    let [first, second] = cluster.nodes()[..] else { anyhow::bail!("there are not two nodes") };
    wait_node_hears(&cluster, second, VIP, "here")?;
    wait_outside_hears(&cluster, NODE_PORT, "here")?;
    wait::until("the mirror answers", LIMIT, || {
        let ask = &["crr", "10.112.0.61:80", "1"];
        [second, first].into_iter().try_for_each(|node| {
            ensure!(cluster.toolbox_on(node, ask).output()?.status.success(), "it does not on {}", node.spec().name);
            Ok(())
        })
    })?;
    let streams = Load::run(cluster.toolbox_on(second, &["streams", "10.112.0.61:80", "4"]))?;
    let inside = Hammer::start(cluster.toolbox_on(second, &["hammer", VIP]))?;
    let outside = Hammer::start(cluster.outside_toolbox(&["hammer", NODE_PORT])?)?;

    first.server.kill()?;
    ensure!(cluster.kubectl(&["get", "pods", "--request-timeout=2s"]).is_err(), "a killed server answered");
    second.node.kill()?;
    second.spawn_node()?;
    // Long enough for it to try the API several times, and to have undone anything it does not know.
    std::thread::sleep(Duration::from_secs(15));
    second.node.check()?;
    wait_node_hears(&cluster, second, VIP, "here")?;
    first.start_server()?;
    second.wait_node_ready()?;

    // It follows what is new, and what is gone.
    cluster.apply(&pod(&cluster, "late", "web", 1, "serve"))?;
    cluster.wait_ready_pods("app=web", 2)?;
    wait_node_hears(&cluster, second, VIP, "late")?;
    wait_outside_hears(&cluster, NODE_PORT, "late")?;
    flawless("streams", streams)?;
    for (what, hammer) in [("inside", inside), ("outside", outside)] {
        let heard = hammer.stop()?;
        ensure!(heard.errors.is_empty(), "{what}: {:?}", heard.errors);
        ensure!(heard.answers.keys().eq(["here", "late"]), "{what}: {:?}", heard.answers);
    }

    // A server that is told to end resets what it has not accepted yet, so nobody asks it meanwhile.
    cluster.kubectl(&["delete", "pod", "here"])?;
    wait::until("the pod that is gone answers no more", LIMIT, || {
        let hammer = Hammer::start(cluster.toolbox_on(second, &["hammer", VIP]))?;
        std::thread::sleep(Duration::from_millis(300));
        let heard = hammer.stop()?;
        ensure!(heard.errors.is_empty() && heard.answers.keys().eq(["late"]), "{heard:?}");
        Ok(())
    })?;
    nothing_mended(&cluster)
}
