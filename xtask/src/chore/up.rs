//! From a checkout to a Service answered in the kernel.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use xtask::cluster::Cluster;
use xtask::command::{self, output};
use xtask::{wait, workspace};

use super::steps::step;
use super::{build, dev_cluster, images, require_root, setup};

/// What `up` takes.
#[derive(Args, Clone, Default)]
#[group(skip)]
pub(crate) struct Options {
    #[command(flatten)]
    build: build::Options,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    require_root("up")?;
    setup::run_all(&options.build.setup)?;
    step("build the programs and the kernel's part", || build::programs(options.build.profile()))?;
    let archive = step("build the demo's image", images::toolbox)?;
    let cluster = dev_cluster(options.build.profile())?;
    cluster.prepare()?;
    step("start etcd and skep-server", || cluster.start_server())?;
    step("start containerd", || cluster.start_containerd())?;
    step("import the demo's image", || cluster.containerd.import(&archive))?;
    step("start skep-node and wait until it is Ready", || cluster.start_node())?;
    step("apply examples/hello.yaml", || {
        let example = workspace::root().join("examples/hello.yaml");
        output(cluster.kubectl(&["apply", "-f"]).arg(example))?;
        let rollout = output(&mut cluster.kubectl(&["rollout", "status", "deployment/hello", "--timeout=120s"]));
        rollout.with_context(|| warnings(&cluster))
    })?;
    let vip = output(&mut cluster.kubectl(&["get", "service", "hello", "-o", "jsonpath={.spec.clusterIP}"]))?;
    let from_host = step("ask the Service from this machine", || ask_from_host(&vip))?;
    let from_pod = step("ask the Service from a pod", || ask_from_pod(&cluster, &vip))?;
    println!("http://{vip} answered this machine from pod {from_host} and a pod from pod {from_pod}\n");
    println!("{}", output(cluster.program("skepctl").args(["service", "list"]))?);
    println!("export KUBECONFIG={}", cluster.kubeconfig().display());
    Ok(())
}

/// What the cluster itself complains about, for the error of a step that waited in vain.
fn warnings(cluster: &Cluster) -> String {
    let columns = "custom-columns=OBJECT:.involvedObject.name,REASON:.reason,MESSAGE:.message";
    let events = ["get", "events", "--field-selector", "type=Warning", "--output", columns];
    let events = output(&mut cluster.kubectl(&events)).unwrap_or_else(|error| format!("no events: {error:#}"));
    format!("the cluster's warnings:\n{events}the logs are in {}", cluster.spec().data.join("logs").display())
}

fn ask_from_host(vip: &str) -> Result<String> {
    let curl = command::require("curl")?;
    answer(|| {
        output(
            Command::new(&curl)
                .args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "5"])
                .arg(format!("http://{vip}")),
        )
    })
}

fn ask_from_pod(cluster: &Cluster, vip: &str) -> Result<String> {
    let target = format!("{vip}:80");
    // A pod of its own, because its log is the answer; a run that was cut short may have left one.
    output(&mut cluster.kubectl(&["delete", "pod", "hello-client", "--ignore-not-found", "--now"]))?;
    let run = ["run", "hello-client", "--image=localhost/skep/toolbox:1", "--restart=Never", "--command", "--"];
    output(cluster.kubectl(&run).args(["toolbox", "get", &target]))?;
    let result = answer(|| {
        let phase = output(&mut cluster.kubectl(&["get", "pod", "hello-client", "-o", "jsonpath={.status.phase}"]))?;
        ensure!(phase == "Succeeded" || phase == "Failed", "pod hello-client is {phase}");
        output(&mut cluster.kubectl(&["logs", "hello-client"]))
    });
    output(&mut cluster.kubectl(&["delete", "pod", "hello-client", "--now"]))?;
    result
}

/// Waits for an answer that names one of the demo's pods.
fn answer(ask: impl Fn() -> Result<String>) -> Result<String> {
    wait::until("the Service does not answer", Duration::from_secs(30), || {
        let body = ask()?;
        let name = body.trim();
        ensure!(name.starts_with("hello-"), "the answer is no pod of the demo: {name:?}");
        Ok(name.to_owned())
    })
    .context("`kubectl describe service,pods` and the logs in target/cluster/logs may say why")
}
