//! Prints `data/types.txt`: `cargo run -p skep-schema --example extract -- <k8s-openapi>/src/v1_35 > data/types.txt`
//!
//! What k8s-openapi carries is read from its source: the JSON schemas behind its feature `schemars`, the merge strategies of
//! its `DeepMerge` implementations, groups, versions and kinds. What it does not carry is in `data/markers.txt`.
//! Only stable versions (no alpha, no beta) are taken: they are what is served by default.

mod markers;
mod source;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use markers::Markers;
use serde_json::Value;
use source::Source;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

const HEADER: &str = "\
# The types of the Kubernetes API: printed by the example `extract`, do not edit. See NOTICE.
# type NAME SHAPE [kind=GROUP/VERSION/KIND]... [map=atomic] [union=..], then its description as a JSON string;
# then its fields, each in two lines, indented: NAME SHAPE [required] [list=..] [map=..] [patch=..] [default=JSON], description.
# SHAPE: string integer number boolean with /FORMAT; object (of anything); any; int-or-string; quantity; @TYPE;
# [SHAPE a list; {SHAPE a map; struct for a type with fields.
";

fn main() -> Result<()> {
    let root = std::env::args().nth(1).context("usage: extract <k8s-openapi>/src/v1_35")?;
    let mut files = Vec::new();
    collect(Path::new(&root), &mut files)?;
    let mut types = BTreeMap::new();
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        if let Some(source) = source::read(&text).with_context(|| format!("{}", file.display()))? {
            types.insert(source.name.clone(), source);
        }
    }
    let mut markers = markers::read(include_str!("../../data/markers.txt"))?;
    let mut out = HEADER.to_owned();
    for source in types.values() {
        print_type(&mut out, source, &mut markers)?;
        if let Some(list_kind) = &source.list_kind {
            print_list(&mut out, source, list_kind);
        }
    }
    let unused: Vec<_> = markers.into_keys().collect();
    if !unused.is_empty() {
        bail!("markers of nothing: {unused:?}");
    }
    print!("{out}");
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !name.contains("alpha") && !name.contains("beta") {
                collect(&path, files)?;
            }
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn print_type(out: &mut String, source: &Source, markers: &mut Markers) -> Result<()> {
    let properties = source.schema.get("properties").and_then(Value::as_object);
    let own = if properties.is_some() { "struct".to_owned() } else { shape(&source.schema, &source.name)? };
    write!(out, "type {} {own}", source.name)?;
    if let Some((group, version, kind)) = &source.kind {
        write!(out, " kind={group}/{version}/{kind}")?;
    }
    for marker in markers.remove(&source.name).into_iter().flatten() {
        write!(out, " {marker}")?;
    }
    writeln!(out, "\n{}", description(&source.schema))?;
    let required: Vec<&str> = source
        .schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for (name, property) in properties.into_iter().flatten() {
        let shape = shape(property, &source.name)?;
        write!(out, "  {name} {shape}")?;
        // k8s-openapi demands metadata where upstream does not.
        let is_metadata = shape == format!("@{META}ObjectMeta") || shape == format!("@{META}ListMeta");
        if required.contains(&name.as_str()) && !is_metadata {
            out.push_str(" required");
        }
        let marked = markers.remove(&format!("{}.{name}", source.name)).unwrap_or_default();
        let has = |prefix: &str| marked.iter().any(|marker| marker.starts_with(prefix));
        if let Some(merge) = source.merge.get(name).filter(|merge| !has(&merge[..merge.find('=').unwrap_or(0) + 1])) {
            write!(out, " {merge}")?;
        }
        for marker in &marked {
            write!(out, " {marker}")?;
        }
        writeln!(out, "\n{}", description(property))?;
    }
    Ok(())
}

/// The list type of a kind, which k8s-openapi has as one generic type.
fn print_list(out: &mut String, source: &Source, list_kind: &str) {
    let name = format!("{}List", source.name);
    let (group, version, kind) = source.kind.as_ref().map_or(("", "", ""), |(g, v, k)| (g, v, k));
    let text = |text: String| Value::String(text).to_string();
    let member = |field: &str| source.schema["properties"][field]["description"].clone();
    let _ = writeln!(
        out,
        "type {name} struct kind={group}/{version}/{list_kind}\n{}\n  apiVersion string\n{}\n  items [@{} required\n{}\n  \
         kind string\n{}\n  metadata @{META}ListMeta\n{}",
        text(format!("{list_kind} is a list of objects of kind {kind}.")),
        member("apiVersion"),
        source.name,
        text(format!("items is the list of objects of kind {kind}.")),
        member("kind"),
        text("Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds".to_owned()),
    );
}

fn description(schema: &Value) -> String {
    schema.get("description").map_or_else(|| "\"\"".to_owned(), Value::to_string)
}

/// A schema in one word.
fn shape(schema: &Value, owner: &str) -> Result<String> {
    if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
        return Ok(format!("@{name}"));
    }
    if schema.get("x-kubernetes-int-or-string").is_some() {
        return Ok(if owner.ends_with(".Quantity") { "quantity" } else { "int-or-string" }.to_owned());
    }
    let format = schema.get("format").and_then(Value::as_str).map(|format| format!("/{format}")).unwrap_or_default();
    Ok(match schema.get("type").and_then(Value::as_str) {
        Some("array") => format!("[{}", shape(&schema["items"], owner)?),
        Some("object") => match schema.get("additionalProperties") {
            Some(values) => format!("{{{}", shape(values, owner)?),
            None if owner.ends_with(".JSON") => "any".to_owned(),
            None => "object".to_owned(),
        },
        Some(scalar @ ("string" | "integer" | "number" | "boolean")) => format!("{scalar}{format}"),
        None => "any".to_owned(),
        Some(other) => bail!("{owner}: a {other}"),
    })
}
