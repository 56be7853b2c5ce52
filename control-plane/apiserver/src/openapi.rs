//! `/openapi/v3`: as much as clients need to find out what a request may say.
//!
//! kubectl looks here whether a resource takes the `fieldValidation` parameter before it leaves validation to the server.
//! Schemas of the objects are not served yet, so `kubectl explain` has nothing to show.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use skep_api::resource::ResourceInfo;

use crate::{
    http::{body::Body, response},
    version,
};

/// The documents below `/openapi/v3`, made once.
pub(crate) struct OpenApi {
    by_path: BTreeMap<String, Bytes>,
}

impl OpenApi {
    pub(crate) fn new(resources: &[&'static ResourceInfo]) -> Self {
        let mut groups: BTreeMap<String, Vec<&ResourceInfo>> = BTreeMap::new();
        for resource in resources {
            let path = match &*resource.group {
                "" => format!("api/{}", resource.version),
                group => format!("apis/{group}/{}", resource.version),
            };
            groups.entry(path).or_default().push(resource);
        }
        let mut by_path = BTreeMap::new();
        let mut index = Map::new();
        for (path, resources) in groups {
            let document = Bytes::from(document(&path, &resources).to_string());
            let hash: String = Sha256::digest(&document).iter().map(|byte| format!("{byte:02X}")).collect();
            index.insert(path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}));
            by_path.insert(format!("/openapi/v3/{path}"), document);
        }
        by_path.insert("/openapi/v3".to_owned(), Bytes::from(json!({"paths": index}).to_string()));
        Self { by_path }
    }

    /// The document at `path`, if there is one.
    pub(crate) fn respond(&self, path: &str) -> Option<Response<Body>> {
        self.by_path.get(path).map(|document| response::json(StatusCode::OK, document.clone()))
    }
}

fn document(path: &str, resources: &[&ResourceInfo]) -> Value {
    let mut paths = Map::new();
    for resource in resources {
        let collection = if resource.namespaced {
            format!("/{path}/namespaces/{{namespace}}/{}", resource.plural)
        } else {
            format!("/{path}/{}", resource.plural)
        };
        let gvk = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
        let operation = |action: &str, content: &[&str]| {
            let content: Map<String, Value> =
                content.iter().map(|media_type| ((*media_type).to_owned(), json!({}))).collect();
            json!({
                "parameters": write_parameters(),
                "requestBody": {"required": true, "content": content},
                "responses": {"200": {"description": "OK"}},
                "x-kubernetes-action": action,
                "x-kubernetes-group-version-kind": gvk,
            })
        };
        paths.insert(collection.clone(), json!({"post": operation("post", &["application/json"])}));
        paths.insert(
            format!("{collection}/{{name}}"),
            json!({
                "put": operation("put", &["application/json"]),
                // Strategic merge patch is left out, so that clients use the merge keys they know themselves.
                "patch": operation("patch", &["application/json-patch+json", "application/merge-patch+json"]),
            }),
        );
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": version::KUBERNETES},
        "paths": paths,
        "components": {"schemas": {}},
    })
}

fn write_parameters() -> Value {
    ["dryRun", "fieldManager", "fieldValidation"]
        .into_iter()
        .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}}))
        .collect()
}
