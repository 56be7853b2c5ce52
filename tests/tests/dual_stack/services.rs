//! Services of each policy, at each of their addresses.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use skep_tests::cluster::{LIMIT, Shape, TestCluster};
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
    cluster.apply(&service("out", "type: NodePort\n  ipFamilyPolicy: RequireDualStack"))?;
    let ports = cluster.get(&["service", "out"], "{.spec.ports[*].nodePort}")?;
    let (tcp, udp) = ports.split_once(' ').with_context(|| format!("node ports are {ports:?}"))?;
    let (tcp, udp): (u16, u16) = (tcp.parse()?, udp.parse()?);
    for number in 1..=2 {
        for address in [IpAddr::from(shape.address(number)), shape.address6(number).into()] {
            for (how, target) in [("get", at(address, tcp)), ("udp", at(address, udp))] {
                let what = format!("{target} ({how}) from outside");
                wait_said(&what, "web-2", || cluster.outside_toolbox(&[how, &target]))?;
            }
            // And from inside.
            let target = at(address, tcp);
            wait_said(&format!("{target} from web-1"), "web-2", || Ok(in_pod(&cluster, "web-1", &["get", &target])))?;
        }
    }
    Ok(())
}
