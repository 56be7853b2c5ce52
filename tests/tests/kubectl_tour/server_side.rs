//! `kubectl apply --server-side`: owners of fields, their conflicts, and objects that come from client-side apply.

use anyhow::{Result, ensure};
use skep_tests::kubectl::Kubectl;

const MANAGERS: &str = "{range .metadata.managedFields[*]}{.manager}/{.operation}/{.subresource} {end}";

fn web(replicas: Option<u32>, image: &str, env: &str) -> String {
    let replicas = replicas.map(|replicas| format!("replicas: {replicas}, ")).unwrap_or_default();
    let env = if env.is_empty() { String::new() } else { format!(", env: [{env}]") };
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{ name: web }}
spec:
  {{ {replicas}selector: {{ matchLabels: {{ app: web }} }},
     template: {{ metadata: {{ labels: {{ app: web }} }},
                  spec: {{ containers: [{{ name: main, image: '{image}'{env} }}] }} }} }}
"
    )
}

pub(crate) fn conflicts(k: &Kubectl) -> Result<()> {
    let ab = "{name: A, value: '1'}, {name: B, value: '2'}";
    k.file("web.yaml", &web(Some(2), "one", ab))?;
    k.is(
        "apply --server-side -f web.yaml --dry-run=server",
        "deployment.apps/web serverside-applied (server dry run)",
    )?;
    k.refuses("get deployment web", "not found")?;
    k.is("apply --server-side -f web.yaml", "deployment.apps/web serverside-applied")?;
    let version = k.ok("get deployment web -o jsonpath={.metadata.generation}")?;
    k.is("apply --server-side -f web.yaml", "deployment.apps/web serverside-applied")?;
    k.has("deployment web", "{.metadata.generation}", &version)?;
    k.says(
        "get deployment web -o yaml --show-managed-fields",
        &["manager: kubectl\n", "operation: Apply", "f:replicas: {}", "k:{\"name\":\"main\"}:", "fieldsType: FieldsV1"],
    )?;
    let hidden = k.ok("get deployment web -o yaml")?;
    ensure!(!hidden.contains("managedFields"), "kubectl hides them: {hidden}");

    // Another one who wants another value is told who has it.
    k.file("other.yaml", &web(Some(3), "one", ""))?;
    let told = k.tell("apply --server-side --field-manager=other -f other.yaml", &[], "")?;
    for part in [
        "Apply failed with 1 conflict: conflict with \"kubectl\": .spec.replicas",
        "Please review the fields above--they currently have other managers.",
    ] {
        ensure!(told.code == Some(1) && told.stderr.contains(part), "no {part:?} in {told:?}");
    }
    k.file("more.yaml", &web(Some(3), "two", ""))?;
    let told = k.tell("apply --server-side --field-manager=other -f more.yaml", &[], "")?;
    for part in [
        "Apply failed with 2 conflicts: conflicts with \"kubectl\":",
        "- .spec.replicas",
        "- .spec.template.spec.containers[name=\"main\"].image",
    ] {
        ensure!(told.code == Some(1) && told.stderr.contains(part), "no {part:?} in {told:?}");
    }
    k.has("deployment web", "{.spec.replicas}", "2")?;
    k.is(
        "apply --server-side --field-manager=other --force-conflicts -f other.yaml",
        "deployment.apps/web serverside-applied",
    )?;
    k.has("deployment web", "{.spec.replicas}", "3")?;
    let told = k.tell("apply --server-side -f web.yaml", &[], "")?;
    ensure!(told.stderr.contains("conflict with \"other\": .spec.replicas"), "{told:?}");

    // What nobody applies any more goes, what another one also applies stays.
    k.file("web.yaml", &web(None, "one", "{name: B, value: '2'}"))?;
    k.says("apply --server-side -f web.yaml", &["serverside-applied"])?;
    k.has("deployment web", "{.spec.replicas} {.spec.template.spec.containers[0].env[*].name}", "3 B")?;
    // The default comes back once the last owner lets go.
    k.file("other.yaml", &web(None, "one", ""))?;
    k.says("apply --server-side --field-manager=other -f other.yaml", &["serverside-applied"])?;
    k.has("deployment web", "{.spec.replicas}", "1")
}

