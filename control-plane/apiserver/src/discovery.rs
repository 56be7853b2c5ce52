//! Discovery: which groups, versions and resources are served.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};
use skep_api::{resource::ResourceInfo, status::StatusError};

use crate::aggregation::{Remote, Remotes, priority, translate};
use crate::http::{
    body::Body,
    negotiate::{accept_plain, alternatives},
    response,
};

/// The documents below `/api` and `/apis`.
pub(crate) struct Discovery {
    /// By path without trailing slash.
    plain: BTreeMap<String, Bytes>,
    /// `/api` and `/apis` as one aggregated document each, v2 and v2beta1.
    aggregated: BTreeMap<(&'static str, &'static str), Tagged>,
}

/// A document and its ETag.
struct Tagged {
    bytes: Bytes,
    tag: HeaderValue,
}

impl Tagged {
    fn new(document: &Value) -> Self {
        let bytes = Bytes::from(document.to_string());
        let digest: String = Sha512::digest(&bytes).iter().map(|byte| format!("{byte:02X}")).collect();
        // Hexadecimal digits in quotes are always a header's value.
        let tag = HeaderValue::try_from(format!("\"{digest}\"")).unwrap_or_else(|_| HeaderValue::from_static(""));
        Self { bytes, tag }
    }
}

/// Who tells of the resources of a version.
enum Source<'a> {
    Own(Vec<&'a ResourceInfo>),
    Other(&'a Remote),
}

/// The versions of a group.
type Versions<'a> = BTreeMap<&'a str, Source<'a>>;

const AGGREGATED_VERSIONS: [&str; 2] = ["v2", "v2beta1"];

impl Discovery {
    /// Documents for `resources` and for what other servers answer; `address` is where clients reach this server
    /// (`host:port`).
    pub(crate) fn new(resources: &[&ResourceInfo], remotes: &Remotes, address: &str) -> Self {
        let mut groups: BTreeMap<&str, Versions<'_>> = BTreeMap::new();
        for resource in resources {
            let versions = groups.entry(&resource.group).or_default();
            let source = versions.entry(&resource.version).or_insert_with(|| Source::Own(Vec::new()));
            if let Source::Own(own) = source {
                own.push(resource);
            }
        }
        for remote in remotes.iter() {
            groups.entry(&remote.group).or_default().insert(&remote.version, Source::Other(remote));
        }
        // Clients that may choose take the first.
        let mut groups: Vec<(&str, Versions<'_>)> = groups.into_iter().collect();
        groups.sort_by_cached_key(|(group, versions)| {
            let priority = versions.iter().map(|(version, source)| priorities(group, version, source).0).max();
            (std::cmp::Reverse(priority), *group)
        });
        let mut plain = BTreeMap::new();
        let mut put = |path: String, document: Value| {
            plain.insert(path, Bytes::from(document.to_string()));
        };
        put(
            "/api".to_owned(),
            json!({
                "kind": "APIVersions",
                "versions": ["v1"],
                "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
            }),
        );
        let mut named = Vec::new();
        for (group, versions) in &groups {
            for (version, source) in versions {
                // What another server tells of its version it tells itself.
                let Source::Own(resources) = source else { continue };
                let (path, group_version) = match *group {
                    "" => (format!("/api/{version}"), (*version).to_owned()),
                    group => (format!("/apis/{group}/{version}"), format!("{group}/{version}")),
                };
                put(path, resource_list(&group_version, resources));
            }
            if !group.is_empty() {
                let document = group_document(group, preferred_first(group, versions).map(|(version, _)| version));
                let mut standalone = document.clone();
                standalone["kind"] = "APIGroup".into();
                standalone["apiVersion"] = "v1".into();
                put(format!("/apis/{group}"), standalone);
                named.push(document);
            }
        }
        put("/apis".to_owned(), json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": named}));

        let mut aggregated = BTreeMap::new();
        for version in AGGREGATED_VERSIONS {
            for path in ["/api", "/apis"] {
                let items: Vec<Value> = groups
                    .iter()
                    .filter(|(group, _)| group.is_empty() == (path == "/api"))
                    .map(|(group, versions)| aggregated_group(group, versions))
                    .collect();
                let document = json!({
                    "kind": "APIGroupDiscoveryList",
                    "apiVersion": format!("apidiscovery.k8s.io/{version}"),
                    "metadata": {},
                    "items": items,
                });
                aggregated.insert((path, version), Tagged::new(&document));
            }
        }
        Self { plain, aggregated }
    }

    /// The paths of all documents.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.plain.keys().map(String::as_str)
    }

    /// The document at `path`, if there is one.
    pub(crate) fn respond(&self, path: &str, headers: &HeaderMap) -> Option<Result<Response<Body>, StatusError>> {
        let path = path.trim_end_matches('/');
        let plain = self.plain.get(path)?;
        if path == "/api" || path == "/apis" {
            for alternative in alternatives(headers) {
                if alternative.parameter("as") != Some("APIGroupDiscoveryList") {
                    if alternative.format().is_some() && alternative.parameter("as").is_none() {
                        break;
                    }
                    continue;
                }
                let found = AGGREGATED_VERSIONS.into_iter().find(|version| {
                    alternative.parameter("g") == Some("apidiscovery.k8s.io")
                        && alternative.parameter("v") == Some(version)
                        && alternative.media_type == "application/json"
                });
                let Some((document, version)) = found.and_then(|version| {
                    let root = if path == "/api" { "/api" } else { "/apis" };
                    Some((self.aggregated.get(&(root, version))?, version))
                }) else {
                    continue;
                };
                let media_type = match version {
                    "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
                    _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
                };
                let mut known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
                let unchanged = known.any(|tags| tags.split(',').any(|tag| document.tag == tag.trim()));
                let mut response = if unchanged {
                    response::with_type(StatusCode::NOT_MODIFIED, media_type, Body::empty())
                } else {
                    response::with_type(StatusCode::OK, media_type, document.bytes.clone())
                };
                let headers = response.headers_mut();
                headers.insert(header::ETAG, document.tag.clone());
                headers.insert(header::VARY, HeaderValue::from_static("Accept"));
                return Some(Ok(response));
            }
        }
        Some(accept_plain(headers).map(|accepted| response::json_as(StatusCode::OK, &accepted, plain.clone())))
    }
}

/// The priorities of a group and a version.
fn priorities(group: &str, version: &str, source: &Source<'_>) -> (i32, i32) {
    match source {
        Source::Own(_) => priority::of(group, version),
        Source::Other(remote) => (remote.group_priority, remote.version_priority),
    }
}

/// Versions in the order of their priority, newer ones of the same first: clients take the first they know.
fn preferred_first<'a>(group: &str, versions: &'a Versions<'_>) -> impl Iterator<Item = (&'a str, &'a Source<'a>)> {
    let number = |version: &str| {
        let (number, stage) = version[1..].split_at(version[1..].bytes().take_while(u8::is_ascii_digit).count());
        (stage.is_empty(), stage.to_owned(), number.parse::<u32>().unwrap_or(0))
    };
    let mut all: Vec<(&str, &Source<'_>)> = versions.iter().map(|(version, source)| (*version, source)).collect();
    all.sort_by_cached_key(|(version, source)| {
        std::cmp::Reverse((priorities(group, version, source).1, number(version)))
    });
    all.into_iter()
}

fn group_document<'a>(group: &str, versions: impl Iterator<Item = &'a str>) -> Value {
    let versions: Vec<Value> =
        versions.map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version})).collect();
    json!({"name": group, "preferredVersion": versions.first(), "versions": versions})
}

