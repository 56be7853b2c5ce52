//! `kubectl delete`, and what becomes of what the deleted owned.

use anyhow::{Result, ensure};
use skep_tests::kubectl::Kubectl;

pub(crate) fn one_and_many(k: &Kubectl) -> Result<()> {
    for name in ["a", "b", "c", "d", "e"] {
        k.ok(&format!("create configmap {name} --from-literal=k=v"))?;
    }
    k.ok("label configmap d e half=yes")?;
    k.says("delete configmap a", &["configmap \"a\" deleted"])?;
    k.refuses("delete configmap a", "Error from server (NotFound): configmaps \"a\" not found")?;
    k.is("delete configmap a --ignore-not-found", "")?;
    k.is("delete configmap b -o name", "configmap/b")?;
    k.says("delete configmap c --dry-run=server", &["deleted (server dry run)"])?;
    k.ok("get configmap c")?;
    k.says("delete configmap -l half=yes", &["configmap \"d\" deleted", "configmap \"e\" deleted"])?;
    k.file("c.yaml", "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}")?;
    k.says("delete -f c.yaml", &["configmap \"c\" deleted"])?;
    k.ok("create secret generic one")?;
    k.ok("create secret generic two")?;
    k.says("delete secrets --all", &["secret \"one\" deleted", "secret \"two\" deleted"])?;
    k.ok("create secret generic three")?;
    k.says("delete --raw /api/v1/namespaces/{ns}/secrets/three", &["\"status\":\"Success\""])?;

    // A finalizer holds what is deleted; removing it lets it go.
    k.ok("create configmap held")?;
    k.ok("patch configmap held -p '{\"metadata\":{\"finalizers\":[\"example.com/hold\"]}}'")?;
    k.says("delete configmap held --wait=false", &["configmap \"held\" deleted"])?;
    let since = k.ok("get configmap held -o jsonpath={.metadata.deletionTimestamp}")?;
    ensure!(!since.is_empty(), "a held object says when it was deleted");
    k.refuses(
        "patch configmap held -p '{\"metadata\":{\"finalizers\":[\"example.com/other\"]}}'",
        "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted",
    )?;
    k.refuses("delete configmap held --timeout=1s", "timed out waiting for the condition")?;
    k.ok("patch configmap held --type=json -p '[{\"op\":\"remove\",\"path\":\"/metadata/finalizers\"}]'")?;
    k.refuses("get configmap held", "not found")?;

    // A namespace takes everything with it.
    k.ok("create namespace {ns}-gone")?;
    k.ok("create configmap inside -n {ns}-gone")?;
    k.says("delete namespace {ns}-gone", &["namespace \"{ns}-gone\" deleted"])?;
    k.refuses("get configmap inside -n {ns}-gone", "not found")?;
    k.refuses("delete namespace default", "namespaces \"default\" is forbidden: this namespace may not be deleted")
}

pub(crate) fn cascades(k: &Kubectl) -> Result<()> {
    let deployment = |name: &str| -> Result<()> {
        k.ok(&format!("create deployment {name} --image=i --replicas=1"))?;
        k.waits(&format!("get replicasets,pods -l app={name} -o name"), &["replicaset.apps/", "pod/"]).map(drop)
    };
    deployment("orphaned")?;
    deployment("behind")?;
    deployment("before")?;
    k.says("delete deployment orphaned --cascade=orphan", &["deployment.apps \"orphaned\" deleted"])?;
    k.waits(
        "get replicasets -l app=orphaned -o jsonpath='<{.items[*].metadata.ownerReferences}>{.items[*].spec.replicas}'",
        &["<>1"],
    )?;
    // A deployment that selects it adopts it.
    k.ok("create deployment orphaned --image=i --replicas=1")?;
    k.waits(
        "get replicasets -l app=orphaned -o jsonpath='{.items[*].metadata.ownerReferences[*].name}'",
        &["orphaned"],
    )?;

    k.says("delete deployment behind --cascade=background", &["deleted"])?;
    k.waits("get replicasets,pods -l app=behind -o jsonpath='left={.items}'", &["left=[]"])?;

    // In the foreground, nothing is left when the owner goes.
    k.says("delete deployment before --cascade=foreground", &["deleted"])?;
    k.is("get deployments,replicasets,pods -l app=before -o name", "")?;

    // By owner references alone, with a finalizer in between.
    k.ok("create configmap owner")?;
    let uid = k.ok("get configmap owner -o jsonpath={.metadata.uid}")?;
    let owned = format!(
        "---\n{{apiVersion: v1, kind: ConfigMap, metadata: {{name: owned, finalizers: [example.com/hold], ownerReferences: [{{apiVersion: v1, kind: ConfigMap, name: owner, uid: {uid}, blockOwnerDeletion: true}}]}}}}"
    );
    k.reads("create -f -", &owned, &["created"])?;
    k.ok("delete configmap owner --cascade=foreground --wait=false")?;
    k.waits("get configmap owned -o jsonpath={.metadata.deletionTimestamp}", &["2"])?;
    k.has("configmap owner", "{.metadata.finalizers}", "[\"foregroundDeletion\"]")?;
    k.ok("patch configmap owned --type=merge -p '{\"metadata\":{\"finalizers\":null}}'")?;
    k.ok("wait --for=delete configmap/owner configmap/owned --timeout=30s").map(drop)
}
