//! Custom resources: a definition, and its objects with every command that built-in ones have.

use anyhow::{Result, ensure};
use skep_tests::kubectl::Kubectl;

/// A definition for this chapter alone: its group is named after the namespace.
fn definition(short: &str) -> String {
    format!(
        "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{ name: widgets.{{ns}}.example.com }}
spec:
  group: '{{ns}}.example.com'
  scope: Namespaced
  names: {{ plural: widgets, singular: widget, kind: Widget, listKind: WidgetList, shortNames: [{short}] }}
  versions:
    - name: v1
      served: true
      storage: true
      subresources:
        status: {{}}
        scale: {{ specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas }}
      selectableFields: [{{ jsonPath: .spec.colour }}]
      additionalPrinterColumns:
        - {{ name: Size, type: integer, jsonPath: .spec.size }}
        - {{ name: Phase, type: string, jsonPath: .status.phase }}
        - {{ name: Colour, type: string, jsonPath: .spec.colour, priority: 1 }}
        - {{ name: Age, type: date, jsonPath: .metadata.creationTimestamp }}
      schema:
        openAPIV3Schema:
          type: object
          description: A widget is what this tour makes.
          properties:
            spec:
              type: object
              description: What is wanted of the widget.
              required: [size]
              x-kubernetes-validations:
                - {{ rule: 'self.size <= self.limit', message: size must not be over the limit }}
                - {{ rule: '!has(oldSelf.colour) || has(self.colour)', message: a colour cannot be taken away }}
              properties:
                size: {{ type: integer, minimum: 1, description: How large it is. }}
                limit: {{ type: integer, default: 10 }}
                replicas: {{ type: integer, default: 1 }}
                colour: {{ type: string, enum: [blue, green, red] }}
                parts:
                  type: array
                  x-kubernetes-list-type: map
                  x-kubernetes-list-map-keys: [name]
                  items:
                    type: object
                    required: [name]
                    properties: {{ name: {{ type: string }}, count: {{ type: integer }} }}
            status:
              type: object
              properties:
                phase: {{ type: string }}
                replicas: {{ type: integer }}
                conditions:
                  type: array
                  items:
                    type: object
                    required: [type, status]
                    properties: {{ type: {{ type: string }}, status: {{ type: string }} }}
"
    )
}

/// A manifest of widget `name` with `spec` in YAML's flow style.
fn widget(name: &str, spec: &str) -> String {
    format!("apiVersion: '{{ns}}.example.com/v1'\nkind: Widget\nmetadata: {{ name: {name} }}\nspec: {{ {spec} }}\n")
}

/// A short name that no other version's chapter has.
fn short(k: &Kubectl) -> String {
    let digits: String = k.namespace().chars().filter(char::is_ascii_digit).collect();
    let chapter: String = k.namespace().chars().filter(char::is_ascii_alphabetic).collect();
    format!("w{chapter}{digits}")
}

/// Defines widgets and waits until the API's documentation has them.
fn defined(k: &Kubectl) -> Result<()> {
    k.file("definition.yaml", &definition(&short(k)))?;
    k.is(
        "create -f definition.yaml",
        "customresourcedefinition.apiextensions.k8s.io/widgets.{ns}.example.com created",
    )?;
    k.says(
        "wait --for=condition=Established crd/widgets.{ns}.example.com --timeout=50s",
        &["customresourcedefinition.apiextensions.k8s.io/widgets.{ns}.example.com condition met"],
    )?;
    k.waits("explain widgets --api-version={ns}.example.com/v1", &["KIND:       Widget"]).map(drop)
}

/// Takes the definition away, and its objects with it.
fn removed(k: &Kubectl) -> Result<()> {
    k.says("delete -f definition.yaml --timeout=50s", &["\"widgets.{ns}.example.com\" deleted"])?;
    k.refuses("get widgets.{ns}.example.com", "error: the server doesn't have a resource type \"widgets\"")
}

