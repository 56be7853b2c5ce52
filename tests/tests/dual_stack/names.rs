//! Cluster DNS, of both families and over both.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use skep_tests::cluster::{LIMIT, Shape, TestCluster};
use xtask::wait;

use crate::{apply_webs, families, ips};

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: { name: both }
spec:
  ipFamilyPolicy: RequireDualStack
  selector: { app: web }
  ports: [{ name: http, port: 80, targetPort: 8080 }]
---
apiVersion: v1
kind: Service
metadata: { name: headless }
spec:
  clusterIP: None
  ipFamilyPolicy: RequireDualStack
  selector: { app: web }
  ports: [{ name: http, port: 8080 }]
";

/// What busybox's resolver answers in a pod, without the lines about the server.
fn ask(cluster: &TestCluster, kind: &str, name: &str, server: IpAddr) -> String {
    let line = format!("busybox nslookup -type={kind} {name} {server} 2>&1; true");
    let said = cluster.kubectl(&["exec", "web-1", "--", "busybox", "sh", "-c", &line]);
    let said = said.unwrap_or_else(|error| format!("{error:#}"));
    said.split_once("\n\n").map_or(said.clone(), |(_, answer)| answer.to_owned())
}

/// The name under which an address is asked about.
fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let nibbles = address.octets().into_iter().flat_map(|octet| [octet >> 4, octet & 15]);
            let mut labels: Vec<String> = nibbles.map(|nibble| format!("{nibble:x}")).collect();
            labels.reverse();
            format!("{}.ip6.arpa", labels.join("."))
        }
    }
}

#[test]
fn names_have_addresses_of_both_families_and_are_asked_over_both() -> Result<()> {
    let cluster = TestCluster::start_shape(&Shape::dual_stack(2))?;
    let webs = apply_webs(&cluster)?;
    cluster.apply(SERVICES)?;
    let dns = ips(&cluster, &["-n", "kube-system", "service", "kube-dns"], "{.spec.clusterIPs[*]}")?;
    ensure!(families(&dns) == "46", "kube-dns has {dns:?}");
    let resolv = cluster.kubectl(&["exec", "web-1", "--", "busybox", "cat", "/etc/resolv.conf"])?;
    let servers: Vec<&str> = resolv.lines().filter_map(|line| line.strip_prefix("nameserver ")).collect();
    ensure!(servers == [dns[0].to_string()], "{resolv}");

    let both = ips(&cluster, &["service", "both"], "{.spec.clusterIPs[*]}")?;
    let name = |label: &str| format!("{label}.default.svc.cluster.local");
    let all = |index: usize| -> Vec<IpAddr> { webs.iter().map(|web| web.addresses[index]).collect() };
    for server in &dns {
        for (kind, index) in [("a", 0), ("aaaa", 1)] {
            for (label, expected) in
                [("both", vec![both[index]]), ("headless", all(index)), ("web-2.headless", vec![all(index)[1]])]
            {
                wait::until(&format!("{kind} of {label} asked of {server}"), LIMIT, || {
                    let said = ask(&cluster, kind, &name(label), *server);
                    let missing = expected.iter().find(|address| !said.contains(&format!("Address: {address}\n")));
                    ensure!(missing.is_none(), "{missing:?} is missing in {said}");
                    let other = if index == 0 { webs[0].addresses[1] } else { webs[0].addresses[0] };
                    ensure!(!said.contains(&other.to_string()), "of the other family: {said}");
                    Ok(())
                })?;
            }
        }
        for (address, expected) in [
            (both[0], name("both")),
            (both[1], name("both")),
            (all(0)[1], name("web-2.headless")),
            (all(1)[1], name("web-2.headless")),
        ] {
            wait::until(&format!("the name of {address} asked of {server}"), LIMIT, || {
                let said = ask(&cluster, "ptr", &reverse(address), *server);
                ensure!(said.contains(&format!("name = {expected}")), "{said}");
                Ok(())
            })?;
        }
        // An address of the Service range that nobody has is denied, and asked of nobody else.
        let nobody: IpAddr = if server.is_ipv4() { "10.112.77.77".parse()? } else { "fd00:112::7777".parse()? };
        let said = ask(&cluster, "ptr", &reverse(nobody), *server);
        ensure!(said.contains("NXDOMAIN"), "{said}");
    }
    // With the search paths and both families at once, as programs ask.
    let said = cluster.kubectl(&["exec", "web-1", "--", "toolbox", "get", "web-2.headless:8080"])?;
    ensure!(said.trim() == "web-2", "{said}");
    Ok(())
}
