//! Changing what is there: edit, patch, replace, label, annotate, scale, set.

use anyhow::{Result, ensure};
use skep_tests::kubectl::Kubectl;

/// What happened when `line` ran with sed as the editor.
fn edited(k: &Kubectl, line: &str, script: &str, expected: &str) -> Result<()> {
    let editor = format!("sed -i {script}");
    let told = k.tell(line, &[("EDITOR", &editor)], "")?;
    let said = told.stdout + &told.stderr;
    ensure!(said.contains(expected), "`kubectl {line}` with {editor}: no {expected:?} in\n{said}");
    Ok(())
}

pub(crate) fn edit(k: &Kubectl) -> Result<()> {
    k.ok("create configmap notes --from-literal=word=hello")?;
    edited(k, "edit configmap notes", "s/hello/goodbye/", "configmap/notes edited")?;
    k.has("configmap notes", "{.data.word}", "goodbye")?;
    edited(k, "edit configmap notes", "s/absent/x/", "Edit cancelled, no changes made.")?;
    edited(k, "edit configmap notes -o json", "s/goodbye/again/", "\"word\": \"again\"")?;
    k.has("configmap notes", "{.data.word}", "again")?;
    k.ok("create deployment web --image=one")?;
    edited(
        k,
        "edit deployment/web configmap/notes",
        "'s/again/last/;s/image: one/image: two/'",
        "configmap/notes edited",
    )?;
    k.has("deployment web", "{.spec.template.spec.containers[0].image}", "two")?;
    // What is refused comes back in the editor; unchanged then, it is given up and kept in a file.
    edited(
        k,
        "edit deployment/web",
        "'s/matchLabels:/matchLabels:\\n      new: label/'",
        "error: Edit cancelled, no valid changes were saved.",
    )?;
    let collide = "'s/^status:/status:\\n  collisionCount: 3/'";
    edited(k, "edit deployment/web --subresource=status", collide, "deployment.apps/web edited")?;
    k.has("deployment web", "{.status.collisionCount}", "3")?;
    // A new object through the editor.
    let editor = [("EDITOR", "sed -i s/first/second/")];
    let told = k.ok_with("create configmap made --from-literal=a=first --dry-run=client -o yaml", &[], "")?;
    k.file("made.yaml", &told)?;
    k.ok_with("create --edit -f made.yaml", &editor, "")?;
    k.has("configmap made", "{.data.a}", "second")
}

