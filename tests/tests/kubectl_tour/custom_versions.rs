//! A definition of several versions: objects read and written in each.

use anyhow::{Result, ensure};
use skep_tests::{cluster::LIMIT, kubectl::Kubectl};
use xtask::wait;

/// Two versions that differ in a field, a column and what they say of themselves.
const DEFINITION: &str = "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: { name: gears.{ns}.example.com }
spec:
  group: '{ns}.example.com'
  scope: Namespaced
  names: { plural: gears, singular: gear, kind: Gear, listKind: GearList }
  versions:
    - name: v1beta1
      served: true
      storage: V1BETA1_STORED
      additionalPrinterColumns: [{ name: Teeth, type: integer, jsonPath: .spec.teeth }]
      schema:
        openAPIV3Schema:
          type: object
          description: A gear as it was at first.
          properties:
            spec:
              type: object
              properties: { teeth: { type: integer }, maker: { type: string, description: Who made it. } }
    - name: v1
      served: true
      storage: V1_STORED
      additionalPrinterColumns:
        - { name: Teeth, type: integer, jsonPath: .spec.teeth }
        - { name: Pitch, type: integer, jsonPath: .spec.pitch }
      schema:
        openAPIV3Schema:
          type: object
          description: A gear as it is now.
          properties:
            spec:
              type: object
              properties:
                teeth: { type: integer }
                maker: { type: string }
                pitch: { type: integer, default: 2, description: How far its teeth are apart. }
";

fn gear(version: &str, spec: &str) -> String {
    format!("apiVersion: '{{ns}}.example.com/{version}'\nkind: Gear\nmetadata: {{ name: one }}\nspec: {{ {spec} }}\n")
}

/// Defines gears, which are stored in one of the versions: what its schema does not know is lost.
fn defined(k: &Kubectl, stored: &str) -> Result<()> {
    let flag = |version: &str| (version == stored).to_string();
    let definition = DEFINITION.replace("V1BETA1_STORED", &flag("v1beta1")).replace("V1_STORED", &flag("v1"));
    k.file("definition.yaml", &definition)?;
    k.says("create -f definition.yaml", &["created"])?;
    k.says("wait --for=condition=Established crd/gears.{ns}.example.com --timeout=50s", &["condition met"])?;
    for version in ["v1beta1", "v1"] {
        k.waits(&format!("explain gears --api-version={{ns}}.example.com/{version}"), &["KIND:       Gear"])?;
    }
    Ok(())
}

fn removed(k: &Kubectl) -> Result<()> {
    k.says("delete -f definition.yaml --timeout=50s", &["\"gears.{ns}.example.com\" deleted"])?;
    k.refuses("get gears.{ns}.example.com", "error: the server doesn't have a resource type \"gears\"")
}

