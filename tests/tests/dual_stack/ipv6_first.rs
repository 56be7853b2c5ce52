//! Clusters whose primary, or only, family is IPv6.

use anyhow::{Result, ensure};
use skep_tests::cluster::{Shape, TestCluster};

use crate::{Web, apply_webs, ask_everybody, at, families, in_pod, ips, wait_said};

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: { name: web }
spec:
  ipFamilyPolicy: PreferDualStack
  selector: { name: web-2 }
  ports: [{ port: 80, targetPort: 8080 }]
";

/// kubectl, pods, DNS and a Service of a cluster of two nodes whose families are `expected`.
fn works(shape: &Shape, expected: &str) -> Result<()> {
    let cluster = TestCluster::start_shape(shape)?;
    let api = ips(&cluster, &["service", "kubernetes"], "{.spec.clusterIPs[*]}")?;
    ensure!(families(&api) == "6", "the API server's Service has {api:?}");
    let webs = apply_webs(&cluster)?;
    for web in &webs {
        ensure!(families(&web.addresses) == expected, "{} has {:?}", web.name, web.addresses);
        let primary = cluster.get(&["pod", &web.name], "{.status.podIP}")?;
        ensure!(primary == web.addresses[0].to_string(), "its podIP is {primary}");
    }
    // The API server asks the nodes over IPv6.
    let log = cluster.kubectl(&["logs", "web-2"])?;
    ensure!(log.contains("serving as web-2"), "{log}");
    ask_everybody(&cluster, &webs)?;

    cluster.apply(SERVICE)?;
    let addresses = ips(&cluster, &["service", "web"], "{.spec.clusterIPs[*]}")?;
    ensure!(families(&addresses) == expected, "the Service has {addresses:?}");
    for target in addresses.iter().map(|address| at(*address, 80)).chain(["web.default.svc:80".to_owned()]) {
        for Web { name, .. } in &webs {
            wait_said(&format!("{target} from {name}"), "web-2", || Ok(in_pod(&cluster, name, &["get", &target])))?;
        }
    }
    let dns = ips(&cluster, &["-n", "kube-system", "service", "kube-dns"], "{.spec.clusterIPs[*]}")?;
    let resolv = cluster.kubectl(&["exec", "web-1", "--", "busybox", "cat", "/etc/resolv.conf"])?;
    ensure!(resolv.contains(&format!("nameserver {}\n", dns[0])) && dns[0].is_ipv6(), "{resolv}");
    Ok(())
}

#[test]
fn a_cluster_whose_first_family_is_ipv6_comes_up_and_works() -> Result<()> {
    works(
        &Shape {
            pod_cidr: "fd00:113::/56,10.113.0.0/16".into(),
            service_cidr: "fd00:112::/108,10.112.0.0/16".into(),
            ipv6_first: true,
            ..Shape::dual_stack(2)
        },
        "64",
    )
}

#[test]
fn a_cluster_of_ipv6_alone_comes_up_and_works() -> Result<()> {
    works(
        &Shape {
            pod_cidr: "fd00:113::/56".into(),
            service_cidr: "fd00:112::/108".into(),
            ipv6_first: true,
            ..Shape::dual_stack(2)
        },
        "6",
    )
}
