//! The cluster of these tests, and asking who reaches whom in it.

use std::process::{Child, Command};

use anyhow::{Context as _, Result, bail, ensure};
use skep_tests::cluster::{LIMIT, Shape, TestCluster};
use xtask::command::output;
use xtask::{process, wait, workspace};

/// How long a client waits before it takes its packets for dropped, seconds. Far more than an answer takes.
const PATIENCE: &str = "3";

/// A pod, `namespace/name`, and the node (from 1) it is on. Each serves at 8080 and 8090, over TCP and UDP.
const PODS: [(&str, usize); 5] = [("nx/server", 1), ("nx/a", 1), ("nx/b", 2), ("ny/a", 2), ("ny/b", 1)];

/// The pods other than the server.
pub(crate) const CLIENTS: [&str; 4] = ["nx/a", "nx/b", "ny/a", "ny/b"];

pub(crate) struct Net {
    pub(crate) cluster: TestCluster,
}

/// Namespaces `nx` and `ny` (labels `team: nx`, `team: ny`) with [`PODS`], all ready.
pub(crate) fn start() -> Result<Net> {
    let cluster = TestCluster::start_shape(&Shape::nodes(2))?;
    let mut manifest = String::new();
    for namespace in ["nx", "ny"] {
        manifest += &format!(
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {{ name: {namespace}, labels: {{ team: {namespace} }} }}\n"
        );
    }
    for (pod, node) in PODS {
        let (namespace, name) = split(pod);
        let node = &cluster.nodes()[node - 1].spec().name;
        manifest += &format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, namespace: {namespace}, labels: {{ app: {name} }} }}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers:
    - name: web
      image: localhost/skep/toolbox:1
      command: [toolbox, serve, '8080']
      ports: [{{ name: web, containerPort: 8080 }}]
      readinessProbe: {{ httpGet: {{ port: 8080 }}, periodSeconds: 1, failureThreshold: 2 }}
    - name: other
      image: localhost/skep/toolbox:1
      command: [toolbox, serve, '8090']
"
        );
    }
    cluster.apply(&manifest)?;
    let net = Net { cluster };
    for (pod, _) in PODS {
        net.wait_ready(pod)?;
    }
    Ok(net)
}

fn split(pod: &str) -> (&str, &str) {
    pod.split_once('/').unwrap_or(("default", pod))
}

impl Net {
    pub(crate) fn ip(&self, pod: &str) -> Result<String> {
        let (namespace, name) = split(pod);
        self.cluster.get(&["pod", "-n", namespace, name], "{.status.podIP}")
    }

    pub(crate) fn is_ready(&self, pod: &str) -> Result<bool> {
        let (namespace, name) = split(pod);
        let path = "{.status.conditions[?(@.type=='Ready')].status}";
        Ok(self.cluster.get(&["pod", "-n", namespace, name], path)? == "True")
    }

    pub(crate) fn wait_ready(&self, pod: &str) -> Result<()> {
        wait::until(&format!("{pod} ready"), LIMIT, || {
            ensure!(self.is_ready(pod)?, "not yet");
            Ok(())
        })
    }

    /// Does the pod hear an answer from `target`? `how`: `get` or `udp`.
    pub(crate) fn reaches(&self, pod: &str, how: &str, target: &str) -> Result<bool> {
        let (namespace, name) = split(pod);
        let exec =
            self.cluster.parts().kubectl(&["exec", "-n", namespace, name, "-c", "web", "--", "toolbox", how, target]);
        heard(&exec).with_context(|| format!("{pod} asks {target} ({how})"))
    }

    /// Waits until of `clients` exactly those reach the target.
    pub(crate) fn wait_reached(&self, target: &str, how: &str, clients: &[&str], expected: &[&str]) -> Result<()> {
        wait::until(&format!("{target} ({how}) reached by {expected:?} of {clients:?}"), LIMIT, || {
            let mut reaching = Vec::new();
            for client in clients {
                if self.reaches(client, how, target)? {
                    reaching.push(*client);
                }
            }
            ensure!(reaching == expected, "it is reached by {reaching:?}");
            Ok(())
        })
    }

    /// A policy `name` in namespace `nx` with that spec (YAML in flow style).
    pub(crate) fn policy(&self, name: &str, spec: &str) -> Result<()> {
        self.cluster.apply(&format!(
            "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{ name: {name}, namespace: nx }}
spec: {spec}
"
        ))
    }

    pub(crate) fn delete_policy(&self, name: &str) -> Result<()> {
        self.cluster.kubectl(&["delete", "networkpolicy", "-n", "nx", name]).map(drop)
    }
}

impl Net {
    /// `skepctl` on a node (from 1).
    pub(crate) fn skepctl_on(&self, node: usize, args: &[&str]) -> Command {
        let node = self.cluster.nodes()[node - 1];
        let root = node.spec().bpf_root.display().to_string();
        let mut command = node.program("skepctl");
        command.args(["--bpf-root", &root]).args(args);
        command
    }

    /// What it prints.
    pub(crate) fn skepctl(&self, node: usize, args: &[&str]) -> Result<String> {
        output(&mut self.skepctl_on(node, args))
    }

    /// The toolbox in a pod's network namespace, but in no cgroup of the node's: its sockets are not looked after.
    pub(crate) fn beside(&self, pod: &str, args: &[&str]) -> Result<Command> {
        let (namespace, name) = split(pod);
        let uid = self.cluster.get(&["pod", "-n", namespace, name], "{.metadata.uid}")?;
        let of_pod = |pid: &i32| {
            std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|groups| groups.contains(&uid))
        };
        let servers = process::find(|words| words.iter().any(|word| word == "serve"));
        let pid = *servers.iter().find(|pid| of_pod(pid)).with_context(|| format!("no process of {pod}"))?;
        let toolbox = workspace::target().join("static/release/skep-toolbox");
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{pid}/ns/net")).arg("--").arg(toolbox).args(args);
        Ok(command)
    }
}

/// A process that ends with the test.
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Did the command end well, or was there silence? Everything else is an error of the test.
pub(crate) fn heard(command: &Command) -> Result<bool> {
    let done = patient(command).output()?;
    let error = String::from_utf8_lossy(&done.stderr).into_owned();
    match done.status.code() {
        Some(0) => Ok(true),
        Some(124) => Ok(false),
        // A datagram's answer is waited for by the toolbox itself.
        _ if error.contains("Resource temporarily unavailable") => Ok(false),
        code => bail!("ended with {code:?}: {error}"),
    }
}

/// The command, given up after [`PATIENCE`].
pub(crate) fn patient(command: &Command) -> Command {
    let mut limited = Command::new("timeout");
    limited.arg(PATIENCE).arg(command.get_program()).args(command.get_args());
    limited
}