pub(crate) fn patch(k: &Kubectl) -> Result<()> {
    k.ok("create deployment web --image=one --replicas=1")?;
    // Strategic: containers merge by name.
    let add = r#"{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"two"}]}}}}"#;
    k.is(&format!("patch deployment web -p '{add}'"), "deployment.apps/web patched")?;
    let names = "{.spec.template.spec.containers[*].name}";
    k.has("deployment web", names, "side one")?;
    k.is(&format!("patch deployment web -p '{add}'"), "deployment.apps/web patched (no change)")?;
    let drop = r#"{"spec":{"template":{"spec":{"containers":[{"name":"one","$patch":"delete"}]}}}}"#;
    k.ok(&format!("patch deployment web --type=strategic -p '{drop}'"))?;
    k.has("deployment web", names, "side")?;
    // Merge: lists are replaced.
    let merge = r#"{"spec":{"replicas":2,"template":{"spec":{"containers":[{"name":"only","image":"three"}]}}},"metadata":{"labels":{"app":null}}}"#;
    k.ok(&format!("patch deployment web --type=merge -p '{merge}'"))?;
    k.has("deployment web", &format!("{names} {{.metadata.labels}}"), "only")?;
    // JSON.
    let json = r#"[{"op":"test","path":"/spec/replicas","value":2},{"op":"replace","path":"/spec/replicas","value":0},{"op":"add","path":"/metadata/labels","value":{"a~b":"no"}}]"#;
    k.refuses(&format!("patch deployment web --type=json -p '{json}'"), "metadata.labels: Invalid value: \"a~b\"")?;
    let json = json.replace("a~b", "ab");
    k.ok(&format!("patch deployment web --type=json -p '{json}'"))?;
    k.has("deployment web", "{.spec.replicas} {.metadata.labels.ab}", "0 no")?;
    let told = k.tell(&format!("patch deployment web --type=json -p '{json}'"), &[], "")?;
    ensure!(
        told.code == Some(1) && told.stderr.contains("The request is invalid"),
        "a failed test must refuse the patch: {told:?}"
    );
    let missing = r#"[{"op":"remove","path":"/metadata/labels/none"}]"#;
    k.refuses(&format!("patch deployment web --type=json -p '{missing}'"), "The request is invalid")?;
    k.refuses("patch deployment web --type=json -p '{}'", "error")?;
    // From a file, of a subresource, and of what is in a file.
    k.file("patch.yaml", "spec: {replicas: 6}\n")?;
    k.is("patch deployment web --patch-file=patch.yaml", "deployment.apps/web patched")?;
    k.has("deployment web", "{.spec.replicas}", "6")?;
    k.says(
        "patch deployment web --subresource=scale --type=merge -p '{\"spec\":{\"replicas\":7}}'",
        &["scale.autoscaling/web patched"],
    )?;
    k.has("deployment web", "{.spec.replicas}", "7")?;
    k.says("patch deployment web --subresource=status --type=merge -p '{\"status\":{\"collisionCount\":5},\"spec\":{\"replicas\":9}}'", &["patched"])?;
    k.has("deployment web", "{.spec.replicas} {.status.collisionCount}", "7 5")?;
    k.refuses("patch deployment web -p '{\"spec\":{\"replicas\":\"many\"}}'", "invalid")?;
    k.refuses("patch deployment none -p '{}'", "Error from server (NotFound): deployments.apps \"none\" not found")
}

pub(crate) fn replace(k: &Kubectl) -> Result<()> {
    k.ok("create configmap map --from-literal=a=1")?;
    let old = k.ok("get configmap map -o yaml")?;
    k.file("map.yaml", &old.replace("a: \"1\"", "b: \"2\""))?;
    k.is("replace -f map.yaml", "configmap/map replaced")?;
    k.has("configmap map", "{.data}", "{\"b\":\"2\"}")?;
    // The file's resourceVersion is old now.
    k.refuses(
        "replace -f map.yaml",
        "Error from server (Conflict): error when replacing \"map.yaml\": Operation cannot be fulfilled on configmaps \"map\": the object has been modified; please apply your changes to the latest version and try again",
    )?;
    let uid = k.ok("get configmap map -o jsonpath={.metadata.uid}")?;
    k.file("force.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: map}\ndata: {c: '3'}\n")?;
    k.says("replace --force -f force.yaml", &["configmap \"map\" deleted", "configmap/map replaced"])?;
    ensure!(uid != k.ok("get configmap map -o jsonpath={.metadata.uid}")?, "--force makes a new object");
    k.file("raw.json", "{\"metadata\":{\"name\":\"map\"},\"data\":{\"d\":\"4\"}}")?;
    k.says("replace --raw /api/v1/namespaces/{ns}/configmaps/map -f raw.json", &["\"data\":{\"d\":\"4\"}"])?;
    k.file("none.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: none}\n")?;
    k.refuses(
        "replace -f none.yaml",
        "Error from server (NotFound): error when replacing \"none.yaml\": configmaps \"none\" not found",
    )
}