pub(crate) fn definitions(k: &Kubectl) -> Result<()> {
    defined(k)?;
    k.has("crd widgets.{ns}.example.com", "{.status.acceptedNames.kind} {.status.storedVersions[0]}", "Widget v1")?;
    k.says("get crd widgets.{ns}.example.com", &["CREATED AT", "Z"])?;
    k.says(
        "describe crd widgets.{ns}.example.com",
        &["Accepted Names:", "initial names have been accepted", "NamesAccepted", "Established"],
    )?;
    let table = k.ok("api-resources --api-group={ns}.example.com")?;
    let row = format!("widgets {} {}.example.com/v1 true Widget", short(k), k.namespace());
    ensure!(table.lines().any(|line| line.split_whitespace().eq(row.split(' '))), "no {row:?} in\n{table}");
    k.says("api-versions", &["{ns}.example.com/v1\n"])?;
    let v1 = "--api-version={ns}.example.com/v1";
    k.says(
        &format!("explain widgets {v1}"),
        &[
            "GROUP:      {ns}.example.com",
            "A widget is what this tour makes.",
            "  spec\t<Object>",
            "  metadata\t<ObjectMeta>",
        ],
    )?;
    k.says(
        &format!("explain widgets.spec {v1}"),
        &[
            "FIELD: spec <Object>",
            "What is wanted of the widget.",
            "  size\t<integer> -required-",
            "  parts\t<[]Object>",
        ],
    )?;
    k.says(
        &format!("explain widgets.spec.colour {v1}"),
        &["FIELD: colour <string>", "ENUM:\n    blue\n    green\n    red\n"],
    )?;
    removed(k)
}

