//! `kubectl apply` and its relatives, client side: three-way merges by the annotation kubectl keeps.

use anyhow::{Result, ensure};
use skep_tests::kubectl::Kubectl;

fn deployment(replicas: u32, image: &str, env: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{ name: web, labels: {{ tour: '{{ns}}' }} }}
spec:
  replicas: {replicas}
  selector: {{ matchLabels: {{ app: web }} }}
  template:
    metadata: {{ labels: {{ app: web }} }}
    spec:
      containers:
        - {{ name: main, image: '{image}', env: [{env}] }}
        - {{ name: side, image: side }}
"
    )
}

pub(crate) fn client_side(k: &Kubectl) -> Result<()> {
    let containers = "{.spec.template.spec.containers[0].image} {.spec.template.spec.containers[0].env[*].name}";
    let ab = "{name: A, value: '1'}, {name: B, value: '2'}";
    k.reads("apply -f -", &deployment(2, "one", ab), &["deployment.apps/web created"])?;
    k.reads("apply -f -", &deployment(2, "one", ab), &["deployment.apps/web unchanged"])?;
    k.has("deployment web", containers, "one A B")?;
    // What another one set stays, what the manifest no longer has goes.
    k.ok("scale deployment web --replicas=5")?;
    k.ok("set env deployment/web -c main THEIRS=3")?;
    k.ok("label deployment web theirs=1")?;
    k.reads("apply -f -", &deployment(2, "two", "{name: A, value: '9'}"), &["deployment.apps/web configured"])?;
    k.has("deployment web", containers, "two A THEIRS")?;
    k.has("deployment web", "{.spec.replicas} {.metadata.labels.theirs}", "2 1")?;
    k.says("apply view-last-applied deployment web", &["image: two", "replicas: 2"])?;
    k.file("again.yaml", &deployment(3, "three", ""))?;
    k.is("apply set-last-applied -f again.yaml", "deployment.apps/web configured")?;
    k.says("apply view-last-applied deployment/web -o json", &["\"replicas\": 3"])?;
    k.has("deployment web", "{.spec.replicas}", "2")?;
    let edited = k.ok_with("apply edit-last-applied deployment/web", &[("EDITOR", "sed -i s/three/four/")], "")?;
    ensure!(edited.contains("deployment.apps/web edited"), "{edited}");
    k.says("apply view-last-applied deployment/web", &["image: four"])?;
    k.reads(
        "apply --dry-run=server -f -",
        &deployment(7, "x", ""),
        &["deployment.apps/web configured (server dry run)"],
    )?;
    k.has("deployment web", "{.spec.replicas}", "2")?;
    // A field that must not change.
    let other = deployment(2, "two", "").replace("app: web", "app: other");
    let told = k.tell("apply -f -", &[], &other.replace("{ns}", k.namespace()))?;
    ensure!(told.code == Some(1) && told.stderr.contains("field is immutable"), "{told:?}");
    // The warning about objects that apply did not make.
    k.ok("create configmap bare --from-literal=a=b")?;
    let bare = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bare}\ndata: {c: d}\n";
    let told = k.tell("apply -f -", &[], bare)?;
    ensure!(
        told.stderr.contains("missing the kubectl.kubernetes.io/last-applied-configuration annotation"),
        "{told:?}"
    );
    k.has("configmap bare", "{.data.a}{.data.c}", "bd")
}

pub(crate) fn diff(k: &Kubectl) -> Result<()> {
    k.file("web.yaml", &deployment(2, "one", ""))?;
    let diff = |expected: Option<i32>| -> Result<String> {
        let told = k.tell("diff -f web.yaml", &[], "")?;
        ensure!(told.code == expected, "kubectl diff: {told:?}");
        Ok(told.stdout)
    };
    ensure!(diff(Some(1))?.contains("+kind: Deployment"), "a new object is not all new");
    k.ok("apply -f web.yaml")?;
    let none = diff(Some(0))?;
    ensure!(none.is_empty(), "nothing changed, but: {none}");
    k.file("web.yaml", &deployment(4, "one", ""))?;
    let some = diff(Some(1))?;
    ensure!(some.contains("-  replicas: 2") && some.contains("+  replicas: 4"), "{some}");
    ensure!(some.contains("+  generation: "), "a dry run goes as far as the generation: {some}");
    k.has("deployment web", "{.spec.replicas}", "2")
}

pub(crate) fn prune(k: &Kubectl) -> Result<()> {
    let map =
        |name: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{prune: 'yes'}}}}\n");
    let both = format!("{}---\n{}", map("keep"), map("drop"));
    k.reads("apply -f -", &both, &["configmap/keep created", "configmap/drop created"])?;
    k.reads(
        "apply --prune -l prune=yes --prune-allowlist=core/v1/ConfigMap -f -",
        &map("keep"),
        &["configmap/keep unchanged", "configmap/drop pruned"],
    )?;
    k.is("get configmap -l prune=yes -o name", "configmap/keep")
}

pub(crate) fn kustomize(k: &Kubectl) -> Result<()> {
    k.file("base/web.yaml", &deployment(1, "web", ""))?;
    k.file(
        "base/kustomization.yaml",
        "resources: [web.yaml]\nconfigMapGenerator: [{name: settings, literals: [a=b]}]\n",
    )?;
    k.file(
        "over/kustomization.yaml",
        "resources: [../base]\nnamePrefix: big-\nreplicas: [{name: web, count: 3}]\nimages: [{name: web, newTag: '7'}]\n",
    )?;
    let made = k.says("kustomize over", &["name: big-web", "replicas: 3", "image: web:7", "name: big-settings-"])?;
    ensure!(made.contains("kind: ConfigMap"), "{made}");
    k.says("apply -k over", &["configmap/big-settings-", "deployment.apps/big-web created"])?;
    k.has("deployment big-web", "{.spec.replicas} {.spec.template.spec.containers[0].image}", "3 web:7")?;
    k.says("diff -k over", &[])?;
    k.says("get -k over -o name", &["deployment.apps/big-web"])?;
    k.says("delete -k over", &["deployment.apps \"big-web\" deleted"]).map(drop)
}
