//! OpenAPI 2.0 (Swagger): one document for everything.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Map, Value, json};

use super::{
    custom::{Of, Served},
    definition,
    foreign::{Foreign, Merged},
    object,
    operations::{self, Body, Operation, PathItem},
    parameters::Parameter,
    protobuf, reachable,
    schemas::Dialect,
};
use crate::{Error, types::Descriptions};

type Groups = BTreeMap<String, Vec<Served>>;
/// All paths, and the groups and versions they are of.
type Parts<'a> = (Vec<PathItem>, Vec<(&'a str, &'a str)>);

const MEDIA_TYPES: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const STREAMS: [&str; 2] = ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// The document: our own paths and definitions, and those of other servers among them.
struct Whole<'a> {
    items: Vec<PathItem>,
    own: Vec<(&'a str, &'a str)>,
    definitions: BTreeMap<String, Of>,
    others: Merged,
}

impl<'a> Whole<'a> {
    fn new(groups: &'a Groups, foreign: &[Arc<Foreign>], docs: &mut Descriptions) -> Result<Self, Error> {
        let (items, own) = parts(groups)?;
        let definitions = reachable(&items);
        let paths = items.iter().map(|item| item.path.as_str()).collect();
        let others = Merged::new(foreign, &paths, |name| {
            definitions.get(name).map(|of| definition(Dialect::V2, of, &own, docs)).transpose()
        })?;
        Ok(Self { items, own, definitions, others })
    }

    /// All paths, in order; each is made when it is its turn.
    fn paths(&self) -> impl Iterator<Item = (&str, Cow<'_, Value>)> {
        let others = self.others.paths.iter().map(|(path, item)| (path.as_str(), Err(item)));
        let own = self.items.iter().map(|item| (item.path.as_str(), Ok(item)));
        let all: BTreeMap<&str, Result<&PathItem, &Value>> = others.chain(own).collect();
        let make = |item: Result<&PathItem, _>| item.map_or_else(Cow::Borrowed, |item| Cow::Owned(path_item(item)));
        all.into_iter().map(move |(path, item)| (path, make(item)))
    }

    /// The names of all definitions, in order.
    fn names(&self) -> BTreeSet<&str> {
        self.definitions.keys().chain(self.others.definitions.keys()).map(String::as_str).collect()
    }

    fn definition(&self, name: &str, docs: &mut Descriptions) -> Result<Cow<'_, Value>, Error> {
        match self.definitions.get(name) {
            Some(of) => {
                let mut made = definition(Dialect::V2, of, &self.own, docs)?;
                self.others.complete(name, &mut made);
                Ok(Cow::Owned(made))
            }
            None => Ok(self.others.definitions.get(name).map_or(Cow::Owned(Value::Null), Cow::Borrowed)),
        }
    }
}

pub(super) fn json(groups: &Groups, foreign: &[Arc<Foreign>], version: &str) -> Result<Vec<u8>, Error> {
    let mut docs = Descriptions::default();
    let whole = Whole::new(groups, foreign, &mut docs)?;
    let mut out = format!("{{\"swagger\":\"2.0\",\"info\":{},\"paths\":", info(version)).into_bytes();
    object(&mut out, whole.paths(), |(path, item)| Ok((path.to_owned(), item.into_owned())))?;
    out.extend_from_slice(b",\"definitions\":");
    object(&mut out, whole.names(), |name| Ok((name.to_owned(), whole.definition(name, &mut docs)?.into_owned())))?;
    let security = json!({"BearerToken": {
        "type": "apiKey", "in": "header", "name": "authorization", "description": "Bearer Token authentication",
    }});
    let rest = format!(",\"securityDefinitions\":{security},\"security\":[{{\"BearerToken\":[]}}]}}");
    out.extend_from_slice(rest.as_bytes());
    Ok(out)
}

pub(super) fn protobuf(groups: &Groups, foreign: &[Arc<Foreign>], version: &str) -> Result<Vec<u8>, Error> {
    let mut docs = Descriptions::default();
    let whole = Whole::new(groups, foreign, &mut docs)?;
    let mut document = protobuf::Document::new(&info(version));
    for (path, item) in whole.paths() {
        document.path(path, &item);
    }
    document.end_paths();
    for name in whole.names() {
        document.definition(name, &*whole.definition(name, &mut docs)?);
    }
    Ok(document.finish())
}

fn info(version: &str) -> Value {
    json!({"title": "Kubernetes", "version": version})
}

fn parts(groups: &Groups) -> Result<Parts<'_>, Error> {
    let mut items = Vec::new();
    let mut own = Vec::new();
    for (path, resources) in groups {
        own.extend(resources.first().map(|r| (&*r.group, &*r.version)));
        items.extend(operations::of_group(path, resources)?);
    }
    items.sort_by(|a, b| a.path.cmp(&b.path));
    Ok((items, own))
}

fn path_item(item: &PathItem) -> Value {
    let mut value = Map::new();
    for operation in &item.operations {
        value.insert(operation.method.to_owned(), self::operation(operation));
    }
    if !item.parameters.is_empty() {
        value.insert("parameters".to_owned(), item.parameters.iter().map(|p| parameter(p)).collect());
    }
    value.into()
}

fn parameter(parameter: &Parameter) -> Value {
    let mut value = json!({
        "name": parameter.name,
        "in": if parameter.in_path { "path" } else { "query" },
        "description": parameter.description,
        "type": parameter.kind,
        "uniqueItems": true,
    });
    if parameter.in_path {
        value["required"] = true.into();
    }
    value
}

fn operation(operation: &Operation) -> Value {
    let mut responses = Map::new();
    for (code, text) in &operation.responses {
        let mut response = json!({"description": text});
        if *code != "401" {
            response["schema"] = match &operation.answer {
                Some(of) => Dialect::V2.named(of.name()),
                None => json!({"type": "string"}),
            };
        }
        responses.insert((*code).to_owned(), response);
    }
    let mut parameters: Vec<Value> = operation.parameters.iter().map(|p| parameter(p)).collect();
    let mut consumes = vec!["*/*"];
    if let Some(body) = &operation.body {
        let mut parameter = json!({"name": "body", "in": "body", "schema": Dialect::V2.named(body.of().name())});
        match body {
            Body::DeleteOptions(_) => {}
            Body::Object(_) => parameter["required"] = true.into(),
            Body::Patch(_, strategic) => {
                parameter["required"] = true.into();
                consumes = PATCHES.to_vec();
                consumes.retain(|kind| *strategic || !kind.contains("strategic"));
            }
        }
        parameters.insert(0, parameter);
    }
    let mut produces = if operation.answer.is_some() { MEDIA_TYPES.to_vec() } else { vec!["*/*"] };
    if operation.streams {
        produces.extend(STREAMS);
    }
    let mut value = json!({
        "tags": [operation.tag],
        "description": operation.description,
        "operationId": operation.id,
        "consumes": consumes,
        "produces": produces,
        "schemes": ["https"],
        "responses": responses,
    });
    if !parameters.is_empty() {
        value["parameters"] = parameters.into();
    }
    if operation.deprecated {
        value["deprecated"] = true.into();
    }
    if let Some((group, version, kind)) = &operation.gvk {
        value["x-kubernetes-action"] = operation.action.into();
        value["x-kubernetes-group-version-kind"] = json!({"group": group, "version": version, "kind": kind});
    }
    value
}