pub(crate) fn objects(k: &Kubectl) -> Result<()> {
    const ONE: &str = "widgets.{ns}.example.com/one";
    let named = format!("widget.{}.example.com/one", k.namespace());
    defined(k)?;
    k.reads("create -f -", &widget("one", "size: 3, colour: red"), &["widget.{ns}.example.com/one created"])?;
    k.has(ONE, "{.spec.limit} {.spec.replicas} {.metadata.generation}", "10 1 1")?;
    let table = k.says("get widgets.{ns}.example.com", &["NAME   SIZE   PHASE   AGE\n", "one    3              "])?;
    ensure!(!table.contains("COLOUR"), "a column of priority 1 is for the wide form: {table}");
    k.says("get widgets.{ns}.example.com -o wide", &["COLOUR", "red"])?;
    k.reads("create -f -", &widget("two", "size: 4, colour: blue"), &["created"])?;
    k.is("get widgets.{ns}.example.com --field-selector spec.colour=blue -o name", &named.replace("/one", "/two"))?;
    k.is(
        "get widgets.{ns}.example.com --sort-by=.spec.colour -o custom-columns=N:.metadata.name,S:.spec.size",
        "N     S\ntwo   4\none   3",
    )?;
    k.says("describe widgets.{ns}.example.com one", &["Kind:         Widget", "Spec:\n", "  Size:      3"])?;

    k.is(&format!("label {ONE} a=b"), &format!("{named} labeled"))?;
    k.is(&format!("annotate {ONE} c=d"), &format!("{named} annotated"))?;
    k.is("get widgets.{ns}.example.com -l a=b -o name", &named)?;
    k.is(&format!("patch {ONE} --type=merge -p '{{\"spec\":{{\"size\":5}}}}'"), &format!("{named} patched"))?;
    k.is(
        &format!("patch {ONE} --type=json -p '[{{\"op\":\"replace\",\"path\":\"/spec/size\",\"value\":6}}]'"),
        &format!("{named} patched"),
    )?;
    k.has(ONE, "{.spec.size} {.metadata.generation}", "6 3")?;
    k.refuses(
        &format!("patch {ONE} -p '{{\"spec\":{{\"size\":7}}}}'"),
        "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
    )?;
    let edited = k.ok_with(&format!("edit {ONE}"), &[("EDITOR", "sed -i 's/size: 6/size: 8/'")], "")?;
    ensure!(edited.contains(&format!("{named} edited")), "{edited}");
    k.has(ONE, "{.spec.size}", "8")?;
    k.file("replace.yaml", &widget("one", "size: 2, colour: green"))?;
    k.is("replace -f replace.yaml", &format!("{named} replaced"))?;
    k.has(ONE, "{.spec.size}{.metadata.labels}", "2")?;

    k.is(&format!("scale {ONE} --replicas=4"), &format!("{named} scaled"))?;
    k.has(ONE, "{.spec.replicas}", "4")?;
    k.refuses(&format!("scale {ONE} --replicas=5 --current-replicas=1"), "Expected replicas to be 1, was 4")?;

    // The two halves: what one writes the other does not.
    let generation = k.ok(&format!("get {ONE} -o jsonpath={{.metadata.generation}}"))?;
    let status = "{\"spec\":{\"size\":9},\"status\":{\"phase\":\"Made\",\"replicas\":4,\"conditions\":[{\"type\":\"Ready\",\"status\":\"False\"}]}}";
    k.says(&format!("patch {ONE} --subresource=status --type=merge -p '{status}'"), &["patched"])?;
    k.has(ONE, "{.spec.size} {.status.phase} {.metadata.generation}", &format!("2 Made {generation}"))?;
    k.says(&format!("patch {ONE} --type=merge -p '{{\"status\":{{\"phase\":\"Lost\"}}}}'"), &["patched"])?;
    k.has(ONE, "{.status.phase}", "Made")?;
    k.is(
        &format!("get {ONE} --subresource=scale -o 'jsonpath={{.spec.replicas}} {{.status.replicas}} {{.kind}}'"),
        "4 4 Scale",
    )?;
    k.says("get widgets.{ns}.example.com one", &["Made"])?;

    k.says(&format!("wait {ONE} --for=jsonpath='{{.status.phase}}'=Made --timeout=50s"), &["condition met"])?;
    let waiting = k.spawn(&format!("wait {ONE} --for=condition=Ready --timeout=50s"))?;
    let watching = k.spawn("get widgets.{ns}.example.com --watch --no-headers")?;
    watching.hears("one ")?;
    let ready = "[{\"op\":\"replace\",\"path\":\"/status/conditions/0/status\",\"value\":\"True\"},{\"op\":\"replace\",\"path\":\"/status/phase\",\"value\":\"Done\"}]";
    k.ok(&format!("patch {ONE} --subresource=status --type=json -p '{ready}'"))?;
    waiting.hears("condition met")?;
    watching.hears("Done")?;

    k.says(&format!("delete {ONE}"), &["widget.{ns}.example.com \"one\" deleted"])?;
    k.refuses(&format!("get {ONE}"), "Error from server (NotFound): widgets.{ns}.example.com \"one\" not found")?;
    removed(k)
}

pub(crate) fn applied(k: &Kubectl) -> Result<()> {
    const ONE: &str = "widgets.{ns}.example.com/one";
    defined(k)?;
    k.file("one.yaml", &widget("one", "size: 3, colour: red, parts: [{name: a, count: 1}, {name: b}]"))?;
    let told = k.tell("diff -f one.yaml", &[], "")?;
    ensure!(told.code == Some(1) && told.stdout.contains("+kind: Widget"), "{told:?}");
    k.says("apply -f one.yaml", &["/one created"])?;
    k.says("apply -f one.yaml", &["/one unchanged"])?;
    k.ok(&format!("patch {ONE} --type=merge -p '{{\"spec\":{{\"replicas\":7}}}}'"))?;
    k.file("one.yaml", &widget("one", "size: 4, colour: red, parts: [{name: b}]"))?;
    let told = k.tell("diff -f one.yaml", &[], "")?;
    ensure!(told.code == Some(1) && told.stdout.contains("+  size: 4"), "{told:?}");
    k.says("apply -f one.yaml", &["/one configured"])?;
    k.has(ONE, "{.spec.size} {.spec.replicas} {.spec.parts[*].name}", "4 7 b")?;

    // Server side: lists by their keys, owners by name.
    k.reads(
        "apply --server-side --field-manager=left -f -",
        &widget("two", "size: 1, parts: [{name: l, count: 1}]"),
        &["/two serverside-applied"],
    )?;
    k.reads(
        "apply --server-side --field-manager=right -f -",
        &widget("two", "size: 1, parts: [{name: r, count: 2}]"),
        &["/two serverside-applied"],
    )?;
    k.has("widgets.{ns}.example.com/two", "{.spec.parts[*].name}", "l r")?;
    k.file("two.yaml", &widget("two", "size: 1, parts: [{name: l, count: 5}]"))?;
    k.refuses(
        "apply --server-side --field-manager=right -f two.yaml",
        "conflict with \"left\": .spec.parts[name=\"l\"].count",
    )?;
    k.says("apply --server-side --field-manager=right --force-conflicts -f two.yaml", &["serverside-applied"])?;
    k.has("widgets.{ns}.example.com/two", "{.spec.parts[*].name} {.spec.parts[*].count}", "l 5")?;
    removed(k)
}

