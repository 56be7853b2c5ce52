//! Services of each policy, at each of their addresses.

use std::fs::File;
use std::net::IpAddr;
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, ensure};
use skep_tests::cluster::{LIMIT, Shape, TestCluster};
use xtask::command::output;
use xtask::wait;

use crate::{Web, apply_webs, at, families, in_pod, ips, wait_said};

/// A Service `name` of the pod `web-2` alone, so that who answers is known.
fn service(name: &str, more: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{ name: {name} }}
spec:
  selector: {{ name: web-2 }}
  {more}
  ports:
    - {{ name: http, port: 80, targetPort: 8080 }}
    - {{ name: ask, port: 80, targetPort: 8080, protocol: UDP }}
"
    )
}

fn cluster_ips(cluster: &TestCluster, name: &str) -> Result<Vec<IpAddr>> {
    ips(cluster, &["service", name], "{.spec.clusterIPs[*]}")
}

/// Pods and processes of both nodes hear `web-2` at each address of the Service.
fn answers(cluster: &TestCluster, webs: &[Web], addresses: &[IpAddr]) -> Result<()> {
    for target in addresses.iter().map(|address| at(*address, 80)) {
        for how in ["get", "udp"] {
            for web in webs {
                let what = format!("{target} ({how}) from {}", web.name);
                wait_said(&what, "web-2", || Ok(in_pod(cluster, &web.name, &[how, &target])))?;
            }
            for node in cluster.nodes() {
                let what = format!("{target} ({how}) from node {}", node.spec().name);
                wait_said(&what, "web-2", || Ok(cluster.toolbox_on(node, &[how, &target])))?;
            }
        }
    }
    Ok(())
}

const MORE: &str = "
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: { name: more }
spec: { cidrs: [10.114.0.0/24, 'fd00:114::/112'] }
";

/// Whether addresses of the ranges of [`MORE`] lead nowhere on every node.
fn wait_closed(cluster: &TestCluster, expected: bool) -> Result<()> {
    wait::until(&format!("the further ranges closed: {expected}"), LIMIT, || {
        for node in cluster.nodes() {
            for (family, range) in [("-4", "10.114.0.0/24"), ("-6", "fd00:114::/112")] {
                let routes = output(node.on_machine("ip").args([family, "route", "show", "type", "unreachable"]))?;
                ensure!(routes.contains(range) == expected, "{} has {routes}", node.spec().name);
            }
        }
        Ok(())
    })
}

#[test]
fn addresses_of_ranges_that_came_later_are_served_and_never_leave_the_node() -> Result<()> {
    let cluster = TestCluster::start_shape(&Shape::dual_stack(2))?;
    let webs = apply_webs(&cluster)?;
    cluster.apply(MORE)?;
    wait_closed(&cluster, true)?;
    let ready = "{.status.conditions[?(@.type=='Ready')].status}";
    wait::until("the range is ready", LIMIT, || {
        ensure!(cluster.get(&["servicecidr", "more"], ready)? == "True", "not yet");
        Ok(())
    })?;
    let ips: [IpAddr; 2] = ["10.114.0.7".parse()?, "fd00:114::7".parse()?];
    let [v4, v6] = ips;
    let spec = format!("ipFamilyPolicy: RequireDualStack\n  clusterIP: {v4}\n  clusterIPs: ['{v4}', '{v6}']");
    cluster.apply(&service("later", &spec))?;
    answers(&cluster, &webs, &ips)?;
    cluster.kubectl(&["delete", "service", "later"])?;
    for address in ips {
        is_refused(&cluster, "web-1", address)?;
    }
    cluster.kubectl(&["delete", "servicecidr", "more"])?;
    wait_closed(&cluster, false)
}

/// Nobody is at the addresses any more, and that is said at once.
fn is_refused(cluster: &TestCluster, pod: &str, address: IpAddr) -> Result<()> {
    let target = at(address, 80);
    wait::until(&format!("{target} refused"), LIMIT, || {
        let done = in_pod(cluster, pod, &["get", &target]).output()?;
        let said = String::from_utf8_lossy(&done.stderr).to_lowercase();
        let refused = ["refused", "no route to host", "unreachable"].iter().any(|word| said.contains(word));
        ensure!(!done.status.success() && refused, "{said}");
        Ok(())
    })
}

