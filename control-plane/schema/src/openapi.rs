//! The documents below `/openapi`: which types and operations there are, for clients.
//!
//! Everything is made on demand and nothing is kept: a document is large, asked for once by a client that then keeps it, and
//! its hash is known without making it (it changes with the data, the code and the resources, and with nothing else).

mod custom;
mod foreign;
mod operations;
mod parameters;
mod protobuf;
mod schemas;
#[cfg(test)]
mod tests;
mod v2;
mod v3;

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use skep_api::resource::ResourceInfo;

use crate::{
    Error,
    types::{DIGEST, Descriptions, Shape},
};
pub use custom::Definition;
use custom::{Of, Served};
pub use foreign::Foreign;
use operations::PathItem;
use schemas::Dialect;

/// Makes the documents of a set of resources.
#[derive(Clone, Debug)]
pub struct Documents {
    /// By path below `/openapi/v3/`, such as `api/v1` or `apis/apps/v1`.
    groups: BTreeMap<String, Vec<Served>>,
    /// What other servers add to `/openapi/v2`, and a hash of each.
    foreign: Vec<(Arc<Foreign>, String)>,
    version: String,
}

impl Documents {
    /// Documents of `resources`; `version` is what the server calls its own, such as `v1.35.0`.
    pub fn new<'a>(resources: impl IntoIterator<Item = &'a ResourceInfo>, version: &str) -> Self {
        let mut groups: BTreeMap<String, Vec<Served>> = BTreeMap::new();
        for resource in resources {
            groups.entry(operations::group_path(resource)).or_default().push(Served::new(resource.clone(), None));
        }
        Self { groups, foreign: Vec::new(), version: version.to_owned() }
    }

    /// The same and custom resources: each with the definition of its kind and that of its list.
    pub fn with_custom(mut self, resources: impl IntoIterator<Item = (ResourceInfo, Definition, Definition)>) -> Self {
        for (resource, object, list) in resources {
            let group = self.groups.entry(operations::group_path(&resource)).or_default();
            group.push(Served::new(resource, Some((object, list))));
        }
        self
    }

    /// The same and, in `/openapi/v2`, what other servers serve: each with something that changes when that does.
    pub fn with_foreign(mut self, others: impl IntoIterator<Item = (Arc<Foreign>, String)>) -> Self {
        self.foreign.extend(others);
        self
    }

    /// The document at `/openapi/v3`: where the others are.
    pub fn index(&self) -> Vec<u8> {
        let paths: serde_json::Map<String, Value> = self
            .groups
            .iter()
            .map(|(path, resources)| {
                let url = format!("/openapi/v3/{path}?hash={}", self.hash_of(resources.iter()));
                (path.clone(), json!({"serverRelativeURL": url}))
            })
            .collect();
        json!({"paths": paths}).to_string().into_bytes()
    }

    /// The hash of the document at `/openapi/v3/<path>`, upper-case hexadecimal; none if there is no such document.
    pub fn hash(&self, path: &str) -> Option<String> {
        self.groups.get(path).map(|resources| self.hash_of(resources.iter()))
    }

    /// The hash of the document at `/openapi/v2`.
    pub fn v2_hash(&self) -> String {
        let mut digest = self.digest(self.groups.values().flatten());
        for (_, hash) in &self.foreign {
            digest.update(format!("{hash:?}"));
        }
        hexadecimal(digest)
    }

    /// The hash of the document at `/openapi/v3`.
    pub fn index_hash(&self) -> String {
        hexadecimal(self.digest(self.groups.values().flatten()))
    }

    fn hash_of<'s>(&self, resources: impl Iterator<Item = &'s Served>) -> String {
        hexadecimal(self.digest(resources))
    }

    fn digest<'s>(&self, resources: impl Iterator<Item = &'s Served>) -> Sha256 {
        let mut digest = Sha256::new();
        digest.update(DIGEST);
        digest.update(&self.version);
        for resource in resources {
            digest.update(format!("{:?}", resource.info));
            if let Some((object, _)) = &resource.custom {
                digest.update(object.v3.to_string());
            }
        }
        digest
    }

    /// The OpenAPI v3 document at `/openapi/v3/<path>` as JSON; none if there is no such document.
    ///
    /// # Errors
    ///
    /// A resource is served whose type is not known.
    pub fn v3(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        let Some(resources) = self.groups.get(path) else { return Ok(None) };
        v3::document(path, resources, &self.version).map(Some)
    }

    /// The OpenAPI v2 document of all resources as JSON.
    ///
    /// # Errors
    ///
    /// A resource is served whose type is not known.
    pub fn v2_json(&self) -> Result<Vec<u8>, Error> {
        v2::json(&self.groups, &self.others(), &self.version)
    }

    /// The OpenAPI v2 document of all resources as gnostic's protobuf message `openapi.v2.Document`.
    ///
    /// # Errors
    ///
    /// A resource is served whose type is not known.
    pub fn v2_protobuf(&self) -> Result<Vec<u8>, Error> {
        v2::protobuf(&self.groups, &self.others(), &self.version)
    }

    fn others(&self) -> Vec<Arc<Foreign>> {
        self.foreign.iter().map(|(foreign, _)| Arc::clone(foreign)).collect()
    }
}

