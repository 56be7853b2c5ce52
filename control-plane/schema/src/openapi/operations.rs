//! From a row of the resource table to paths and operations.

use std::sync::Arc;

use skep_api::resource::{ResourceInfo, SubresourceInfo};

use super::{
    custom::{Of, Served},
    parameters::{self as p, Parameter},
};
use crate::{Error, Type};

/// Package of the types all groups share, with its dot.
pub(super) const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// One path and what can be done there.
pub(super) struct PathItem {
    pub(super) path: String,
    pub(super) parameters: Vec<&'static Parameter>,
    pub(super) operations: Vec<Operation>,
}

/// One operation.
pub(super) struct Operation {
    /// HTTP method in lower case.
    pub(super) method: &'static str,
    /// `x-kubernetes-action`; none for discovery.
    pub(super) action: &'static str,
    pub(super) id: String,
    pub(super) tag: String,
    pub(super) description: String,
    pub(super) parameters: Vec<&'static Parameter>,
    pub(super) body: Option<Body>,
    /// Codes and what they come with; a plain string for none.
    pub(super) responses: Vec<(&'static str, &'static str)>,
    pub(super) answer: Option<Of>,
    /// Whether the answer may be a stream of watch events.
    pub(super) streams: bool,
    pub(super) deprecated: bool,
    pub(super) gvk: Option<(String, String, String)>,
}

/// What a request carries.
#[derive(Clone)]
pub(super) enum Body {
    Object(Of),
    DeleteOptions(Of),
    /// Whether a strategic merge is among what is taken.
    Patch(Of, bool),
}

impl Body {
    pub(super) fn of(&self) -> &Of {
        let (Self::Object(of) | Self::DeleteOptions(of) | Self::Patch(of, _)) = self;
        of
    }
}

impl PathItem {
    /// The types it speaks of.
    pub(super) fn types(&self) -> impl Iterator<Item = &Of> {
        self.operations
            .iter()
            .flat_map(|operation| operation.answer.iter().chain(operation.body.as_ref().map(Body::of)))
    }
}

/// `api/v1` or `apis/apps/v1`.
pub(super) fn group_path(resource: &ResourceInfo) -> String {
    match &*resource.group {
        "" => format!("api/{}", resource.version),
        group => format!("apis/{group}/{}", resource.version),
    }
}

/// The paths of one group and version, sorted.
pub(super) fn of_group(path: &str, resources: &[Served]) -> Result<Vec<PathItem>, Error> {
    let mut items = vec![discovery(path, resources)?];
    for resource in resources {
        Builder::new(path, resource)?.all(&mut items)?;
    }
    items.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(items)
}

fn meta(kind: &str) -> Result<Of, Error> {
    let name = format!("{META}{kind}");
    Type::named(&name).map(Of::Known).ok_or(Error::UnknownKind(name))
}

/// `/apis/apps/v1/`: the list of resources.
fn discovery(path: &str, resources: &[Served]) -> Result<PathItem, Error> {
    let (group, version) = resources.first().map_or(("", ""), |r| (&*r.group, &*r.version));
    Ok(PathItem {
        path: format!("/{path}/"),
        parameters: Vec::new(),
        operations: vec![Operation {
            method: "get",
            action: "",
            id: format!("get{}{}APIResources", group_name(group), capital(version)),
            tag: tag(group, version),
            description: "get available resources".to_owned(),
            parameters: Vec::new(),
            body: None,
            responses: vec![("200", "OK"), ("401", "Unauthorized")],
            answer: Some(meta("APIResourceList")?),
            streams: false,
            deprecated: false,
            gvk: None,
        }],
    })
}

struct Builder<'a> {
    /// Path of the group.
    root: &'a str,
    resource: &'a Served,
    of: Of,
}

impl<'a> Builder<'a> {
    fn new(root: &'a str, resource: &'a Served) -> Result<Self, Error> {
        let of = match &resource.custom {
            Some((object, _)) => Of::Custom(Arc::clone(object)),
            None => type_of(&resource.group, &resource.version, &resource.kind)?,
        };
        Ok(Self { root, resource, of })
    }