pub(crate) fn refused(k: &Kubectl) -> Result<()> {
    defined(k)?;
    let mut number = 0;
    let mut refused = |spec: &str, options: &str, expected: &[&str]| -> Result<()> {
        number += 1;
        k.file("bad.yaml", &widget(&format!("bad-{number}"), spec))?;
        let told = k.tell(&format!("create -f bad.yaml {options}"), &[], "")?;
        for part in expected {
            ensure!(told.code == Some(1) && told.stderr.contains(part), "{spec}: no {part:?} in {told:?}");
        }
        Ok(())
    };
    refused(
        "size: 0",
        "",
        &[
            "The Widget \"bad-1\" is invalid: spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1",
        ],
    )?;
    refused("colour: red", "", &["spec.size: Required value"])?;
    refused(
        "size: 1, colour: pink",
        "",
        &["spec.colour: Unsupported value: \"pink\": supported values: \"blue\", \"green\", \"red\""],
    )?;
    refused(
        "size: large",
        "",
        &["spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\""],
    )?;
    refused(
        "size: 11",
        "",
        &["The Widget \"bad-5\" is invalid: spec: Invalid value: ", "size must not be over the limit"],
    )?;
    refused("size: 1, parts: [{name: a}, {name: a}]", "", &["spec.parts[1]: Duplicate value: {\"name\":\"a\"}"])?;
    refused("size: 0, colour: pink", "", &["* spec.size: Invalid value: 0", "* spec.colour: Unsupported value"])?;
    refused(
        "size: 1, shape: round",
        "--validate=strict",
        &[
            "Error from server (BadRequest): error when creating \"bad.yaml\"",
            "strict decoding error: unknown field \"spec.shape\"",
        ],
    )?;
    refused("size: 1, shape: round", "", &["strict decoding error: unknown field \"spec.shape\""])?;
    // Warned of, and pruned.
    k.file("warn.yaml", &widget("warned", "size: 1, shape: round"))?;
    let told = k.tell("create -f warn.yaml --validate=warn", &[], "")?;
    ensure!(told.code == Some(0) && told.stderr.contains("Warning: unknown field \"spec.shape\""), "{told:?}");
    k.has("widgets.{ns}.example.com/warned", "{.spec.size}{.spec.shape}", "1")?;
    k.file("ignore.yaml", &widget("ignored", "size: 1, shape: round, colour: red"))?;
    let told = k.tell("create -f ignore.yaml --validate=ignore", &[], "")?;
    ensure!(told.code == Some(0) && told.stderr.is_empty(), "{told:?}");
    // A rule on a change.
    k.refuses(
        "patch widgets.{ns}.example.com/ignored --type=json -p '[{\"op\":\"remove\",\"path\":\"/spec/colour\"}]'",
        "a colour cannot be taken away",
    )?;
    let line = k.ok("get widgets.{ns}.example.com -o name")?;
    ensure!(line.lines().count() == 2, "what was refused is stored: {line}");
    removed(k)
}
