//! OpenAPI 3.0: one document a group and version.

use serde_json::{Map, Value, json};

use super::{
    custom::Served,
    definition, object,
    operations::{self, Body, Operation, PathItem},
    parameters::Parameter,
    reachable,
    schemas::Dialect,
};
use crate::{Error, types::Descriptions};

const MEDIA_TYPES: [&str; 3] = ["application/json", "application/vnd.kubernetes.protobuf", "application/yaml"];
const STREAMS: [&str; 2] = ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
const PATCHES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

pub(super) fn document(path: &str, resources: &[Served], version: &str) -> Result<Vec<u8>, Error> {
    let items = operations::of_group(path, resources)?;
    let own: Vec<(&str, &str)> = resources.first().map(|r| (&*r.group, &*r.version)).into_iter().collect();
    let mut docs = Descriptions::default();
    let mut out = Vec::new();
    out.extend_from_slice(b"{\"openapi\":\"3.0.0\",\"info\":");
    out.extend_from_slice(json!({"title": "Kubernetes", "version": version}).to_string().as_bytes());
    out.extend_from_slice(b",\"paths\":");
    object(&mut out, &items, |item| Ok((item.path.clone(), path_item(item))))?;
    out.extend_from_slice(b",\"components\":{\"schemas\":");
    object(&mut out, reachable(&items), |(name, of)| Ok((name, definition(Dialect::V3, &of, &own, &mut docs)?)))?;
    let security = json!({"BearerToken": {
        "type": "apiKey", "in": "header", "name": "authorization", "description": "Bearer Token authentication",
    }});
    out.extend_from_slice(format!(",\"securitySchemes\":{security}}}}}").as_bytes());
    Ok(out)
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
        "schema": {"type": parameter.kind, "uniqueItems": true},
    });
    if parameter.in_path {
        value["required"] = true.into();
    }
    value
}

fn operation(operation: &Operation) -> Value {
    let content = |types: &[&str], schema: Value| -> Value {
        types
            .iter()
            .map(|media_type| ((*media_type).to_owned(), json!({"schema": schema})))
            .collect::<Map<_, _>>()
            .into()
    };
    let mut responses = Map::new();
    for (code, text) in &operation.responses {
        let mut response = json!({"description": text});
        if *code != "401" {
            response["content"] = match &operation.answer {
                Some(of) => {
                    let mut types = MEDIA_TYPES.to_vec();
                    if operation.streams {
                        types.extend(STREAMS);
                    }
                    content(&types, Dialect::V3.named(of.name()))
                }
                None => content(&["text/plain", "*/*"], json!({"type": "string"})),
            };
        }
        responses.insert((*code).to_owned(), response);
    }
    let mut value = json!({
        "tags": [operation.tag],
        "description": operation.description,
        "operationId": operation.id,
        "responses": responses,
    });
    if !operation.parameters.is_empty() {
        value["parameters"] = operation.parameters.iter().map(|p| parameter(p)).collect();
    }
    if let Some(body) = &operation.body {
        let schema = Dialect::V3.named(body.of().name());
        value["requestBody"] = match body {
            Body::Patch(_, strategic) => {
                let mut types = PATCHES.to_vec();
                types.retain(|kind| *strategic || !kind.contains("strategic"));
                json!({"required": true, "content": content(&types, schema)})
            }
            Body::Object(_) => json!({"required": true, "content": content(&["*/*"], schema)}),
            Body::DeleteOptions(_) => json!({"content": content(&["*/*"], schema)}),
        };
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
