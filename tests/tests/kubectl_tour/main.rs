//! A scripted tour of what people do with kubectl, with every kubectl of this machine that a v1.35 cluster should know.
//!
//! A chapter has a namespace of its own and checks what kubectl prints (as upstream's server makes it print) and what is
//! stored. Every chapter is toured, also after one has failed; the failures are told together.
#![allow(clippy::disallowed_methods, reason = "these tests have no runtime: they may sleep")]

mod access;
mod apply;
mod change;
mod create;
mod custom;
mod custom_versions;
mod delete;
mod describe;
mod explain;
mod get;
mod nodes;
mod policy;
mod rollout;
mod run;
mod server_side;
mod wait;

use std::process::Command;
use std::sync::Mutex;

use anyhow::{Result, ensure};
use skep_tests::cluster::TestCluster;
use skep_tests::kubectl::{Kubectl, versions};
use skep_tests::masters::Masters;

const VERSIONS: [&str; 3] = ["1.31", "1.32", "1.33"];

/// A name, and what is done.
type Chapter = (&'static str, fn(&Kubectl) -> Result<()>);

/// What needs an API server and controllers, and no node.
const OBJECTS: &[Chapter] = &[
    ("create", create::workloads),
    ("create-config", create::configuration),
    ("create-access", create::access),
    ("create-services", create::services),
    ("create-refused", create::what_is_refused),
    ("apply", apply::client_side),
    ("diff", apply::diff),
    ("prune", apply::prune),
    ("server-side", server_side::conflicts),
    ("server-side-writers", server_side::other_writers),
    ("server-side-migrate", server_side::migration),
    ("kustomize", apply::kustomize),
    ("edit", change::edit),
    ("patch", change::patch),
    ("replace", change::replace),
    ("label", change::label_and_annotate),
    ("scale-set", change::scale_and_set),
    ("get", get::forms),
    ("get-select", get::selections),
    ("get-watch", get::watches),
    ("get-raw", get::raw_and_proxy),
    ("describe", describe::kinds),
    ("explain", explain::fields),
    ("resources", explain::resources),
    ("wait", wait::conditions),
    ("delete", delete::one_and_many),
    ("cascade", delete::cascades),
    ("history", rollout::history_undo_pause_restart),
    ("autoscale", policy::autoscale),
    ("certificate", policy::certificates),
    ("events", policy::events),
    ("fake-node", nodes::an_object_alone),
    ("custom", custom::definitions),
    ("custom-objects", custom::objects),
    ("custom-apply", custom::applied),
    ("custom-refused", custom::refused),
    ("custom-versions", custom_versions::in_each_version),
    ("custom-versions-apply", custom_versions::applied_across),
    ("auth", access::can_i),
    ("auth-reconcile", access::reconcile),
    ("token", access::tokens),
    ("signed", access::a_signed_certificate),
    ("quota", access::quotas),
];

/// What needs pods that run.
const WORKLOADS: &[Chapter] = &[
    ("run", run::a_pod_from_run_to_delete),
    ("logs", run::logs),
    ("exec-cp", run::exec_and_copy),
    ("attach", run::attach),
    ("forward", run::forward),
    ("debug", run::debug),
    ("debug-beside", run::debug_beside),
    ("debug-terminal", run::debug_in_a_terminal),
    ("debug-node", nodes::debug),
    ("identity", run::identity_inside),
    ("expose", run::expose),
    ("rollout", rollout::of_running_pods),
    ("wait-pods", wait::pods),
];

/// What changes the one node, so that chapters must not overlap.
const NODE: &[Chapter] = &[("drain", nodes::cordon_taint_and_drain)];

/// Tours `chapters` with every kubectl, all kubectls at once or one after the other.
fn tour(chapters: &[Chapter], at_once: bool, kubectl: impl Fn(&str) -> Result<Kubectl> + Sync) -> Result<()> {
    let failures = Mutex::new(Vec::new());
    // For work on one chapter: its name, or the beginning of it.
    let only = std::env::var("SKEP_TOUR").unwrap_or_default();
    let one = |version: &str| {
        for (name, chapter) in chapters.iter().filter(|(name, _)| name.starts_with(&only)) {
            let toured = kubectl(version).and_then(|kubectl| {
                let namespace = format!("{name}-{}", version.replace(['.', ' '], "-").to_lowercase());
                chapter(&kubectl.in_new_namespace(&namespace)?)
            });
            if let (Err(error), Ok(mut failures)) = (toured, failures.lock()) {
                failures.push(format!("--- kubectl {version}, {name}: {error:#}"));
            }
        }
    };
    std::thread::scope(|scope| {
        for version in versions(&VERSIONS) {
            let tour = scope.spawn({
                let one = &one;
                move || one(version)
            });
            if !at_once {
                let _ = tour.join();
            }
        }
    });
    let failures = failures.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    ensure!(failures.is_empty(), "{} chapters failed\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

#[test]
fn kubectl_does_everything_that_needs_no_node() -> Result<()> {
    let masters = Masters::start(1)?;
    tour(OBJECTS, true, |version| {
        let folder = masters.folder().join(version);
        Kubectl::new(version, &masters.kubeconfig(0), &folder, |program| Command::new(program))
    })
}

#[test]
fn kubectl_does_everything_with_running_pods() -> Result<()> {
    let cluster = TestCluster::start()?;
    let kubectl = |version: &str| {
        let parts = cluster.parts().clone();
        let folder = parts.spec().data.join("kubectl").join(version);
        Kubectl::new(version, &cluster.parts().kubeconfig(), &folder, move |program| parts.on_machine(program))
    };
    tour(WORKLOADS, true, kubectl)?;
    tour(NODE, false, kubectl)
}
