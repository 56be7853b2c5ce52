//! `kubectl rollout`.

use anyhow::{Result, ensure};
use skep_tests::kubectl::Kubectl;

pub(crate) fn history_undo_pause_restart(k: &Kubectl) -> Result<()> {
    k.ok("create deployment web --image=one --replicas=0")?;
    let revision = |number: &str| {
        k.waits("get deployment web -o yaml", &[&format!("deployment.kubernetes.io/revision: \"{number}\"")])
    };
    revision("1")?;
    k.ok("set image deployment/web one=two")?;
    k.ok("annotate deployment/web kubernetes.io/change-cause='the second'")?;
    revision("2")?;
    k.waits("rollout history deployment/web", &["REVISION  CHANGE-CAUSE\n1         <none>\n2         the second\n"])?;
    k.says("rollout history deployment/web --revision=1", &["deployment.apps/web with revision #1", "Image:\tone"])?;
    k.says("rollout undo deployment/web --dry-run=server", &["rolled back (server dry run)"])?;
    k.is("rollout undo deployment/web", "deployment.apps/web rolled back")?;
    k.has("deployment web", "{.spec.template.spec.containers[0].image}", "one")?;
    revision("3")?;
    k.says("rollout undo deployment/web --to-revision=2", &["rolled back"])?;
    k.has("deployment web", "{.spec.template.spec.containers[0].image}", "two")?;
    revision("4")?;
    k.refuses("rollout undo deployment/web --to-revision=99", "unable to find specified revision 99 in history")?;
    k.says(
        "rollout undo deployment/web --to-revision=4",
        &["skipped rollback (current template already matches revision 4)"],
    )?;

    k.is("rollout pause deployment/web", "deployment.apps/web paused")?;
    k.refuses("rollout pause deployment/web", "deployments.apps \"web\" is already paused")?;
    k.refuses("rollout restart deployment/web", "can't restart paused deployment (run rollout resume first)")?;
    k.ok("set image deployment/web one=three")?;
    let generation = k.ok("get deployment web -o jsonpath={.metadata.generation}")?;
    k.waits("get deployment web -o jsonpath='seen {.status.observedGeneration}'", &[&format!("seen {generation}")])?;
    ensure!(!k.ok("get replicasets -o yaml")?.contains("image: three"), "a paused deployment made a new replica set");
    k.is("rollout resume deployment/web", "deployment.apps/web resumed")?;
    k.waits("get replicasets -o yaml", &["image: three"])?;
    k.is("rollout restart deployment/web", "deployment.apps/web restarted")?;
    k.says("get deployment web -o yaml", &["kubectl.kubernetes.io/restartedAt:"])?;
    k.says("rollout status deployment/web --timeout=30s", &["deployment \"web\" successfully rolled out"]).map(drop)
}

pub(crate) fn of_running_pods(k: &Kubectl) -> Result<()> {
    k.ok("create deployment web --image=localhost/skep/toolbox:1 --replicas=2")?;
    k.says("rollout status deployment/web --timeout=50s", &["deployment \"web\" successfully rolled out"])?;
    let pods = || k.ok("get pods -l app=web -o name");
    let before = pods()?;
    let mut watched = k.spawn("rollout status deployment/web --watch --timeout=50s --revision=2")?;
    ensure!(watched.end()? == Some(1), "revision 2 is not there yet");
    k.ok("patch deployment web -p '{\"spec\":{\"template\":{\"spec\":{\"terminationGracePeriodSeconds\":1}}}}'")?;
    k.says("rollout status deployment/web --timeout=50s", &["successfully rolled out"])?;
    k.is("rollout restart deployment/web", "deployment.apps/web restarted")?;
    k.says("rollout status deployment/web --timeout=50s", &["successfully rolled out"])?;
    let after = pods()?;
    ensure!(before.lines().all(|pod| !after.contains(pod)), "restarting replaces every pod:\n{before}{after}");
    // An image that is not there: the rollout hangs, and undo mends it.
    k.ok("set image deployment/web toolbox=localhost/skep/none:1")?;
    k.waits("get pods -l app=web", &["Image"])?;
    k.refuses("rollout status deployment/web --timeout=1s", "timed out waiting for the condition")?;
    k.is("rollout undo deployment/web", "deployment.apps/web rolled back")?;
    k.says("rollout status deployment/web --timeout=50s", &["successfully rolled out"])?;
    k.ok("delete deployment web").map(drop)
}
