//! Names, as pods see them: asked with busybox's resolver from within pods of a whole cluster.
#![allow(clippy::disallowed_methods, reason = "these tests have no runtime: they may sleep")]

use anyhow::{Result, ensure};
use skep_tests::cluster::{LIMIT, TestCluster};
use xtask::wait;

const PODS: &str = "
apiVersion: v1
kind: Service
metadata: { name: db }
spec:
  clusterIP: None
  selector: { app: db }
  ports: [{ name: http, port: 8080 }]
---
apiVersion: v1
kind: Service
metadata: { name: out }
spec: { type: ExternalName, externalName: kubernetes.default.svc.cluster.local }
---
apiVersion: v1
kind: Pod
metadata: { name: db-0, labels: { app: db } }
spec:
  hostname: db-0
  subdomain: db
  terminationGracePeriodSeconds: 1
  containers: [{ name: a, image: 'localhost/skep/toolbox:1', command: [busybox, sleep, '3600'] }]
---
apiVersion: v1
kind: Pod
metadata: { name: host, labels: { app: host } }
spec:
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  terminationGracePeriodSeconds: 1
  containers: [{ name: a, image: 'localhost/skep/toolbox:1', command: [busybox, sleep, '3600'] }]
";

#[test]
fn pods_resolve_the_names_of_services_and_of_each_other() -> Result<()> {
    let cluster = TestCluster::start()?;
    let dns = cluster.get(&["--namespace=kube-system", "service", "kube-dns"], "{.spec.clusterIP}")?;
    ensure!(dns == "10.112.0.10", "kube-dns has {dns}");
    cluster.apply(PODS)?;
    cluster.wait_ready_pods("app=db", 1)?;
    cluster.wait_ready_pods("app=host", 1)?;
    let pod_ip = cluster.get(&["pod", "db-0"], "{.status.podIP}")?;
    let api = cluster.get(&["service", "kubernetes"], "{.spec.clusterIP}")?;
    let resolv = cluster.kubectl(&["exec", "db-0", "--", "busybox", "cat", "/etc/resolv.conf"])?;
    ensure!(resolv.contains(&format!("nameserver {dns}")), "{resolv}");

    // With the search paths that the kubelet wrote.
    let heard = cluster.kubectl(&["exec", "db-0", "--", "busybox", "ping", "-c1", "-W1", "db-0.db"])?;
    ensure!(heard.contains(&pod_ip), "{heard}");

    for pod in ["db-0", "host"] {
        for (name, expected) in [
            ("kubernetes.default.svc.cluster.local", api.as_str()),
            ("KUBERNETES.default.SVC.cluster.local", &api),
            ("kube-dns.kube-system.svc.cluster.local", &dns),
            ("db-0.db.default.svc.cluster.local", &pod_ip),
            ("db.default.svc.cluster.local", &pod_ip),
            ("out.default.svc.cluster.local", &api),
        ] {
            resolves(&cluster, pod, &["-type=a", name], expected)?;
        }
        resolves(&cluster, pod, &["-type=ptr", &reverse(&pod_ip)], "db-0.db.default.svc.cluster.local")?;
        resolves(&cluster, pod, &["-type=ptr", &reverse(&api)], "kubernetes.default.svc.cluster.local")?;
        let srv = "_http._tcp.db.default.svc.cluster.local";
        resolves(&cluster, pod, &["-type=srv", srv], "8080 db-0.db.default.svc.cluster.local")?;
        let dashed = pod_ip.replace('.', "-");
        resolves(&cluster, pod, &["-type=a", &format!("{dashed}.default.pod.cluster.local")], &pod_ip)?;
    }

    // A change is seen; what is gone is denied.
    let other = "{\"spec\":{\"externalName\":\"kube-dns.kube-system.svc.cluster.local\"}}";
    cluster.kubectl(&["patch", "service", "out", "--patch", other])?;
    resolves(&cluster, "db-0", &["-type=a", "out.default.svc.cluster.local"], &dns)?;
    cluster.kubectl(&["delete", "service", "db"])?;
    wait::until("the end of a name", LIMIT, || {
        let said = ask(&cluster, "db-0", &["-type=a", "db.default.svc.cluster.local"]);
        ensure!(said.contains("NXDOMAIN"), "{said}");
        Ok(())
    })
}

/// The name under which an IPv4 address is asked about.
fn reverse(address: &str) -> String {
    let octets: Vec<&str> = address.rsplit('.').collect();
    format!("{}.in-addr.arpa", octets.join("."))
}

/// Waits until a pod hears this.
fn resolves(cluster: &TestCluster, pod: &str, question: &[&str], expected: &str) -> Result<()> {
    wait::until(&format!("{question:?} in pod {pod}"), LIMIT, || {
        let said = ask(cluster, pod, question);
        // The server itself is named first.
        let answer = said.split_once("\n\n").map_or("", |(_, answer)| answer);
        ensure!(answer.contains(expected), "expected {expected}, heard {said}");
        Ok(())
    })
}

/// What busybox's resolver prints, also when there is no such name.
fn ask(cluster: &TestCluster, pod: &str, question: &[&str]) -> String {
    let line = format!("busybox nslookup {} 2>&1; true", question.join(" "));
    cluster.kubectl(&["exec", pod, "--", "busybox", "sh", "-c", &line]).unwrap_or_else(|error| format!("{error:#}"))
}
