//! What a load balancer's status and source ranges mean for who is inside: `ipMode` (KEP-1860) and
//! `ServiceSpec.loadBalancerSourceRanges`. The client outside is the load balancer, too, and has its addresses.

use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use skep_tests::cluster::{LIMIT, Shape, TestCluster};
use xtask::command::output;
use xtask::wait;

const BALANCER: &str = "10.111.0.100";

/// Addresses by what their Services say.
const VIP: &str = "203.0.113.10";
const PROXY: &str = "203.0.113.11";
const FOR_PODS: &str = "203.0.113.12";
const FOR_NOBODY: &str = "203.0.113.13";

/// Name, address, `ipMode`, source ranges.
const SERVICES: [(&str, &str, &str, &str); 4] = [
    ("vip", VIP, "VIP", ""),
    ("proxy", PROXY, "Proxy", ""),
    ("for-pods", FOR_PODS, "VIP", "10.113.0.0/16"),
    ("for-nobody", FOR_NOBODY, "VIP", "192.0.2.0/24"),
];

#[test]
fn inside_a_balancers_address_is_the_service_or_the_balancer_as_its_status_says() -> Result<()> {
    let cluster = TestCluster::start_shape(&Shape::nodes(1))?;
    let node = cluster.nodes()[0];
    let mut manifest = String::new();
    for pod in ["web", "client"] {
        manifest += &format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{ name: {pod}, labels: {{ app: {pod} }} }}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{{ name: web, image: 'localhost/skep/toolbox:1', command: [toolbox, serve, '8080'] }}]
"
        );
    }
    for (name, _, _, ranges) in SERVICES {
        manifest += &format!(
            "---
apiVersion: v1
kind: Service
metadata: {{ name: {name} }}
spec:
  type: LoadBalancer
  selector: {{ app: web }}
  loadBalancerSourceRanges: [{ranges}]
  ports: [{{ port: 80, targetPort: 8080 }}]
"
        );
    }
    cluster.apply(&manifest)?;
    cluster.wait_ready_pods("app in (web, client)", 2)?;
    let outside = cluster.outside()?;
    for (name, address, mode, _) in SERVICES {
        let status =
            format!(r#"{{"status":{{"loadBalancer":{{"ingress":[{{"ip":"{address}","ipMode":"{mode}"}}]}}}}}}"#);
        cluster.kubectl(&["patch", "service", name, "--subresource=status", "--type=merge", "-p", &status])?;
        outside.ip(&["addr", "add", &format!("{address}/32"), "dev", "lo"])?;
    }
    output(node.on_machine("ip").args(["route", "add", "203.0.113.0/24", "via", BALANCER]))?;
    outside.ip(&["route", "add", "10.113.0.0/16", "via", "10.111.0.1"])?;
    let _balancer = Running::start(cluster.outside_toolbox(&["serve", "80", "balancer"])?)?;

    let from_pod = |address: &str| {
        let ask = ["exec", "client", "--", "busybox", "timeout", "5", "toolbox", "get", &format!("{address}:80")];
        cluster.kubectl(&ask).map(|answer| answer.trim().to_owned())
    };
    let from_node = |address: &str| cluster.ask(&format!("{address}:80"));
    let hear = |what: &str, ask: &dyn Fn(&str) -> Result<String>, address: &str, expected: &str| {
        wait::until(&format!("{expected} at {address}, asked by {what}"), LIMIT, || {
            let answer = ask(address)?;
            ensure!(answer == expected, "the answer is {answer:?}");
            Ok(())
        })
    };
    // KEP-1860: `VIP` is served where it is asked, `Proxy` is left to the balancer.
    hear("a pod", &from_pod, VIP, "web")?;
    hear("the node", &from_node, VIP, "web")?;
    hear("a pod", &from_pod, PROXY, "balancer")?;
    hear("the node", &from_node, PROXY, "balancer")?;
    // Source ranges are not asked of who is inside. That differs: upstream's proxy asks them of everybody who names that address
    // (pkg/proxy/iptables/proxier.go, the firewall chain); a socket has no source address yet when it is translated.
    for address in [FOR_PODS, FOR_NOBODY] {
        hear("a pod", &from_pod, address, "web")?;
        hear("the node", &from_node, address, "web")?;
    }
    // Outside they are, at the node as well as past it: that is tests/services, outside.rs.
    Ok(())
}

/// Ends with the test.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Result<Self> {
        Ok(Self(command.stdout(Stdio::null()).spawn().context("cannot start the balancer")?))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
