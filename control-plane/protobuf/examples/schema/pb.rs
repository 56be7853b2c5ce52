//! Reads the messages out of the source of the `k8s-pb` crate: field numbers, wire types, snake-case names.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};

/// A message's module (`api/core/v1`) and name.
pub(crate) type Key = (String, String);

#[derive(Debug)]
pub(crate) struct PbField {
    pub(crate) name: String,
    pub(crate) number: u32,
    pub(crate) shape: Shape,
    pub(crate) scalar: String,
    /// The message, when the scalar is `message`.
    pub(crate) message: Option<Key>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    One,
    Many,
    Map,
}

pub(crate) type Messages = BTreeMap<Key, Vec<PbField>>;

pub(crate) fn read(source: &Path) -> Result<Messages> {
    let mut messages = Messages::new();
    walk(source, source, &mut messages)?;
    Ok(messages)
}

fn walk(root: &Path, dir: &Path, messages: &mut Messages) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            walk(root, &path, messages)?;
        } else if path.file_name().is_some_and(|name| name == "mod.rs") {
            let module = dir.strip_prefix(root)?.to_string_lossy().into_owned();
            parse(&module, &fs::read_to_string(&path)?, messages).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

fn parse(module: &str, text: &str, messages: &mut Messages) -> Result<()> {
    let mut current: Option<Key> = None;
    let mut attribute: Option<String> = None;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("pub struct ") {
            let name = rest.split([' ', '{']).next().unwrap_or_default().to_owned();
            let key = (module.to_owned(), name);
            messages.insert(key.clone(), Vec::new());
            current = Some(key);
        } else if line.starts_with("#[prost(") {
            let mut whole = line.to_owned();
            while !whole.ends_with(")]") {
                whole.push_str(lines.next().context("an attribute is cut short")?);
            }
            attribute = Some(whole);
        } else if let (Some(rest), Some(prost)) = (line.strip_prefix("pub "), attribute.take()) {
            let mut whole = rest.to_owned();
            while !whole.ends_with(',') || whole.matches('<').count() != whole.matches('>').count() {
                whole.push_str(lines.next().context("a field is cut short")?);
            }
            let key = current.clone().context("a field outside of a struct")?;
            let field = field(module, &prost, &whole).with_context(|| whole.clone())?;
            messages.entry(key).or_default().push(field);
        }
    }
    Ok(())
}

fn field(module: &str, prost: &str, text: &str) -> Result<PbField> {
    let (name, kind) = text.split_once(':').context("no type")?;
    let after_tag = prost.split("tag = \"").nth(1).context("no tag")?;
    let number = after_tag.split('"').next().unwrap_or_default().parse()?;
    let inner = prost.trim_start_matches("#[prost(");
    let (shape, scalar) = if let Some(map) = inner.strip_prefix("btree_map = \"string, ") {
        (Shape::Map, map.split('"').next().unwrap_or_default())
    } else {
        let scalar = inner.split([',', ' ']).next().unwrap_or_default();
        (if inner.contains("repeated") { Shape::Many } else { Shape::One }, scalar)
    };
    let message = if scalar == "message" {
        let innermost = kind.rsplit(['<', ',', ' ']).find(|part| !part.trim_matches(['>', ',', ' ']).is_empty());
        Some(resolve(module, innermost.context("no message")?.trim_matches(['>', ',', ' '])))
    } else {
        None
    };
    Ok(PbField {
        name: name.trim().trim_start_matches("r#").to_owned(),
        number,
        shape,
        scalar: scalar.to_owned(),
        message,
    })
}

/// The message that `path`, written in `module`, means.
fn resolve(module: &str, path: &str) -> Key {
    let mut parts: Vec<&str> = module.split('/').collect();
    let mut steps: Vec<&str> = path.split("::").collect();
    let name = steps.pop().unwrap_or_default().to_owned();
    for step in steps {
        if step == "super" {
            parts.pop();
        } else {
            parts.push(step);
        }
    }
    (parts.join("/"), name)
}