pub(crate) fn other_writers(k: &Kubectl) -> Result<()> {
    k.file("web.yaml", &web(Some(2), "one", "{name: A, value: '1'}"))?;
    k.says("apply --server-side -f web.yaml --field-manager=tour", &["serverside-applied"])?;
    k.ok("scale deployment web --replicas=5")?;
    k.ok("set image deployment/web main=two")?;
    k.ok("label deployment web theirs=1")?;
    // A command that names no manager is known by its program.
    let program = skep_tests::kubectl::program(k.version())?;
    let program = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    k.waits(
        &format!("get deployment web -o 'jsonpath={MANAGERS}' --show-managed-fields"),
        &[
            "tour/Apply/ ",
            &format!("{program}/Update/scale "),
            "kubectl-set/Update/ ",
            "kubectl-label/Update/ ",
            "/Update/status ",
        ],
    )?;
    let told = k.tell("apply --server-side -f web.yaml --field-manager=tour", &[], "")?;
    for part in [
        "Apply failed with 2 conflicts:",
        &format!("conflicts with \"{program}\" with subresource \"scale\" using apps/v1:\n- .spec.replicas"),
        "conflicts with \"kubectl-set\" using apps/v1:\n- .spec.template.spec.containers[name=\"main\"].image",
    ] {
        ensure!(told.code == Some(1) && told.stderr.contains(part), "no {part:?} in {told:?}");
    }
    // Without what others have taken over there is nothing to quarrel about.
    k.file("less.yaml", &web(None, "two", "{name: A, value: '1'}"))?;
    k.says("apply --server-side -f less.yaml --field-manager=tour", &["serverside-applied"])?;
    k.has("deployment web", "{.spec.replicas} {.metadata.labels.theirs}", "5 1")?;
    // A diff of what an apply would do, without doing it.
    k.file("diff.yaml", &web(None, "two", "{name: A, value: '9'}"))?;
    let told = k.tell("diff --server-side --field-manager=tour -f diff.yaml", &[], "")?;
    ensure!(told.code == Some(1) && told.stdout.contains("value: \"9\""), "{told:?}");
    k.has("deployment web", "{.spec.template.spec.containers[0].env[0].value}", "1")?;
    k.file("typo.yaml", &web(Some(2), "one", "").replace("replicas", "replica"))?;
    k.refuses("apply --server-side -f typo.yaml", ".spec.replica: field not declared in schema")
}

pub(crate) fn migration(k: &Kubectl) -> Result<()> {
    let managers = format!("get deployment web -o 'jsonpath={MANAGERS}' --show-managed-fields");
    k.file("web.yaml", &web(Some(2), "one", "{name: A, value: '1'}, {name: B, value: '2'}"))?;
    k.says("apply -f web.yaml", &["created"])?;
    k.says(&managers, &["kubectl-client-side-apply/Update/ "])?;
    // Fields that client-side apply owned go as if server-side apply had always had them.
    k.file("web.yaml", &web(Some(3), "two", "{name: A, value: '1'}"))?;
    k.is("apply --server-side -f web.yaml", "deployment.apps/web serverside-applied")?;
    k.has(
        "deployment web",
        "{.spec.replicas} {.spec.template.spec.containers[0].image} {.spec.template.spec.containers[0].env[*].name}",
        "3 two A",
    )?;
    let now = k.says(&managers, &["kubectl/Apply/ "])?;
    ensure!(!now.contains("client-side"), "the old owner is still there: {now}");
    // The annotation follows, so that a client of the old kind can take over again.
    k.says("apply view-last-applied deployment web", &["image: two", "replicas: 3"])?;
    k.file("web.yaml", &web(Some(4), "two", ""))?;
    k.is("apply -f web.yaml", "deployment.apps/web configured")?;
    k.has("deployment web", "{.spec.replicas}{.spec.template.spec.containers[0].env}", "4")
}
