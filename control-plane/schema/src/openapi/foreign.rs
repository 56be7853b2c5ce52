//! What other servers' documents add to `/openapi/v2`, as upstream's aggregator merges them: paths of their own, and the
//! definitions these speak of, renamed where ours mean something else by the name.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;

use crate::Error;

const DEFINITIONS: &str = "#/definitions/";
const PARAMETERS: &str = "#/parameters/";
const KINDS: &str = "x-kubernetes-group-version-kind";

/// Part of another server's document (OpenAPI 2.0).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Foreign {
    paths: BTreeMap<String, Value>,
    definitions: BTreeMap<String, Value>,
}

impl Foreign {
    /// Takes what is below `prefix`, which ends in a slash, from a document. What cannot be understood is left out.
    pub fn of(mut document: Value, prefix: &str) -> Self {
        let mut take = |name: &str| match document.get_mut(name).map(Value::take) {
            Some(Value::Object(members)) => members,
            _ => serde_json::Map::new(),
        };
        let (paths, definitions, parameters) = (take("paths"), take("definitions"), take("parameters"));
        let mut paths: BTreeMap<String, Value> =
            paths.into_iter().filter(|(path, item)| path.starts_with(prefix) && item.is_object()).collect();
        for path in paths.values_mut() {
            inline(path, &parameters);
        }
        let mut used = BTreeSet::new();
        let mut next: Vec<String> = Vec::new();
        paths.values().for_each(|path| references(path, &mut next));
        while let Some(name) = next.pop() {
            if let Some(definition) = definitions.get(&name).filter(|_| used.insert(name.clone())) {
                references(definition, &mut next);
            }
        }
        let definitions = definitions.into_iter().filter(|(name, _)| used.contains(name)).collect();
        Self { paths, definitions }
    }

    /// Whether it adds nothing.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }
}

/// Puts parameters that several operations share where they are referred to.
fn inline(value: &mut Value, shared: &serde_json::Map<String, Value>) {
    match value {
        Value::Object(members) => {
            if let Some(Value::Array(parameters)) = members.get_mut("parameters") {
                for parameter in parameters.iter_mut() {
                    let name = parameter.get("$ref").and_then(Value::as_str);
                    if let Some(found) = name.and_then(|name| shared.get(name.strip_prefix(PARAMETERS)?)) {
                        *parameter = found.clone();
                    }
                }
            }
            members.values_mut().for_each(|member| inline(member, shared));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| inline(item, shared)),
        _ => {}
    }
}

/// The names of the definitions a value refers to.
fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            let name = members.get("$ref").and_then(Value::as_str).and_then(|name| name.strip_prefix(DEFINITIONS));
            found.extend(name.map(str::to_owned));
            members.values().for_each(|member| references(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

fn rename(value: &mut Value, names: &BTreeMap<&str, String>) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(name)) = members.get_mut("$ref")
                && let Some(new) = name.strip_prefix(DEFINITIONS).and_then(|name| names.get(name))
            {
                *name = format!("{DEFINITIONS}{new}");
            }
            members.values_mut().for_each(|member| rename(member, names));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, names)),
        _ => {}
    }
}

/// All that other servers add.
#[derive(Debug, Default)]
pub(super) struct Merged {
    pub(super) paths: BTreeMap<String, Value>,
    pub(super) definitions: BTreeMap<String, Value>,
    /// Further kinds of our own definitions.
    kinds: BTreeMap<String, Vec<Value>>,
}

impl Merged {
    /// Puts together what others add to our own paths and definitions. `own` gives a definition by its name.
    pub(super) fn new(
        foreign: &[Arc<Foreign>],
        own_paths: &BTreeSet<&str>,
        mut own: impl FnMut(&str) -> Result<Option<Value>, Error>,
    ) -> Result<Self, Error> {
        let mut merged = Self::default();
        for one in foreign {
            merged.add(one, own_paths, &mut own)?;
        }
        Ok(merged)
    }

    fn add(
        &mut self,
        foreign: &Foreign,
        own_paths: &BTreeSet<&str>,
        own: &mut impl FnMut(&str) -> Result<Option<Value>, Error>,
    ) -> Result<(), Error> {
        let mut names = BTreeMap::new();
        let mut new = Vec::new();
        for (name, definition) in &foreign.definitions {
            let ours = own(name)?;
            let known = ours.as_ref().or_else(|| self.definitions.get(name));
            match known {
                None => new.push((name, definition)),
                Some(known) if same(known, definition) => self.add_kinds(name, ours.is_some(), definition),
                Some(_) => {
                    let (other, known) = self.other_name(name, definition, foreign, own)?;
                    names.insert(name.as_str(), other);
                    if !known {
                        new.push((name, definition));
                    }
                }
            }
        }
        for (name, definition) in new {
            let mut definition = definition.clone();
            rename(&mut definition, &names);
            self.definitions.insert(names.get(name.as_str()).unwrap_or(name).clone(), definition);
        }
        for (path, item) in &foreign.paths {
            if !own_paths.contains(path.as_str()) && !self.paths.contains_key(path) {
                let mut item = item.clone();
                rename(&mut item, &names);
                self.paths.insert(path.clone(), item);
            }
        }
        Ok(())
    }

    /// Another name for a definition, and whether it is there already under that.
    fn other_name(
        &self,
        name: &str,
        definition: &Value,
        foreign: &Foreign,
        own: &mut impl FnMut(&str) -> Result<Option<Value>, Error>,
    ) -> Result<(String, bool), Error> {
        let mut number = 2;
        loop {
            let other = format!("{name}_v{number}");
            number += 1;
            match self.definitions.get(&other) {
                Some(known) if same(known, definition) => return Ok((other, true)),
                Some(_) => {}
                None if own(&other)?.is_none() && !foreign.definitions.contains_key(&other) => {
                    return Ok((other, false));
                }
                None => {}
            }
        }
    }

    /// One definition is of the kinds of both.
    fn add_kinds(&mut self, name: &str, ours: bool, definition: &Value) {
        let given = definition.get(KINDS).and_then(Value::as_array);
        if ours {
            self.kinds.entry(name.to_owned()).or_default().extend(given.into_iter().flatten().cloned());
        } else if let Some(known) = self.definitions.get_mut(name) {
            unite(known, given.map(Vec::as_slice).unwrap_or_default());
        }
    }

    /// Adds to a definition of ours the kinds that others have it for.
    pub(super) fn complete(&self, name: &str, definition: &mut Value) {
        if let Some(kinds) = self.kinds.get(name) {
            unite(definition, kinds);
        }
    }
}

/// Whether definitions differ in nothing but the kinds they are of.
fn same(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a == b };
    let rest = |members: &serde_json::Map<String, Value>| members.len() - usize::from(members.contains_key(KINDS));
    rest(a) == rest(b) && a.iter().all(|(name, value)| name == KINDS || b.get(name) == Some(value))
}

fn unite(definition: &mut Value, further: &[Value]) {
    let Some(members) = definition.as_object_mut().filter(|_| !further.is_empty()) else { return };
    let kinds = members.entry(KINDS).or_insert_with(|| Value::Array(Vec::new()));
    let Value::Array(kinds) = kinds else { return };
    for kind in further {
        if !kinds.contains(kind) {
            kinds.push(kind.clone());
        }
    }
}
