//! What a newcomer does: the real kubectl against a whole cluster, and a Service answered in the kernel.
#![allow(clippy::disallowed_methods, reason = "these tests have no runtime: they may sleep")]

use std::time::Duration;

use anyhow::{Result, ensure};
use skep_tests::cluster::{LIMIT, TestCluster};
use xtask::command::output;
use xtask::wait;
use xtask::workspace;

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: { name: web }
spec:
  replicas: 3
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      terminationGracePeriodSeconds: 5
      containers:
        - name: web
          image: localhost/skep/toolbox:1
          command: [toolbox, serve, '8080']
          ports: [{ name: http, containerPort: 8080 }, { name: ask, containerPort: 8080, protocol: UDP }]
          readinessProbe: { httpGet: { port: http }, periodSeconds: 1 }
---
apiVersion: v1
kind: Service
metadata: { name: web }
spec:
  selector: { app: web }
  ports:
    - { name: http, port: 80, targetPort: http }
    - { name: ask, port: 53, targetPort: ask, protocol: UDP }
";

#[test]
fn kubectl_drives_a_deployment_from_create_to_delete_while_its_vip_answers() -> Result<()> {
    let cluster = TestCluster::start()?;

    // create
    cluster.apply(WEB)?;
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let pods = cluster.wait_ready_pods("app=web", 3)?;
    let vip = cluster.get(&["service", "web"], "{.spec.clusterIP}")?;
    let (tcp, udp) = (format!("{vip}:80"), format!("{vip}:53"));
    cluster.wait_answers(&tcp, &pods)?;
    let answer = output(&mut cluster.toolbox(&["udp", &udp]))?;
    ensure!(pods.contains(&answer.trim().to_owned()), "{answer:?} is none of {pods:?}");

    // the same from within a pod
    cluster.kubectl(&[
        "run",
        "client",
        "--image=localhost/skep/toolbox:1",
        "--restart=Never",
        "--command",
        "--",
        "toolbox",
        "get",
        &tcp,
    ])?;
    wait::until("the client pod's end", LIMIT, || {
        let phase = cluster.get(&["pod", "client"], "{.status.phase}")?;
        ensure!(phase == "Succeeded", "it is {phase}");
        Ok(())
    })?;
    let logs = cluster.kubectl(&["logs", "client"])?;
    ensure!(pods.contains(&logs.trim().to_owned()), "{logs:?} is none of {pods:?}");

    // scale up, then down
    for count in [5, 2] {
        cluster.kubectl(&["scale", "deployment/web", &format!("--replicas={count}")])?;
        let pods = cluster.wait_ready_pods("app=web", count)?;
        cluster.wait_answers(&tcp, &pods)?;
    }

    // rolling update: every pod is replaced, and at no time does nobody answer
    let before = cluster.ready_pods("app=web")?;
    cluster.kubectl(&["set", "env", "deployment/web", "GENERATION=2"])?;
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"])?;
    let after = cluster.wait_ready_pods("app=web", 2)?;
    ensure!(before.iter().all(|pod| !after.contains(pod)), "{before:?} were not all replaced: {after:?}");
    cluster.wait_answers(&tcp, &after)?;

    // delete: the VIP is gone with its service
    cluster.kubectl(&["delete", "deployment/web", "service/web"])?;
    wait::until("the pods' end", LIMIT, || {
        let left = cluster.kubectl(&["get", "pods,replicasets,endpointslices", "-l", "app=web", "-o", "name"])?;
        ensure!(left.is_empty(), "left are {left}");
        Ok(())
    })?;
    ensure!(cluster.ask(&tcp).is_err(), "the VIP of a deleted service still answers");
    Ok(())
}

#[test]
fn kubectl_shows_what_upstream_shows() -> Result<()> {
    let cluster = TestCluster::start()?;
    cluster.apply(WEB)?;
    let pods = cluster.wait_ready_pods("app=web", 3)?;

    let wide = cluster.kubectl(&["get", "nodes,pods,svc", "-o", "wide"])?;
    for column in ["INTERNAL-IP", "CONTAINER-RUNTIME", "READY", "RESTARTS", "NOMINATED NODE", "CLUSTER-IP", "SELECTOR"]
    {
        ensure!(wide.contains(column), "no {column} in\n{wide}");
    }
    ensure!(wide.contains("1/1") && wide.contains("containerd://"), "{wide}");

    let described = cluster.kubectl(&["describe", "pod", &pods[0]])?;
    for part in [
        "Node:",
        "Successfully assigned",
        "Container created",
        "Container started",
        "Ready             True",
        "Controlled By:  ReplicaSet/",
    ] {
        ensure!(described.contains(part), "no {part:?} in\n{described}");
    }
    let described = cluster.kubectl(&["describe", "node"])?;
    ensure!(described.contains("kubelet is posting ready status"), "{described}");
    let described = cluster.kubectl(&["describe", "service", "web"])?;
    ensure!(described.contains(":8080"), "no endpoints in\n{described}");
    let described = cluster.kubectl(&["describe", "deployment", "web"])?;
    ensure!(described.contains("3 desired | 3 updated | 3 total | 3 available | 0 unavailable"), "{described}");
    ensure!(described.contains("Scaled up replica set"), "{described}");

    let logs = cluster.kubectl(&["logs", &pods[0]])?;
    ensure!(logs.contains(&format!("serving as {}", pods[0])), "{logs}");
    let logs = cluster.kubectl(&["logs", "-l", "app=web", "--tail=1", "--prefix"])?;
    ensure!(pods.iter().all(|pod| logs.contains(pod)), "{logs}");

    // skepctl sees in the kernel what kubectl sees in the API
    let skepctl = |args: &[&str]| {
        let parts = cluster.parts();
        output(parts.program("skepctl").arg("--bpf-root").arg(&parts.spec().bpf_root).args(args))
    };
    let vip = cluster.get(&["service", "web"], "{.spec.clusterIP}")?;
    let listed = skepctl(&["service", "list"])?;
    ensure!(listed.contains(&format!("{vip}:80/TCP")) && listed.contains(&format!("{vip}:53/UDP")), "{listed}");
    let backends = skepctl(&["backend", "list", "default/web", "-o", "yaml"])?;
    for address in cluster.get(&["pods", "-l", "app=web"], "{.items[*].status.podIP}")?.split(' ') {
        ensure!(backends.contains(address), "no {address} in\n{backends}");
    }
    let status = skepctl(&["status", "-o", "json"])?;
    ensure!(status.contains("connect4"), "{status}");
    Ok(())
}

