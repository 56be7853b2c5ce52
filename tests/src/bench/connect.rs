//! Connections through a VIP against connections straight to the pod.

use anyhow::{Context as _, Result};
use xtask::command::output;
use xtask::workspace::{self, Profile};

use super::row::{Goal, Row, median};
use crate::cluster::TestCluster;

/// Connections in one round.
const COUNT: &str = "4000";
/// Rounds of each kind, in turn.
const ROUNDS: usize = 15;

const ECHO: &str = "
apiVersion: v1
kind: Pod
metadata: { name: echo, labels: { app: echo } }
spec: { containers: [{ name: echo, image: 'localhost/skep/toolbox:1', command: [toolbox, echo, '7000'] }] }
---
apiVersion: v1
kind: Service
metadata: { name: echo }
spec: { selector: { app: echo }, ports: [{ port: 7, targetPort: 7000 }] }
";

/// Measures this group.
pub fn measure() -> Result<Vec<Row>> {
    let cluster = TestCluster::create(Profile::Release)?;
    cluster.start_all()?;
    cluster.apply(ECHO)?;
    cluster.wait_ready_pods("app=echo", 1)?;
    let pod = format!("{}:7000", cluster.get(&["pod", "echo"], "{.status.podIP}")?);
    let vip = format!("{}:7", cluster.get(&["service", "echo"], "{.spec.clusterIP}")?);
    // The limit is a machine without skep's hooks: the same network namespace, but outside of the cgroup they serve.
    let toolbox = workspace::target().join("static/release/skep-toolbox");
    let netns = cluster.parts().spec().netns.clone().context("a test cluster has a namespace")?;
    let straight = || {
        let mut command = std::process::Command::new("nsenter");
        command.arg(format!("--net={}", netns.display())).arg(&toolbox).args(["crr", &pod, COUNT]);
        nanoseconds(&mut command)
    };
    let through = || nanoseconds(&mut cluster.toolbox(&["crr", &vip, COUNT]));
    let (mut ours, mut limits) = (Vec::new(), Vec::new());
    // The first connections pay for the neighbour entry and cold caches on both ways.
    straight()?;
    through()?;
    for _ in 0..ROUNDS {
        limits.push(straight()?);
        ours.push(through()?);
    }
    let count: f64 = COUNT.parse()?;
    let score = median(ours.iter().zip(&limits).map(|(ours, limit)| limit / ours).collect());
    Ok(vec![Row {
        name: "TCP connect-request-response through a ClusterIP".to_owned(),
        measured: format!("{:.1} µs each", median(ours) / count / 1e3),
        limit: format!("{:.1} µs straight to the pod", median(limits) / count / 1e3),
        score,
        goal: Goal::AtLeast(0.97, ""),
    }])
}

fn nanoseconds(command: &mut std::process::Command) -> Result<f64> {
    Ok(output(command)?.trim().parse()?)
}