fn hexadecimal(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02X}")).collect()
}

/// The types `items` speak of, and those that these are made of, by name.
fn reachable(items: &[PathItem]) -> BTreeMap<String, Of> {
    let mut found = BTreeMap::new();
    let mut next: Vec<Of> = items.iter().flat_map(PathItem::types).cloned().collect();
    while let Some(of) = next.pop() {
        let name = of.name().to_owned();
        if found.contains_key(&name) {
            continue;
        }
        match &of {
            // What else they are made of they hold themselves.
            Of::Custom(_) => next.extend(custom::metadata().map(Of::Known)),
            Of::Known(known) => {
                for field in known.fields() {
                    let mut shape = field.shape();
                    while let Shape::List(element) | Shape::Map(element) = shape {
                        shape = element.shape();
                    }
                    if let Shape::Ref(inner) = shape {
                        next.push(Of::Known(inner));
                    }
                }
            }
        }
        found.insert(name, of);
    }
    found
}

/// `"name":value` for each, in one object.
fn object<T>(
    out: &mut Vec<u8>,
    members: impl IntoIterator<Item = T>,
    mut member: impl FnMut(T) -> Result<(String, Value), Error>,
) -> Result<(), Error> {
    out.push(b'{');
    let mut first = true;
    for item in members {
        let (name, value) = member(item)?;
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        // Writing JSON to a vector does not fail.
        out.extend_from_slice(Value::String(name).to_string().as_bytes());
        out.push(b':');
        out.extend_from_slice(value.to_string().as_bytes());
    }
    out.push(b'}');
    Ok(())
}

/// The schema of one type, group, version and kind included.
fn definition(dialect: Dialect, of: &Of, groups: &[(&str, &str)], docs: &mut Descriptions) -> Result<Value, Error> {
    let of = match of {
        Of::Custom(custom) if dialect == Dialect::V2 => return Ok(custom.v2.clone()),
        Of::Custom(custom) => return Ok(custom.v3.clone()),
        Of::Known(of) => *of,
    };
    let mut schema = schemas::of(dialect, of, docs)?;
    let gvk = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut kinds: Vec<Value> =
        of.group_version_kinds().map(|(group, version, kind)| gvk(group, version, kind)).collect();
    // These two are of every group.
    if let Some(kind @ ("DeleteOptions" | "WatchEvent")) = of.name().strip_prefix(operations::META) {
        kinds = groups.iter().map(|(group, version)| gvk(group, version, kind)).collect();
    }
    if !kinds.is_empty() {
        schema["x-kubernetes-group-version-kind"] = kinds.into();
    }
    Ok(schema)
}