pub(crate) fn in_each_version(k: &Kubectl) -> Result<()> {
    const OLD: &str = "gears.v1beta1.{ns}.example.com";
    const NEW: &str = "gears.v1.{ns}.example.com";
    defined(k, "v1beta1")?;
    k.says("api-versions", &["{ns}.example.com/v1\n{ns}.example.com/v1beta1\n"])?;
    let table = k.ok("api-resources --api-group={ns}.example.com --no-headers")?;
    let row = format!("gears {}.example.com/v1 true Gear", k.namespace());
    ensure!(table.split_whitespace().eq(row.split(' ')), "the preferred version alone: {table}");
    let explain =
        |version: &str, field: &str| format!("explain gears{field} --api-version={{ns}}.example.com/{version}");
    k.says(&explain("v1beta1", ""), &["VERSION:    v1beta1", "A gear as it was at first."])?;
    k.says(&explain("v1", ""), &["VERSION:    v1\n", "A gear as it is now."])?;
    k.says(&explain("v1", ".spec.pitch"), &["FIELD: pitch <integer>", "How far its teeth are apart."])?;
    k.refuses(&explain("v1beta1", ".spec.pitch"), "field \"pitch\" does not exist")?;
    k.says("explain gears.{ns}.example.com", &["VERSION:    v1\n"])?;

    k.reads("create -f -", &gear("v1beta1", "teeth: 12, maker: me"), &["gear.{ns}.example.com/one created"])?;
    k.has(&format!("{OLD}/one"), "{.apiVersion} {.spec}", "{ns}.example.com/v1beta1 {\"maker\":\"me\",\"teeth\":12}")?;
    let new = "{ns}.example.com/v1 {\"maker\":\"me\",\"pitch\":2,\"teeth\":12}";
    k.has(&format!("{NEW}/one"), "{.apiVersion} {.spec}", new)?;
    k.has("gears.{ns}.example.com/one", "{.apiVersion} {.spec}", new)?;
    k.says(&format!("get {OLD}"), &["NAME   TEETH\none    12"])?;
    k.says(&format!("get {NEW}"), &["NAME   TEETH   PITCH\none    12      2"])?;

    // Written through either, read through both.
    k.says(&format!("patch {NEW}/one --type=merge -p '{{\"spec\":{{\"teeth\":13}}}}'"), &["patched"])?;
    k.has(&format!("{OLD}/one"), "{.spec.teeth}", "13")?;
    let edited = k.ok_with(&format!("edit {OLD}/one"), &[("EDITOR", "sed -i 's/teeth: 13/teeth: 14/'")], "")?;
    ensure!(edited.contains("edited"), "{edited}");
    k.has(&format!("{NEW}/one"), "{.spec.teeth}", "14")?;
    k.says(&format!("label {OLD}/one a=b"), &["labeled"])?;
    k.is(&format!("get {NEW} -l a=b -o name"), &format!("gear.{}.example.com/one", k.namespace()))?;
    let watching = k.spawn(&format!("get {NEW} --watch -o 'jsonpath={{.apiVersion}} {{.spec.teeth}}{{\"\\n\"}}'"))?;
    watching.hears("/v1 14")?;
    k.says(&format!("patch {OLD}/one --type=merge -p '{{\"spec\":{{\"teeth\":15}}}}'"), &["patched"])?;
    watching.hears("/v1 15")?;
    drop(watching);

    // The new version becomes the one stored, and the old one is deprecated.
    let change = "[{\"op\":\"replace\",\"path\":\"/spec/versions/0/storage\",\"value\":false},\
                  {\"op\":\"replace\",\"path\":\"/spec/versions/1/storage\",\"value\":true},\
                  {\"op\":\"add\",\"path\":\"/spec/versions/0/deprecated\",\"value\":true}]";
    k.says(&format!("patch crd gears.{{ns}}.example.com --type=json -p '{change}'"), &["patched"])?;
    k.has("crd gears.{ns}.example.com", "{.status.storedVersions}", "[\"v1beta1\",\"v1\"]")?;
    let warning = format!("Warning: {}.example.com/v1beta1 Gear is deprecated", k.namespace());
    wait::until("the deprecation is told", LIMIT, || {
        let told = k.tell(&format!("get {OLD} one"), &[], "")?;
        ensure!(told.code == Some(0) && told.stderr.contains(&warning), "{told:?}");
        Ok(())
    })?;
    k.has(&format!("{NEW}/one"), "{.spec.teeth} {.spec.pitch}", "15 2")?;
    removed(k)
}

pub(crate) fn applied_across(k: &Kubectl) -> Result<()> {
    const ONE: &str = "gears.v1.{ns}.example.com/one";
    defined(k, "v1")?;
    k.file("old.yaml", &gear("v1beta1", "teeth: 12, maker: me"))?;
    k.file("new.yaml", &gear("v1", "teeth: 12, pitch: 3"))?;
    // From the client: what the other version's file left out goes.
    k.says("apply -f old.yaml", &["gear.{ns}.example.com/one created"])?;
    k.says("diff -f old.yaml", &[])?;
    k.says("apply -f new.yaml", &["configured"])?;
    k.has(ONE, "{.spec}", "{\"pitch\":3,\"teeth\":12}")?;
    k.says("apply -f new.yaml", &["unchanged"])?;
    k.says("delete -f old.yaml", &["deleted"])?;

    // From the server: who applied in one version owns the fields in the other.
    let apply = |manager: &str, file: &str| format!("apply --server-side --field-manager={manager} -f {file}");
    k.says(&apply("one", "old.yaml"), &["serverside-applied"])?;
    k.says(&apply("two", "new.yaml"), &["serverside-applied"])?;
    k.has(ONE, "{.spec}", "{\"maker\":\"me\",\"pitch\":3,\"teeth\":12}")?;
    k.file("more.yaml", &gear("v1", "teeth: 20, pitch: 3"))?;
    k.refuses(&apply("two", "more.yaml"), "conflict with \"one\": .spec.teeth")?;
    k.says(&format!("{} --force-conflicts", apply("two", "more.yaml")), &["serverside-applied"])?;
    k.has(ONE, "{.spec.teeth}", "20")?;
    k.refuses(&apply("one", "old.yaml"), "conflict with \"two\": .spec.teeth")?;
    // One and the same may go on in the other version; what it leaves out goes.
    k.file("maker.yaml", &gear("v1", "maker: you"))?;
    k.says(&apply("one", "maker.yaml"), &["serverside-applied"])?;
    k.has(ONE, "{.spec}", "{\"maker\":\"you\",\"pitch\":3,\"teeth\":20}")?;
    k.is(
        &format!("get {ONE} --show-managed-fields -o 'jsonpath={{.metadata.managedFields[*].apiVersion}}'"),
        "{ns}.example.com/v1 {ns}.example.com/v1",
    )?;
    removed(k)
}