    fn all(&self, items: &mut Vec<PathItem>) -> Result<(), Error> {
        let resource = self.resource;
        let scope = if resource.namespaced { "namespaces/{namespace}/" } else { "" };
        let collection = format!("/{}/{scope}{}", self.root, resource.plural);
        let mut shared = vec![&p::PRETTY];
        if resource.namespaced {
            shared.insert(0, &p::NAMESPACE);
        }
        let mut with_name = shared.clone();
        with_name.insert(0, &p::NAME);

        self.push(items, collection.clone(), shared.clone(), self.collection()?);
        self.push(items, format!("{collection}/{{name}}"), with_name.clone(), self.item()?);
        if resource.namespaced && resource.has_verb("list") {
            let id = self.id("list", "", "ForAllNamespaces", false);
            let list = self.list(id)?;
            self.push(items, format!("/{}/{}", self.root, resource.plural), vec![&p::PRETTY], vec![list]);
        }
        if resource.has_verb("watch") {
            let watched = format!("/{}/watch/{scope}{}", self.root, resource.plural);
            let one = self.watch("watch", self.id("watch", "", "", true))?;
            self.push(items, format!("{watched}/{{name}}"), with_name.clone(), vec![one]);
            let many = self.watch("watchlist", self.id("watch", "", "List", true))?;
            self.push(items, watched, shared, vec![many]);
            if resource.namespaced {
                let all = self.watch("watchlist", self.id("watch", "", "ListForAllNamespaces", false))?;
                self.push(items, format!("/{}/watch/{}", self.root, resource.plural), vec![&p::PRETTY], vec![all]);
            }
        }
        for subresource in resource.subresources.iter() {
            let path = format!("{collection}/{{name}}/{}", subresource.name);
            let mut operations = Vec::new();
            for verb in subresource.verbs.iter() {
                operations.extend(self.subresource(subresource, verb)?);
            }
            self.push(items, path, with_name.clone(), operations);
        }
        Ok(())
    }

    fn push(
        &self,
        items: &mut Vec<PathItem>,
        path: String,
        parameters: Vec<&'static Parameter>,
        operations: Vec<Operation>,
    ) {
        if !operations.is_empty() {
            items.push(PathItem { path, parameters, operations });
        }
    }

    fn collection(&self) -> Result<Vec<Operation>, Error> {
        let mut operations = Vec::new();
        let kind = &self.resource.kind;
        if self.resource.has_verb("list") {
            operations.push(self.list(self.id("list", "", "", true))?);
        }
        if self.resource.has_verb("create") {
            operations.push(Operation {
                body: Some(Body::Object(self.of.clone())),
                parameters: vec![&p::DRY_RUN, &p::FIELD_MANAGER, &p::FIELD_VALIDATION],
                responses: vec![("200", "OK"), ("201", "Created"), ("202", "Accepted"), ("401", "Unauthorized")],
                ..self.operation("post", "post", self.id("create", "", "", true), format!("create {}", article(kind)))
            });
        }
        if self.resource.has_verb("deletecollection") {
            let id = self.id("delete", "Collection", "", true);
            let mut parameters = p::LIST.to_vec();
            parameters.retain(|parameter| !matches!(parameter.name, "watch" | "allowWatchBookmarks"));
            parameters.extend(p::DELETE);
            operations.push(Operation {
                body: Some(Body::DeleteOptions(meta("DeleteOptions")?)),
                parameters,
                answer: Some(meta("Status")?),
                ..self.operation("delete", "deletecollection", id, format!("delete collection of {kind}"))
            });
        }
        Ok(operations)
    }

    fn item(&self) -> Result<Vec<Operation>, Error> {
        let mut operations = Vec::new();
        for verb in ["get", "update", "patch"] {
            if self.resource.has_verb(verb) {
                operations.extend(self.on_one(verb, "", self.of.clone())?);
            }
        }
        if self.resource.has_verb("delete") {
            let text = format!("delete {}", article(&self.resource.kind));
            operations.push(Operation {
                body: Some(Body::DeleteOptions(meta("DeleteOptions")?)),
                parameters: p::DELETE.to_vec(),
                answer: Some(meta("Status")?),
                responses: vec![("200", "OK"), ("202", "Accepted"), ("401", "Unauthorized")],
                ..self.operation("delete", "delete", self.id("delete", "", "", true), text)
            });
        }
        Ok(operations)
    }

    /// Read, replace or patch an object or its subresource.
    fn on_one(&self, verb: &str, subresource: &str, of: Of) -> Result<Option<Operation>, Error> {
        let part = if subresource.is_empty() { String::new() } else { format!("{subresource} of ") };
        let text = |verb: &str| format!("{verb} {part}the specified {}", self.resource.kind);
        let suffix = camel(subresource, '-', true);
        let id = |verb: &str| self.id(verb, "", &suffix, true);
        let written = vec![("200", "OK"), ("201", "Created"), ("401", "Unauthorized")];
        let operation = match verb {
            "get" => Operation { answer: Some(of), ..self.operation("get", "get", id("read"), text("read")) },
            "update" => Operation {
                body: Some(Body::Object(of.clone())),
                answer: Some(of),
                parameters: vec![&p::DRY_RUN, &p::FIELD_MANAGER, &p::FIELD_VALIDATION],
                responses: written,
                ..self.operation("put", "put", id("replace"), text("replace"))
            },
            "patch" => Operation {
                body: Some(Body::Patch(meta("Patch")?, self.resource.custom.is_none())),
                answer: Some(of),
                parameters: vec![&p::DRY_RUN, &p::FIELD_MANAGER, &p::FIELD_VALIDATION, &p::FORCE],
                responses: written,
                ..self.operation("patch", "patch", id("patch"), text("partially update"))
            },
            _ => return Ok(None),
        };
        Ok(Some(operation))
    }

