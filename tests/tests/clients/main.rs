//! Real workloads with the client libraries people build controllers and tools on.
#![allow(clippy::disallowed_methods, reason = "these tests wait on threads of their own")]

mod kube_rs;

use anyhow::{Result, ensure};
use skep_tests::cluster::TestCluster;
use xtask::command::output;
use xtask::workspace;

#[test]
fn a_program_on_pypis_kubernetes_does_its_work() -> Result<()> {
    let python = workspace::python();
    ensure!(python.exists(), "{} is missing: run `cargo xtask setup`", python.display());
    let cluster = TestCluster::start()?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/workload.py");
    let mut command = cluster.parts().on_machine(python);
    command.arg(script).env("KUBECONFIG", cluster.parts().kubeconfig()).env("PYTHONWARNINGS", "ignore");
    let said = output(&mut command)?;
    ensure!(said.lines().last() == Some("election"), "it stopped after:\n{said}");
    Ok(())
}