pub(crate) fn label_and_annotate(k: &Kubectl) -> Result<()> {
    for name in ["one", "two"] {
        k.ok(&format!("create configmap {name}"))?;
    }
    k.is("label configmap one a=b", "configmap/one labeled")?;
    k.is("label configmap one a=b", "configmap/one not labeled")?;
    k.refuses("label configmap one a=c", "'a' already has a value (b), and --overwrite is false")?;
    k.is("label configmap one a=c --overwrite", "configmap/one labeled")?;
    k.says("label configmap one --list", &["a=c"])?;
    k.says("label configmap --all d=e", &["configmap/one labeled", "configmap/two labeled"])?;
    k.says("label configmap -l a=c f=g", &["configmap/one labeled"])?;
    k.is("get configmap -l d=e,!f,d!=x -o name", "configmap/kube-root-ca.crt\nconfigmap/two")?;
    k.is("label configmap one a-", "configmap/one unlabeled")?;
    k.has("configmap one", "{.metadata.labels}", "{\"d\":\"e\",\"f\":\"g\"}")?;
    k.refuses("label configmap one --resource-version=1 x=y", "the object has been modified")?;
    k.refuses("label configmap one 'bad value=x'", "name part must consist of alphanumeric characters")?;
    k.is("annotate configmap one note='some words'", "configmap/one annotated")?;
    k.has("configmap one", "{.metadata.annotations.note}", "some words")?;
    k.says("annotate configmap one --list", &["note=some words"])?;
    k.is("annotate configmap one note-", "configmap/one annotated")?;
    k.has("configmap one", "{.metadata.annotations}", "")
}

pub(crate) fn scale_and_set(k: &Kubectl) -> Result<()> {
    k.ok("create deployment web --image=one --replicas=1")?;
    k.is("scale deployment/web --replicas=3", "deployment.apps/web scaled")?;
    k.is("scale --current-replicas=3 --replicas=2 deployment/web", "deployment.apps/web scaled")?;
    k.refuses("scale --current-replicas=9 --replicas=2 deployment/web", "Expected replicas to be 9, was 2")?;
    k.has("deployment web", "{.spec.replicas}", "2")?;
    let container = "{.spec.template.spec.containers[0]";
    k.is("set image deployment/web one=two:2", "deployment.apps/web image updated")?;
    k.has("deployment web", &format!("{container}.image}}"), "two:2")?;
    k.is("set env deployment/web A=1 B=2", "deployment.apps/web env updated")?;
    k.ok("set env deployment/web A- B=3")?;
    k.says("set env deployment/web --list", &["B=3"])?;
    k.ok("create configmap settings --from-literal=COLOUR=blue")?;
    k.ok("set env deployment/web --from=configmap/settings --prefix=MY_")?;
    k.has(
        "deployment web",
        &format!("{container}.env[?(@.name==\"MY_COLOUR\")].valueFrom.configMapKeyRef.name}}"),
        "settings",
    )?;
    k.says("set env deployment/web --list --resolve", &["MY_COLOUR=blue"])?;
    k.is(
        "set resources deployment/web --limits=cpu=200m,memory=1Gi --requests=cpu=0.1",
        "deployment.apps/web resource requirements updated",
    )?;
    k.has(
        "deployment web",
        &format!("{container}.resources.limits.memory}} {container}.resources.requests.cpu}}"),
        "1Gi 100m",
    )?;
    k.ok("create serviceaccount robot")?;
    k.is("set serviceaccount deployment/web robot", "deployment.apps/web serviceaccount updated")?;
    k.has(
        "deployment web",
        "{.spec.template.spec.serviceAccountName} {.spec.template.spec.serviceAccount}",
        "robot robot",
    )?;
    k.ok("create service clusterip web --tcp=80")?;
    k.is("set selector service web a=b", "service/web selector updated")?;
    k.has("service web", "{.spec.selector}", "{\"a\":\"b\"}")?;
    k.ok("create rolebinding some --clusterrole=view --user=me")?;
    k.is("set subject rolebinding some --group=us", "rolebinding.rbac.authorization.k8s.io/some subjects updated")?;
    k.has("rolebinding some", "{.subjects[*].name}", "me us")
}