fn resource_list(group_version: &str, resources: &[&ResourceInfo]) -> Value {
    let mut entries = Vec::new();
    for resource in resources {
        let mut entry = json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": resource.verbs,
        });
        if !resource.short_names.is_empty() {
            entry["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            entry["categories"] = json!(resource.categories);
        }
        entries.push(entry);
        for subresource in resource.subresources.iter() {
            let mut entry = json!({
                "name": format!("{}/{}", resource.plural, subresource.name),
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": subresource.kind,
                "verbs": subresource.verbs,
            });
            if !subresource.version.is_empty() {
                entry["group"] = json!(subresource.group);
                entry["version"] = json!(subresource.version);
            }
            entries.push(entry);
        }
    }
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": entries})
}

fn aggregated_group(group: &str, versions: &Versions<'_>) -> Value {
    let versions: Vec<Value> = preferred_first(group, versions)
        .map(|(version, source)| match source {
            Source::Own(resources) => {
                let resources: Vec<Value> = resources.iter().map(|resource| aggregated_resource(resource)).collect();
                json!({"version": version, "resources": resources, "freshness": "Current"})
            }
            Source::Other(remote) => {
                let told = remote.told.as_ref();
                let resources = told.map(|told| translate::resources(group, version, &told.resources));
                let fresh = if remote.is_available() && told.is_some() { "Current" } else { "Stale" };
                json!({"version": version, "resources": resources.unwrap_or_default(), "freshness": fresh})
            }
        })
        .collect();
    let metadata = if group.is_empty() {
        json!({"creationTimestamp": null})
    } else {
        json!({"name": group, "creationTimestamp": null})
    };
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_resource(resource: &ResourceInfo) -> Value {
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": kind(&resource.group, &resource.version, &resource.kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    if !resource.subresources.is_empty() {
        entry["subresources"] = resource
            .subresources
            .iter()
            .map(|subresource| {
                let (group, version) = match &*subresource.version {
                    "" => (&resource.group, &resource.version),
                    _ => (&subresource.group, &subresource.version),
                };
                json!({
                    "subresource": subresource.name,
                    "responseKind": kind(group, version, &subresource.kind),
                    "verbs": subresource.verbs,
                })
            })
            .collect();
    }
    entry
}