#[test]
fn no_connection_fails_while_skep_node_is_killed_and_started_again() -> Result<()> {
    let cluster = TestCluster::start()?;
    cluster.apply(WEB)?;
    let pods = cluster.wait_ready_pods("app=web", 3)?;
    let address = format!("{}:80", cluster.get(&["service", "web"], "{.spec.clusterIP}")?);
    cluster.wait_answers(&address, &pods)?;
    let started = |path| cluster.get(&["pods", "-l", "app=web"], path);
    let containers = "{.items[*].status.containerStatuses[*].containerID}";
    let before = started(containers)?;

    let hammer = cluster.hammer(&address)?;
    for _ in 0..2 {
        cluster.parts().node.kill()?;
        std::thread::sleep(Duration::from_millis(500));
        cluster.parts().start_node()?;
    }
    cluster.parts().node.stop()?;
    cluster.parts().start_node()?;
    let heard = hammer.stop()?;
    ensure!(heard.errors.is_empty(), "failures: {:?}", heard.errors);
    ensure!(heard.answers.len() == 3, "not every backend answered: {:?}", heard.answers);

    // and the pods never noticed
    ensure!(started(containers)? == before, "containers were replaced");
    ensure!(cluster.ready_pods("app=web")?.len() == 3, "pods are not ready");
    // a change made now reaches the kernel
    cluster.kubectl(&["scale", "deployment/web", "--replicas=1"])?;
    let pods = cluster.wait_ready_pods("app=web", 1)?;
    cluster.wait_answers(&address, &pods)
}

#[test]
fn a_service_without_ready_pods_refuses_at_once() -> Result<()> {
    let cluster = TestCluster::start()?;
    cluster.apply(WEB)?;
    cluster.wait_ready_pods("app=web", 3)?;
    let address = format!("{}:80", cluster.get(&["service", "web"], "{.spec.clusterIP}")?);
    cluster.kubectl(&["scale", "deployment/web", "--replicas=0"])?;
    wait::until("a refusal", LIMIT, || match cluster.ask(&address) {
        Err(error) if format!("{error:#}").contains("Connection refused") => Ok(()),
        other => anyhow::bail!("{other:?}"),
    })
}

#[test]
fn a_crashing_container_is_restarted_with_growing_pauses() -> Result<()> {
    let cluster = TestCluster::start()?;
    cluster.kubectl(&["run", "crash", "--image=localhost/skep/toolbox:1", "--command", "--", "false"])?;
    wait::until("CrashLoopBackOff", LIMIT, || {
        let shown = cluster.kubectl(&["get", "pod", "crash"])?;
        ensure!(shown.contains("CrashLoopBackOff"), "{shown}");
        Ok(())
    })?;
    let restarts: u32 = cluster.get(&["pod", "crash"], "{.status.containerStatuses[0].restartCount}")?.parse()?;
    ensure!(restarts >= 1, "it was never restarted");
    let events = cluster.kubectl(&["get", "events"])?;
    ensure!(events.contains("Back-off restarting failed container"), "{events}");
    Ok(())
}

#[test]
fn removing_a_cluster_leaves_nothing() -> Result<()> {
    let cluster = TestCluster::start()?;
    cluster.apply(WEB)?;
    cluster.wait_ready_pods("app=web", 3)?;
    let spec = cluster.parts().spec().clone();
    drop(cluster);

    let name = &spec.name;
    let processes = xtask::process::find(|words| words.iter().any(|word| word.contains(name.as_str())));
    ensure!(processes.is_empty(), "processes {processes:?}");
    let left = xtask::netns::list(name);
    ensure!(left.is_empty(), "network namespaces {left:?}");
    let mounts: Vec<_> = xtask::mounts::all()?
        .into_iter()
        .filter(|mount| mount.point.starts_with(&spec.data) || mount.point.starts_with(&spec.run))
        .collect();
    ensure!(mounts.is_empty(), "mounts {mounts:?}");
    for hierarchy in xtask::cgroup::hierarchies()? {
        let left = hierarchy.join(spec.cgroup.trim_matches('/'));
        ensure!(!left.exists(), "cgroup {}", left.display());
    }
    for folder in [&spec.bpf_root, &spec.data, &spec.run] {
        ensure!(!folder.exists(), "{} is still there", folder.display());
    }
    Ok(())
}

#[test]
fn the_example_of_the_readme_is_valid() -> Result<()> {
    let cluster = TestCluster::start()?;
    cluster.apply(&std::fs::read_to_string(workspace::root().join("examples/hello.yaml"))?)?;
    let pods = cluster.wait_ready_pods("app=hello", 3)?;
    let vip = cluster.get(&["service", "hello"], "{.spec.clusterIP}")?;
    cluster.wait_answers(&format!("{vip}:80"), &pods)
}
