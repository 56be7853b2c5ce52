//! NetworkPolicy on a cluster of two nodes: who reaches whom, as upstream's `test/e2e/network/netpol` asks it.
#![allow(clippy::disallowed_methods, reason = "these tests have no runtime: they may sleep")]

mod direct;
mod net;

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use skep_tests::cluster::LIMIT;
use xtask::wait;

use crate::net::{CLIENTS, Killed, heard, patient, start};

const SERVER: &str = "podSelector: { matchLabels: { app: server } }";

#[test]
fn ingress_is_what_policies_of_the_pod_say() -> Result<()> {
    let net = start()?;
    let server = net.ip("nx/server")?;
    let (web, other) = (format!("{server}:8080"), format!("{server}:8090"));
    net.wait_reached(&web, "get", &CLIENTS, &CLIENTS)?;

    // should enforce 'default-deny-ingress' policy; the node and its probes are no clients.
    net.policy("deny", "{ podSelector: {}, policyTypes: [Ingress] }")?;
    net.wait_reached(&web, "get", &CLIENTS, &[])?;
    let mut monitor = net.skepctl_on(1, &["policy", "monitor", "--drops", "-o", "json"]);
    let mut monitor = Killed(monitor.stdout(Stdio::piped()).spawn()?);
    let told = BufReader::new(monitor.0.stdout.take().context("no output")?);
    ensure!(!net.reaches("ny/b", "udp", &web)?, "a datagram passed");
    let line = told.lines().next().context("the monitor ended")??;
    for word in
        [r#""verdict":"denied""#, r#""direction":"ingress""#, r#""pod":"nx/server""#, r#""destinationPort":8080"#]
    {
        ensure!(line.contains(word), "{word} is missing in {line}");
    }
    drop(monitor);
    ensure!(net.reaches("nx/a", "get", &format!("{}:8080", net.ip("ny/a")?))?, "egress is not its business");

    // PodSelector, in the policy's own namespace.
    let from = |peers: &str| format!("{{ {SERVER}, ingress: [{{ from: [{peers}] }}] }}");
    net.policy("allow", &from("{ podSelector: { matchLabels: { app: a } } }"))?;
    net.wait_reached(&web, "get", &CLIENTS, &["nx/a"])?;
    ensure!(net.reaches("nx/a", "udp", &web)?, "a rule without ports is for datagrams, too");

    // NamespaceSelector, and both in one peer; two peers are an "or".
    net.policy("allow", &from("{ namespaceSelector: { matchLabels: { team: ny } } }"))?;
    net.wait_reached(&web, "get", &CLIENTS, &["ny/a", "ny/b"])?;
    let both = "{ namespaceSelector: { matchExpressions: [{ key: team, operator: In, values: [ny] }] }, podSelector: { matchLabels: { app: b } } }";
    net.policy("allow", &from(both))?;
    net.wait_reached(&web, "get", &CLIENTS, &["ny/b"])?;
    net.policy("allow", &from(&format!("{both}, {{ podSelector: {{ matchLabels: {{ app: b }} }} }}")))?;
    net.wait_reached(&web, "get", &CLIENTS, &["nx/b", "ny/b"])?;

    // Labels of a namespace and of a pod change.
    net.cluster.kubectl(&["label", "namespace", "ny", "team=z", "--overwrite"])?;
    net.wait_reached(&web, "get", &CLIENTS, &["nx/b"])?;
    net.cluster.kubectl(&["label", "pod", "-n", "nx", "a", "app=b", "--overwrite"])?;
    net.wait_reached(&web, "get", &CLIENTS, &["nx/a", "nx/b"])?;
    net.cluster.kubectl(&["label", "pod", "-n", "nx", "a", "app=a", "--overwrite"])?;
    net.cluster.kubectl(&["label", "namespace", "ny", "team=ny", "--overwrite"])?;

    // Ports: a number, a name, a range; of one protocol.
    let ports = |ports: &str| format!("{{ {SERVER}, ingress: [{{ ports: [{ports}] }}] }}");
    net.policy("allow", &ports("{ port: 8090 }"))?;
    net.wait_reached(&other, "get", &CLIENTS, &CLIENTS)?;
    net.wait_reached(&web, "get", &["nx/a", "ny/a"], &[])?;
    ensure!(!net.reaches("nx/a", "udp", &other)?, "of one protocol only");
    net.policy("allow", &ports("{ port: web }"))?;
    net.wait_reached(&web, "get", &["nx/a", "ny/a"], &["nx/a", "ny/a"])?;
    net.wait_reached(&other, "get", &["nx/a", "ny/a"], &[])?;
    net.policy("allow", &ports("{ port: 8081, endPort: 8090 }, { port: 8080, protocol: UDP }"))?;
    net.wait_reached(&other, "get", &["nx/a", "ny/a"], &["nx/a", "ny/a"])?;
    net.wait_reached(&web, "get", &["nx/a", "ny/a"], &[])?;
    net.wait_reached(&web, "udp", &["nx/a", "ny/a"], &["nx/a", "ny/a"])?;

    // ipBlock with a hole.
    let (inside, hole) = (net.ip("ny/a")?, net.ip("ny/b")?);
    let block = format!("{{ ipBlock: {{ cidr: 10.113.0.0/16, except: [{hole}/32] }} }}");
    net.policy("allow", &from(&block))?;
    net.wait_reached(&web, "get", &CLIENTS, &["nx/a", "nx/b", "ny/a"])?;
    net.policy("allow", &from(&format!("{{ ipBlock: {{ cidr: {inside}/32 }} }}")))?;
    net.wait_reached(&web, "get", &CLIENTS, &["ny/a"])?;

    // Policies add up; and with the last one everything is as before.
    net.policy("more", &from("{ podSelector: { matchLabels: { app: b } } }"))?;
    net.wait_reached(&web, "get", &CLIENTS, &["nx/b", "ny/a"])?;
    ensure!(net.is_ready("nx/server")?, "probes were in the way of policies");
    for policy in ["allow", "more", "deny"] {
        net.delete_policy(policy)?;
    }
    net.wait_reached(&web, "get", &CLIENTS, &CLIENTS)
}

#[test]
fn egress_is_what_policies_of_the_pod_say() -> Result<()> {
    let net = start()?;
    net.cluster.apply(
        "
apiVersion: v1
kind: Service
metadata: { name: b, namespace: ny }
spec:
  selector: { app: b }
  ports: [{ port: 80, targetPort: 8080 }]
",
    )?;
    let at = |pod: &str, port: u16| Ok::<_, anyhow::Error>(format!("{}:{port}", net.ip(pod)?));
    let (near, far, own) = (at("ny/b", 8080)?, at("ny/a", 8080)?, at("nx/server", 8080)?);
    let service = format!("{}:80", net.cluster.get(&["service", "-n", "ny", "b"], "{.spec.clusterIP}")?);
    net.wait_reached(&service, "get", &["nx/a"], &["nx/a"])?;

    // should deny egress from pods based on PodSelector; who is asked may answer; the own node stays.
    net.policy("egress", "{ podSelector: { matchLabels: { app: a } }, policyTypes: [Egress] }")?;
    for target in [&near, &far, &service] {
        net.wait_reached(target, "get", &["nx/a", "nx/b"], &["nx/b"])?;
    }
    net.wait_reached(&at("nx/a", 8080)?, "get", &["nx/b", "ny/a", "ny/b"], &["nx/b", "ny/a", "ny/b"])?;
    net.wait_reached(&at("nx/a", 8080)?, "udp", &["nx/b", "ny/b"], &["nx/b", "ny/b"])?;
    ensure!(net.is_ready("nx/a")?, "probes are answered");
    ensure!(net.reaches("nx/a", "get", "10.111.0.1:10256").is_err(), "the node answers, if not to `GET /`");

    // To pods of a namespace at a port; a Service's address is what its pods' are.
    let to = |peers: &str, ports: &str| {
        format!(
            "{{ podSelector: {{ matchLabels: {{ app: a }} }}, policyTypes: [Egress], egress: [{{ to: [{peers}], ports: [{ports}] }}] }}"
        )
    };
    let y = "{ namespaceSelector: { matchLabels: { team: ny } } }";
    net.policy("egress", &to(y, "{ port: 8080 }"))?;
    for target in [&near, &far, &service] {
        net.wait_reached(target, "get", &["nx/a"], &["nx/a"])?;
    }
    // Names are answered by the node, which no policy is in the way of.
    net.wait_reached("b.ny.svc.cluster.local:80", "get", &["nx/a"], &["nx/a"])?;
    net.wait_reached(&at("ny/b", 8090)?, "get", &["nx/a"], &[])?;
    net.wait_reached(&own, "get", &["nx/a"], &[])?;
    net.policy("egress", &to("{ ipBlock: { cidr: 10.113.0.0/16 } }", "{ port: web }"))?;
    net.wait_reached(&own, "get", &["nx/a"], &["nx/a"])?;
    net.wait_reached(&at("ny/a", 8090)?, "get", &["nx/a"], &[])?;

    // Both sides must agree.
    net.policy(
        "ingress",
        &format!("{{ {SERVER}, ingress: [{{ from: [{{ podSelector: {{ matchLabels: {{ app: b }} }} }}] }}] }}"),
    )?;
    net.wait_reached(&own, "get", &["nx/a", "nx/b", "ny/a"], &["nx/b"])?;
    net.delete_policy("egress")?;
    net.wait_reached(&own, "get", &["nx/a", "nx/b"], &["nx/b"])?;
    net.delete_policy("ingress")?;
    net.wait_reached(&own, "get", &["nx/a", "ny/a"], &["nx/a", "ny/a"])
}

#[test]
fn clients_outside_are_peers_by_their_own_address() -> Result<()> {
    let net = start()?;
    net.cluster.apply(
        "
apiVersion: v1
kind: Service
metadata: { name: server, namespace: nx }
spec:
  type: NodePort
  externalTrafficPolicy: Local
  selector: { app: server }
  ports: [{ port: 80, targetPort: 8080 }]
",
    )?;
    let port = net.cluster.get(&["service", "-n", "nx", "server"], "{.spec.ports[0].nodePort}")?;
    let address = format!("10.111.0.1:{port}");
    let wait_outside = |expected: bool| {
        wait::until(&format!("the client outside reaches the node port: {expected}"), LIMIT, || {
            let heard = heard(&net.cluster.outside_toolbox(&["get", &address])?)?;
            ensure!(heard == expected, "it does not hold");
            Ok(())
        })
    };
    wait_outside(true)?;
    net.policy("deny", &format!("{{ {SERVER} }}"))?;
    wait_outside(false)?;
    net.policy(
        "allow",
        &format!("{{ {SERVER}, ingress: [{{ from: [{{ ipBlock: {{ cidr: 10.111.0.100/32 }} }}] }}] }}"),
    )?;
    wait_outside(true)?;
    net.policy("allow", &format!("{{ {SERVER}, ingress: [{{ from: [{{ ipBlock: {{ cidr: 10.111.0.0/24, except: [10.111.0.64/26] }} }}] }}] }}"))?;
    wait_outside(false)
}

#[test]
fn policies_stay_in_force_while_the_daemon_is_away_and_hold_for_new_pods_at_once() -> Result<()> {
    let net = start()?;
    let server = format!("{}:8080", net.ip("nx/server")?);
    net.policy(
        "web",
        &format!("{{ {SERVER}, ingress: [{{ from: [{{ podSelector: {{ matchLabels: {{ app: b }} }} }}] }}] }}"),
    )?;
    // `kubectl exec` needs the daemon of the client's node, which is the other one.
    net.wait_reached(&server, "get", &["nx/b", "ny/a"], &["nx/b"])?;
    let first = net.cluster.nodes()[0];
    first.node.kill()?;
    let trace = |from: &str, port: &str| {
        net.skepctl(1, &["policy", "trace", "--from", from, "--to", "nx/server", "--port", port])
    };
    let (friend, stranger) = (net.ip("nx/b")?, net.ip("ny/a")?);
    ensure!(trace(&friend, "8080")?.ends_with("passes on this node\n"), "{}", trace(&friend, "8080")?);
    ensure!(trace(&stranger, "8080")?.ends_with("is dropped on this node\n"), "{}", trace(&stranger, "8080")?);
    ensure!(trace(&stranger, "8080")?.contains("ny {app=a}"), "{}", trace(&stranger, "8080")?);
    let list = net.skepctl(1, &["policy", "list"])?;
    let line = list.lines().find(|line| line.contains("server")).context("the server is not listed")?;
    ensure!(line.contains("isolated, 1 rules") && line.contains("open"), "{list}");
    for _ in 0..2 {
        ensure!(net.reaches("nx/b", "get", &server)?, "what was allowed is refused");
        ensure!(!net.reaches("ny/a", "get", &server)?, "what was refused passes");
    }
    // Labels change while nobody looks.
    net.cluster.kubectl(&["label", "pod", "-n", "ny", "a", "app=other", "--overwrite"])?;
    net.cluster.kubectl(&["label", "pod", "-n", "nx", "b", "app=other", "--overwrite"])?;
    first.start_node()?;
    net.wait_reached(&server, "get", &["nx/b", "ny/a"], &[])?;
    net.cluster.kubectl(&["label", "pod", "-n", "nx", "b", "app=b", "--overwrite"])?;
    net.wait_reached(&server, "get", &["nx/b", "ny/a"], &["nx/b"])?;

    // A pod that asks the moment it starts: one that a policy isolates hears nothing, however fast it is.
    net.policy("born", "{ podSelector: { matchLabels: { app: born } }, policyTypes: [Egress] }")?;
    net.wait_reached(&format!("{}:8080", net.ip("ny/b")?), "get", &["nx/b"], &["nx/b"])?;
    std::thread::sleep(Duration::from_secs(1));
    let target = format!("{}:8080", net.ip("ny/b")?);
    let node = &first.spec().name;
    let pod = |name: &str, app: &str| {
        format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, namespace: nx, labels: {{ app: {app} }} }}
spec:
  nodeName: {node}
  restartPolicy: Never
  containers:
    - name: ask
      image: localhost/skep/toolbox:1
      command: [toolbox, udp, '{target}']
"
        )
    };
    let manifest: String = (0..4).map(|n| pod(&format!("born-{n}"), "born")).chain([pod("free", "free")]).collect();
    net.cluster.apply(&manifest)?;
    let phase = |name: &str| net.cluster.get(&["pod", "-n", "nx", name], "{.status.phase}");
    for (name, expected) in
        [("free", "Succeeded"), ("born-0", "Failed"), ("born-1", "Failed"), ("born-2", "Failed"), ("born-3", "Failed")]
    {
        wait::until(&format!("{name} {expected}"), LIMIT, || {
            let phase = phase(name)?;
            ensure!(phase == expected, "it is {phase}");
            Ok(())
        })?;
    }
    // With the last policy gone while the daemon was away, the next one takes everything down.
    first.node.kill()?;
    for policy in ["web", "born"] {
        net.delete_policy(policy)?;
    }
    ensure!(!net.reaches("ny/a", "get", &server)?, "what was refused passes");
    first.start_node()?;
    net.wait_reached(&server, "get", &["nx/b", "ny/a"], &["nx/b", "ny/a"])?;
    wait::until("nothing of policies in the kernel", LIMIT, || {
        ensure!(!first.spec().bpf_root.join("policy").exists(), "pins are left");
        Ok(())
    })
}

#[test]
fn an_isolated_pod_finds_no_way_around_by_a_node_port_of_its_node() -> Result<()> {
    let net = start()?;
    net.cluster.apply(
        "
apiVersion: v1
kind: Service
metadata: { name: b, namespace: ny }
spec:
  type: NodePort
  selector: { app: b }
  ports: [{ port: 80, targetPort: 8080 }]
",
    )?;
    let port = net.cluster.get(&["service", "-n", "ny", "b"], "{.spec.ports[0].nodePort}")?;
    let address = format!("10.111.0.1:{port}");
    let wait_around = |expected: bool| {
        wait::until(&format!("nx/a reaches {address} by packets of its own: {expected}"), LIMIT, || {
            let done = patient(&net.beside("nx/a", &["get", &address])?).output()?;
            ensure!(done.status.success() == expected, "{done:?}");
            Ok(())
        })
    };
    wait_around(true)?;
    // To the node itself it may speak, and nobody there listens at that port.
    net.policy("egress", "{ podSelector: { matchLabels: { app: a } }, policyTypes: [Egress] }")?;
    net.wait_reached(&address, "get", &["nx/a"], &[])?;
    wait_around(false)?;
    net.delete_policy("egress")?;
    wait_around(true)
}
