//! `kubectl wait`.

use anyhow::{Result, ensure};
use skep_tests::kubectl::Kubectl;

pub(crate) fn conditions(k: &Kubectl) -> Result<()> {
    k.ok("create deployment web --image=i --replicas=0")?;
    k.is("wait --for=condition=Available deployment/web --timeout=30s", "deployment.apps/web condition met")?;
    k.is("wait --for=condition=available=true deployment --all --timeout=30s", "deployment.apps/web condition met")?;
    k.is("wait --for=jsonpath='{.spec.replicas}'=0 deployment/web", "deployment.apps/web condition met")?;
    k.is("wait --for=jsonpath='{.metadata.uid}' deployment/web", "deployment.apps/web condition met")?;
    k.refuses(
        "wait --for=condition=Never deployment/web --timeout=1s",
        "timed out waiting for the condition on deployments/web",
    )?;
    k.refuses("wait --for=condition=Ready pod/none --timeout=1s", "pods \"none\" not found")?;
    // What happens while it waits.
    k.ok("create configmap map --from-literal=state=old")?;
    let mut waiting = k.spawn("wait --for=jsonpath='{.data.state}'=new configmap/map --timeout=50s")?;
    let mut deletion = k.spawn("wait --for=delete configmap/map --timeout=50s")?;
    let mut creation = k.spawn("wait --for=create configmap/later --timeout=50s")?;
    std::thread::sleep(std::time::Duration::from_millis(500));
    k.ok("patch configmap map -p '{\"data\":{\"state\":\"new\"}}'")?;
    ensure!(waiting.end()? == Some(0), "{}", waiting.errors());
    k.ok("delete configmap map")?;
    ensure!(deletion.end()? == Some(0), "{}", deletion.errors());
    k.ok("create configmap later")?;
    ensure!(creation.end()? == Some(0), "{}", creation.errors());
    k.is("wait --for=delete configmap/map --timeout=5s", "")
}

pub(crate) fn pods(k: &Kubectl) -> Result<()> {
    k.ok("run web --image=localhost/skep/toolbox:1 --labels=app=web")?;
    k.is("wait --for=condition=Ready pod -l app=web --timeout=50s", "pod/web condition met")?;
    k.is("wait --for=jsonpath='{.status.phase}'=Running pod/web", "pod/web condition met")?;
    let mut deletion = k.spawn("wait --for=delete pod/web --timeout=50s")?;
    k.ok("delete pod web --now")?;
    ensure!(deletion.end()? == Some(0), "{}", deletion.errors());
    Ok(())
}
