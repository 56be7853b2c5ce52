//! Nodes: cordon, taint, drain, debug.

use anyhow::{Result, ensure};
use skep_tests::kubectl::Kubectl;

use crate::run::IMAGE;

/// A Node without a machine: what does not need its daemon.
pub(crate) fn an_object_alone(k: &Kubectl) -> Result<()> {
    k.reads("create -f -", "---\n{apiVersion: v1, kind: Node, metadata: {name: '{ns}'}}", &["node/{ns} created"])?;
    k.is("cordon {ns}", &format!("node/{} cordoned", k.namespace()))?;
    k.is("cordon {ns}", &format!("node/{} already cordoned", k.namespace()))?;
    k.says("get node {ns}", &["SchedulingDisabled"])?;
    k.is("uncordon {ns}", &format!("node/{} uncordoned", k.namespace()))?;
    k.is("taint node {ns} a=b:NoSchedule c:NoExecute", &format!("node/{} tainted", k.namespace()))?;
    k.says("describe node {ns}", &["a=b:NoSchedule", "c:NoExecute", "Unschedulable:      false"])?;
    k.refuses("taint node {ns} a=x:NoSchedule", "already has")?;
    k.is("taint node {ns} a:NoSchedule- c-", &format!("node/{} untainted", k.namespace()))?;
    k.is("label node {ns} node-role.kubernetes.io/tour=", &format!("node/{} labeled", k.namespace()))?;
    k.says("get node {ns} --no-headers", &[" tour "])?;
    k.says("delete node {ns}", &["deleted"]).map(drop)
}

pub(crate) fn cordon_taint_and_drain(k: &Kubectl) -> Result<()> {
    let node = k.ok("get nodes -o jsonpath={.items[0].metadata.name}")?;
    k.ok("create deployment web --image=localhost/skep/toolbox:1 --replicas=2")?;
    k.ok("patch deployment web -p '{\"spec\":{\"template\":{\"spec\":{\"terminationGracePeriodSeconds\":1}}}}'")?;
    k.ok("rollout status deployment/web --timeout=50s")?;
    k.ok("run alone --image=localhost/skep/toolbox:1 --labels=app=web --overrides='{\"spec\":{\"terminationGracePeriodSeconds\":1}}'")?;
    k.ok("wait --for=condition=Ready pod/alone --timeout=50s")?;
    let drain = format!("drain {node} --pod-selector=app=web --timeout=50s");
    k.refuses(&drain, "cannot delete Pods that declare no controller (use --force to override)")?;
    k.says(&format!("{drain} --force"), &["evicting pod {ns}/web-", "drained"])?;
    k.says("get nodes", &["Ready,SchedulingDisabled"])?;
    k.waits("get pods -l app=web", &["Pending"])?;
    k.refuses("get pod alone", "not found")?;
    k.says(&format!("uncordon {node}"), &["uncordoned"])?;
    k.says("rollout status deployment/web --timeout=50s", &["successfully rolled out"])?;

    // A budget that allows nothing holds the drain.
    k.ok("create pdb all --selector=app=web --min-available=2")?;
    k.waits("get pdb all -o jsonpath='{.status.currentHealthy}/{.status.desiredHealthy}'", &["2/2"])?;
    let held = k.tell(&format!("drain {node} --pod-selector=app=web --timeout=3s"), &[], "")?;
    ensure!(
        held.code != Some(0)
            && held.stderr.contains("Cannot evict pod as it would violate the pod's disruption budget."),
        "{held:?}"
    );
    k.ok("delete pdb all")?;
    k.ok(&format!("uncordon {node}"))?;

    // A taint keeps pods away, and NoExecute drives them out.
    k.ok(&format!("taint node {node} tour=now:NoExecute"))?;
    k.waits("get pods -l app=web", &["Pending"])?;
    k.ok(&format!("taint node {node} tour-"))?;
    k.says("rollout status deployment/web --timeout=50s", &["successfully rolled out"])?;
    k.ok("delete deployment web").map(drop)
}

pub(crate) fn debug(k: &Kubectl) -> Result<()> {
    let node = k.ok("get nodes -o jsonpath={.items[0].metadata.name}")?;
    let debug = |options: &str| format!("debug node/{node} --image={IMAGE} --profile=general {options}");
    let pods = "get pods -o jsonpath={.items[0].metadata.name}";
    k.says(&debug("-- sh -c 'ls -d /host/proc; echo on $(hostname)'"), &["Creating debugging pod node-debugger-"])?;
    let pod = k.ok(pods)?;
    ensure!(pod.starts_with(&format!("node-debugger-{node}-")), "{pod}");
    k.has(
        &format!("pod {pod}"),
        "{.spec.nodeName} {.spec.hostPID} {.spec.hostNetwork} {.spec.hostIPC} {.spec.volumes[0].hostPath.path}",
        &format!("{node} true true true /"),
    )?;
    k.ok(&format!("wait --for=jsonpath='{{.status.phase}}'=Succeeded pod/{pod} --timeout=50s"))?;
    k.says(&format!("logs {pod}"), &["/host/proc", "on "])?;
    k.ok("delete pods --all --now")?;

    let mut session = k.spawn_in_terminal(&debug("-it -- sh"))?;
    let pod = k.waits(pods, &["node-debugger-"])?;
    k.ok(&format!("wait --for=condition=Ready pod/{pod} --timeout=50s"))?;
    session.tell("test -t 0 && echo sees $(ls -d /host/proc)\n")?;
    session.hears("sees /host/proc")?;
    // The node's processes are in sight: the first is not this shell.
    session.tell("test $$ -gt 1 && test -d /proc/1 && echo not the first $((1+0))\n")?;
    session.hears("not the first 1")?;
    session.tell("exit\n")?;
    session.hears("code=0")?;
    session.end()?;
    k.ok("delete pods --all --now").map(drop)
}