    fn subresource(&self, subresource: &SubresourceInfo, verb: &str) -> Result<Option<Operation>, Error> {
        let (group, version) = match &*subresource.version {
            "" => (&*self.resource.group, &*self.resource.version),
            version => (&*subresource.group, version),
        };
        let gvk = Some((group.to_owned(), version.to_owned(), subresource.kind.to_string()));
        let suffix = camel(&subresource.name, '-', true);
        if subresource.kind.ends_with("Options") {
            let (method, name) = match verb {
                "create" => ("post", "Post"),
                "get" => ("get", "Get"),
                "update" => ("put", "Put"),
                "patch" => ("patch", "Patch"),
                "delete" => ("delete", "Delete"),
                _ => return Ok(None),
            };
            let id = self.id("connect", name, &suffix, true);
            let text =
                format!("connect {} requests to {} of {}", name.to_uppercase(), subresource.name, self.resource.kind);
            return Ok(Some(Operation { gvk, answer: None, ..self.operation(method, "connect", id, text) }));
        }
        let own = self.resource.custom.as_ref().filter(|_| subresource.version.is_empty());
        let of = match own {
            Some((object, _)) => Of::Custom(Arc::clone(object)),
            None => type_of(group, version, &subresource.kind)?,
        };
        let operation = if subresource.name == "log" {
            let id = self.id("read", "", &suffix, true);
            let text = format!("read log of the specified {}", self.resource.kind);
            Some(Operation { answer: None, parameters: p::LOG.to_vec(), ..self.operation("get", "get", id, text) })
        } else if verb == "create" {
            let text = format!("create {} of {}", subresource.name, article(&self.resource.kind));
            Some(Operation {
                body: Some(Body::Object(of.clone())),
                answer: Some(of),
                parameters: vec![&p::DRY_RUN, &p::FIELD_MANAGER, &p::FIELD_VALIDATION],
                responses: vec![("200", "OK"), ("201", "Created"), ("202", "Accepted"), ("401", "Unauthorized")],
                ..self.operation("post", "post", self.id("create", "", &suffix, true), text)
            })
        } else {
            self.on_one(verb, &subresource.name, of)?
        };
        Ok(operation.map(|operation| Operation { gvk, ..operation }))
    }

    fn list(&self, id: String) -> Result<Operation, Error> {
        let resource = self.resource;
        Ok(Operation {
            parameters: p::LIST.to_vec(),
            answer: Some(match &resource.custom {
                Some((_, list)) => Of::Custom(Arc::clone(list)),
                None => type_of(&resource.group, &resource.version, &resource.list_kind())?,
            }),
            streams: true,
            ..self.operation("get", "list", id, format!("list or watch objects of kind {}", resource.kind))
        })
    }

    fn watch(&self, action: &'static str, id: String) -> Result<Operation, Error> {
        Ok(Operation {
            parameters: p::LIST.to_vec(),
            answer: Some(meta("WatchEvent")?),
            streams: true,
            deprecated: true,
            ..self.operation("get", action, id, format!("watch changes to {}", self.resource.kind))
        })
    }

    fn operation(&self, method: &'static str, action: &'static str, id: String, description: String) -> Operation {
        let (group, version, kind) = self.resource.gvk();
        Operation {
            method,
            action,
            id,
            tag: tag(group, version),
            description,
            parameters: Vec::new(),
            body: None,
            responses: vec![("200", "OK"), ("401", "Unauthorized")],
            answer: Some(self.of.clone()),
            streams: false,
            deprecated: false,
            gvk: Some((group.to_owned(), version.to_owned(), kind.to_owned())),
        }
    }

    /// Such as `readAppsV1NamespacedDeploymentStatus`.
    fn id(&self, verb: &str, what: &str, suffix: &str, scoped: bool) -> String {
        let resource = self.resource;
        let scope = if resource.namespaced && scoped { "Namespaced" } else { "" };
        let (group, version) = (group_name(&resource.group), capital(&resource.version));
        format!("{verb}{group}{version}{what}{scope}{}{suffix}", resource.kind)
    }
}

fn type_of(group: &str, version: &str, kind: &str) -> Result<Of, Error> {
    Type::of(group, version, kind).map(Of::Known).ok_or_else(|| Error::UnknownKind(format!("{group}/{version} {kind}")))
}

fn group_name(group: &str) -> String {
    if group.is_empty() { "Core".to_owned() } else { camel(group.trim_end_matches(".k8s.io"), '.', true) }
}

fn tag(group: &str, version: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.trim_end_matches(".k8s.io") };
    format!("{}_{version}", camel(group, '.', false))
}

fn camel(name: &str, separator: char, first: bool) -> String {
    let parts = name.split(separator).enumerate();
    parts.map(|(at, part)| if at == 0 && !first { part.to_owned() } else { capital(part) }).collect()
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect()
}

fn article(kind: &str) -> String {
    let an = kind.starts_with(['A', 'E', 'I', 'O', 'U']);
    format!("{} {kind}", if an { "an" } else { "a" })
}