#[test]
fn services_of_each_policy_answer_at_each_of_their_addresses() -> Result<()> {
    let shape = Shape::dual_stack(2);
    let cluster = TestCluster::start_shape(&shape)?;
    let webs = apply_webs(&cluster)?;
    let kinds = [
        ("plain", "", "4"),
        ("single-6", "ipFamilyPolicy: SingleStack\n  ipFamilies: [IPv6]", "6"),
        ("prefer", "ipFamilyPolicy: PreferDualStack", "46"),
        ("require-6", "ipFamilyPolicy: RequireDualStack\n  ipFamilies: [IPv6, IPv4]", "64"),
    ];
    cluster.apply(&kinds.map(|(name, more, _)| service(name, more)).concat())?;
    for (name, _, expected) in kinds {
        let addresses = cluster_ips(&cluster, name)?;
        ensure!(families(&addresses) == expected, "{name} has {addresses:?}");
        answers(&cluster, &webs, &addresses)?;
    }

    // Two families, and back.
    cluster.kubectl(&["patch", "service", "plain", "-p", r#"{"spec":{"ipFamilyPolicy":"PreferDualStack"}}"#])?;
    let both = cluster_ips(&cluster, "plain")?;
    ensure!(families(&both) == "46", "plain has {both:?}");
    answers(&cluster, &webs, &both)?;
    cluster.kubectl(&["patch", "service", "plain", "-p", r#"{"spec":{"ipFamilyPolicy":"SingleStack"}}"#])?;
    let one = cluster_ips(&cluster, "plain")?;
    ensure!(one == both[..1], "plain has {one:?}");
    is_refused(&cluster, "web-1", both[1])?;
    answers(&cluster, &webs, &one)?;

    cluster.kubectl(&["delete", "service", "require-6"])?;
    Ok(())
}

#[test]
fn node_ports_answer_the_outside_over_both_families() -> Result<()> {
    let shape = Shape::dual_stack(2);
    let cluster = TestCluster::start_shape(&shape)?;
    apply_webs(&cluster)?;
    let (tcp, _) = ask_node_ports(&cluster, &shape, &[1, 2])?;
    // And from inside.
    for number in 1..=2 {
        for address in [IpAddr::from(shape.address(number)), shape.address6(number).into()] {
            let target = at(address, tcp);
            wait_said(&format!("{target} from web-1"), "web-2", || Ok(in_pod(&cluster, "web-1", &["get", &target])))?;
        }
    }
    Ok(())
}

/// The client outside hears `web-2` at node ports (TCP, UDP) of those nodes, over both families.
pub(crate) fn ask_node_ports(cluster: &TestCluster, shape: &Shape, nodes: &[usize]) -> Result<(u16, u16)> {
    cluster.apply(&service("out", "type: NodePort\n  ipFamilyPolicy: RequireDualStack"))?;
    let ports = cluster.get(&["service", "out"], "{.spec.ports[*].nodePort}")?;
    let (tcp, udp) = ports.split_once(' ').with_context(|| format!("node ports are {ports:?}"))?;
    let (tcp, udp): (u16, u16) = (tcp.parse()?, udp.parse()?);
    for number in nodes {
        for address in [IpAddr::from(shape.address(*number)), shape.address6(*number).into()] {
            for (how, target) in [("get", at(address, tcp)), ("udp", at(address, udp))] {
                let what = format!("{target} ({how}) from outside");
                wait_said(&what, "web-2", || cluster.outside_toolbox(&[how, &target]))?;
            }
        }
    }
    Ok((tcp, udp))
}

#[test]
fn pods_ask_the_outside_as_their_node_over_both_families_and_each_other_as_themselves() -> Result<()> {
    let shape = Shape { node_flags: vec!["--masquerade".into(), "true".into()], ..Shape::dual_stack(2) };
    let cluster = TestCluster::start_shape(&shape)?;
    let log = cluster.parts().spec().data.join("outside.log");
    let mut serve = cluster.outside_toolbox(&["serve", "9000", "outside"])?;
    let _server = Server(serve.stdin(Stdio::null()).stdout(File::create(&log)?).spawn()?);
    let webs = apply_webs(&cluster)?;
    for (number, web) in (1..).zip(&webs) {
        for (outside, node) in [
            ("10.111.0.100:9000", shape.address(number).to_string()),
            ("[fd00:111::64]:9000", shape.address6(number).to_string()),
        ] {
            for how in ["udp", "get"] {
                let what = format!("{outside} ({how}) from {}", web.name);
                wait_said(&what, "outside", || Ok(in_pod(&cluster, &web.name, &[how, outside])))?;
            }
            let heard = std::fs::read_to_string(&log)?;
            let last = heard.lines().next_back().unwrap_or_default();
            ensure!(last.starts_with(&format!("{node} ")), "the outside heard from {last:?}, not {node}");
        }
    }
    // Pods see each other's own addresses.
    for (index, target) in webs[1].addresses.iter().enumerate() {
        wait_said("web-2", "web-2", || Ok(in_pod(&cluster, "web-1", &["get", &at(*target, 8080)])))?;
        let log = cluster.kubectl(&["logs", "web-2"])?;
        let last = log.lines().rfind(|line| line.ends_with(" GET / HTTP/1.1")).context("nobody has asked")?;
        ensure!(last.starts_with(&format!("{} ", webs[0].addresses[index])), "a pod is seen as {last:?}");
    }
    Ok(())
}

/// A server outside, ended with this.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Ended by the test's end, however that is.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
