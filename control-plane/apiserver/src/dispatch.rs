//! From a request to the verb of a registry.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use futures::FutureExt;
use http::{HeaderMap, Method, Response, StatusCode, Uri, header::USER_AGENT};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions as WireDeleteOptions;
use parking_lot::RwLock;
use serde::Deserialize as _;
use skep_api::{
    options::{CreateOptions, DeleteOptions, GetOptions, ListOptions, PatchOptions},
    request::{RequestInfo, Verb},
    status::StatusError,
};
use tokio::{sync::watch, time::timeout};

use crate::{
    admission::WarningSink,
    http::{
        body::Body,
        negotiate::{Accepted, accept},
        request_body::{self, Document, RequestBody, document},
        response,
    },
    registry::{
        custom::definitions,
        erased::UpdateKind,
        generic::{
            Registry, Scope,
            apply::Applied,
            decode::Warnings,
            delete::Deleted,
            list,
            patch::{Patch, PatchKind, Patched, add_warnings},
            update::Replacement,
            view::{IncludeObject, Viewer},
        },
    },
    subresource,
    user::UserInfo,
};

/// How long a request for an unknown resource waits for definitions to be followed.
const DEFINITION_WAIT: Duration = Duration::from_secs(2);

/// All registries, found by group, version and plural name. Those built in stay as they are; those of custom resources
/// are replaced as one when a definition changes.
pub(crate) struct Registries {
    built_in: Table,
    custom: RwLock<Arc<Table>>,
    /// The revision up to which definitions were followed.
    followed: watch::Sender<i64>,
}

/// Registries by plural name.
#[derive(Default)]
pub(crate) struct Table(HashMap<String, Vec<Arc<Registry>>>);

impl Table {
    pub(crate) fn new(all: impl IntoIterator<Item = Arc<Registry>>) -> Self {
        let mut by_plural: HashMap<String, Vec<Arc<Registry>>> = HashMap::new();
        for registry in all {
            by_plural.entry(registry.info().plural.to_string()).or_default().push(registry);
        }
        Self(by_plural)
    }

    fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Registry>> {
        self.0.get(plural)?.iter().find(|registry| registry.info().group == group && registry.info().version == version)
    }

    /// All of them, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Registry>> {
        self.0.values().flatten()
    }
}

impl Registries {
    pub(crate) fn new(built_in: Vec<Registry>) -> Self {
        Self {
            built_in: Table::new(built_in.into_iter().map(Arc::new)),
            custom: RwLock::default(),
            followed: watch::Sender::default(),
        }
    }

    /// The registry of a request's resource.
    pub(crate) fn find(&self, request: &RequestInfo) -> Option<Arc<Registry>> {
        // Core is served below /api, everything else below /apis; neither below the other.
        if (request.api_prefix == "api") != request.group.is_empty() {
            return None;
        }
        self.get(&request.group, &request.version, request.resource.as_deref()?)
    }

    /// The registry of a resource.
    pub(crate) fn get(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Registry>> {
        if let Some(found) = self.built_in.get(group, version, plural) {
            return Some(Arc::clone(found));
        }
        self.custom.read().get(group, version, plural).cloned()
    }

    /// Whether anything of a request's group and version is served.
    pub(crate) fn serves(&self, request: &RequestInfo) -> bool {
        let of = |table: &Table| {
            table.iter().any(|own| own.info().group == request.group && own.info().version == request.version)
        };
        (request.api_prefix == "api") == request.group.is_empty() && (of(&self.built_in) || of(&self.custom.read()))
    }

    /// Those built in.
    pub(crate) fn built_in(&self) -> &Table {
        &self.built_in
    }

    /// Those of custom resources, as they are now.
    pub(crate) fn custom(&self) -> Arc<Table> {
        Arc::clone(&self.custom.read())
    }

    /// Serves these custom resources and no others from now on; those there are if none are given. That is the state of
    /// the definitions at `revision`.
    pub(crate) fn serve_custom(&self, custom: Option<Table>, revision: i64) {
        if let Some(custom) = custom {
            *self.custom.write() = Arc::new(custom);
        }
        self.followed.send_replace(revision);
    }

    /// The registry of a request's resource; definitions that were made through other servers are waited for.
    async fn find_defined(&self, request: &RequestInfo) -> Result<Option<Arc<Registry>>, StatusError> {
        if let Some(found) = self.find(request) {
            return Ok(Some(found));
        }
        if !request.group.contains('.') {
            return Ok(None);
        }
        let Some(crds) = definitions::crds(self) else { return Ok(None) };
        crds.refresh().await?;
        let newest = crds.cache.snapshot().iter().map(|crd| crd.mod_revision()).max();
        let revision = newest.unwrap_or(0);
        let mut followed = self.followed.subscribe();
        // Whether it came or not, what is known then is the answer.
        let _ = timeout(DEFINITION_WAIT, followed.wait_for(|known| *known >= revision)).await;
        Ok(self.find(request))
    }
}

/// One request for a resource, past authorisation.
pub(crate) struct Call<'a> {
    pub(crate) request: &'a RequestInfo,
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: RequestBody,
    pub(crate) user: &'a UserInfo,
    /// Makes tokens.
    pub(crate) accounts: Option<&'a crate::authn::service_account::ServiceAccounts>,
    pub(crate) registries: &'a Registries,
    pub(crate) reach: &'a subresource::proxy::Reach,
    /// The client's address, if it came over the network.
    pub(crate) peer: Option<SocketAddr>,
    /// The connection, for requests that may take it over.
    pub(crate) upgrade: Option<crate::upgrade::Upgrade>,
    pub(crate) now: Timestamp,
    /// Takes what the client should be warned of.
    pub(crate) warnings: &'a WarningSink,
}

/// The longest name of a manager.
const MAX_MANAGER: usize = 128;

type Answer = Result<Response<Body>, StatusError>;

impl<'a> Call<'a> {
    /// Answers the request. Every verb but GET is boxed, or each request would carry room for the largest of them.
    pub(crate) async fn answer(self) -> Answer {
        let found = match self.registries.find(self.request) {
            Some(found) => Some(found),
            None => self.registries.find_defined(self.request).boxed().await?,
        };
        let registry = &found.ok_or_else(StatusError::generic_not_found)?;
        if let Some(warning) = registry.conversion.as_ref().and_then(|conversion| conversion.deprecation()) {
            self.warnings.add(warning);
        }
        if !self.request.trailing_path.is_empty() && !subresource::proxy::is_proxy(self.request) {
            return Err(StatusError::generic_not_found());
        }
        if registry.info().namespaced {
            let across = matches!(self.request.verb, Verb::List | Verb::Watch) && self.request.subresource.is_none();
            if self.request.namespace.is_none() && !across {
                // One object has no path without its namespace.
                let one = self.request.name.is_some();
                return Err(if one { StatusError::generic_not_found() } else { self.wrong_method() });
            }
        } else if self.request.namespace.is_some() && self.request.resource.as_deref() != Some("namespaces") {
            return Err(StatusError::generic_not_found());
        }
        match self.request.subresource.as_deref() {
            None => self.resource(registry).await,
            Some(name) if registry.info().subresource(name).is_none() => Err(StatusError::generic_not_found()),
            Some("status") => self.part(registry, UpdateKind::Status).boxed().await,
            Some("approval") => self.part(registry, UpdateKind::Approval).boxed().await,
            Some("finalize") => self.part(registry, UpdateKind::Finalize).boxed().await,
            Some("token") => subresource::token::answer(self, registry).boxed().await,
            Some("ephemeralcontainers") => self.part(registry, UpdateKind::Part("ephemeralcontainers")).boxed().await,
            Some("resize") => self.part(registry, UpdateKind::Part("resize")).boxed().await,
            Some("scale") => subresource::scale::answer(self, registry).boxed().await,
            Some("binding") => subresource::binding::answer(self, registry).boxed().await,
            Some("eviction") => subresource::eviction::answer(self, registry).boxed().await,
            Some("log") => subresource::log::answer(self, registry).boxed().await,
            Some("exec" | "attach" | "portforward") => subresource::stream::answer(self, registry).boxed().await,
            Some("proxy") => subresource::proxy::answer(self, registry).boxed().await,
            Some(_) => Err(StatusError::generic_not_found()),
        }
    }

    async fn resource(self, registry: &Arc<Registry>) -> Answer {
        let name = self.request.name.as_deref();
        match (self.request.verb, name) {
            (Verb::Get, Some(name)) => self.get(registry, name).await,
            (Verb::List, _) => {
                let (options, selection) = self.selected(registry)?;
                if options.watch {
                    return self.watch(registry).boxed().await;
                }
                let accepted = accept(self.headers)?;
                let viewer = self.viewer(registry, &accepted)?;
                registry.list(selection, &options, viewer, &accepted).boxed().await
            }
            (Verb::Watch, _) => self.watch(registry).boxed().await,
            (Verb::Create, None) => self.create(registry).boxed().await,
            (Verb::Update, Some(name)) => self.update(registry, name, UpdateKind::Main).boxed().await,
            (Verb::Patch, Some(name)) => self.patch(registry, name, UpdateKind::Main).boxed().await,
            (Verb::Delete, Some(name)) => self.delete(registry, name).boxed().await,
            (Verb::DeleteCollection, _) if registry.info().has_verb("deletecollection") => {
                self.delete_collection(registry).boxed().await
            }
            _ => Err(self.wrong_method()),
        }
    }

    /// A subresource that is the object itself with other rules.
    async fn part(self, registry: &Arc<Registry>, kind: UpdateKind) -> Answer {
        let Some(name) = self.request.name.as_deref() else { return Err(StatusError::generic_not_found()) };
        match (self.request.verb, kind) {
            (Verb::Get, UpdateKind::Status | UpdateKind::Approval | UpdateKind::Part(_)) => {
                self.get(registry, name).await
            }
            (Verb::Update, _) => self.update(registry, name, kind).await,
            (Verb::Patch, UpdateKind::Status | UpdateKind::Approval | UpdateKind::Part(_)) => {
                self.patch(registry, name, kind).await
            }
            _ => Err(self.wrong_method()),
        }
    }

    async fn get(self, registry: &Arc<Registry>, name: &str) -> Answer {
        let accepted = accept(self.headers)?;
        let mut viewer = self.viewer(registry, &accepted)?;
        let options = GetOptions::parse(&self.request.query)?;
        let object = registry.get(self.namespace(registry), name, &options).await?;
        viewer.prepare(std::iter::once(object.json())).await?;
        Ok(viewer.respond(&accepted, StatusCode::OK, object.json()))
    }

    async fn watch(self, registry: &Arc<Registry>) -> Answer {
        let (options, selection) = self.selected(registry)?;
        let accepted = accept(self.headers)?;
        let viewer = self.viewer(registry, &accepted)?;
        registry.watch(selection, &options, viewer, &accepted).await
    }

    async fn create(self, registry: &Arc<Registry>) -> Answer {
        let accepted = accept(self.headers)?;
        let mut viewer = self.viewer(registry, &accepted)?;
        let options = CreateOptions::parse(&self.request.query)?;
        let scope = self.scope(registry, options.dry_run);
        let body = request_body::read(self.body).await?;
        let mut warnings = Warnings::new();
        let object = registry.decode_body(self.headers, &body, options.field_validation, &mut warnings)?;
        let written = registry.create(&scope, object).await?;
        viewer.prepare(std::iter::once(&written.json)).await?;
        let mut response = viewer.respond(&accepted, written.code, &written.json);
        add_warnings(&mut response, &warnings);
        Ok(response)
    }

    async fn update(self, registry: &Arc<Registry>, name: &str, kind: UpdateKind) -> Answer {
        let accepted = accept(self.headers)?;
        let mut viewer = self.viewer(registry, &accepted)?;
        let options = CreateOptions::parse_update(&self.request.query)?;
        let scope = self.scope(registry, options.dry_run);
        let body = request_body::read(self.body).await?;
        let mut warnings = Warnings::new();
        let object = registry.decode_body(self.headers, &body, options.field_validation, &mut warnings)?;
        registry.check_names(&scope, name, &*object)?;
        let written = registry.update(&scope, name, kind, &mut Replacement(object)).await?;
        viewer.prepare(std::iter::once(&written.json)).await?;
        let mut response = viewer.respond(&accepted, written.code, &written.json);
        add_warnings(&mut response, &warnings);
        Ok(response)
    }

    async fn patch(self, registry: &Arc<Registry>, name: &str, kind: UpdateKind) -> Answer {
        let accepted = accept(self.headers)?;
        let mut viewer = self.viewer(registry, &accepted)?;
        let patch = PatchKind::of(self.headers, registry)?;
        let options = PatchOptions::parse(&self.request.query, patch == PatchKind::Apply)?;
        let scope = self.scope(registry, options.dry_run);
        let body = request_body::read(self.body).await?;
        if patch == PatchKind::Apply {
            let mut source = Applied::new(registry, &scope, kind, &options, &body)?;
            let written = registry.update(&scope, name, kind, &mut source).await?;
            viewer.prepare(std::iter::once(&written.json)).await?;
            let mut response = viewer.respond(&accepted, written.code, &written.json);
            add_warnings(&mut response, &source.warnings);
            return Ok(response);
        }
        let mut source = Patched {
            registry,
            patch: Patch::parse(patch, &body, options.field_validation)?,
            validation: options.field_validation,
            warnings: Warnings::new(),
        };
        let written = registry.update(&scope, name, kind, &mut source).await?;
        viewer.prepare(std::iter::once(&written.json)).await?;
        let mut response = viewer.respond(&accepted, written.code, &written.json);
        add_warnings(&mut response, &source.warnings);
        Ok(response)
    }

    async fn delete(self, registry: &Arc<Registry>, name: &str) -> Answer {
        let accepted = accept(self.headers)?;
        let mut viewer = self.viewer(registry, &accepted)?;
        let mut scope = self.scope(registry, false);
        let body = request_body::read(self.body).await?;
        let options = delete_options(self.request, self.headers, &body)?;
        scope.dry_run = options.dry_run;
        match registry.delete(&scope, name, &options).await? {
            Deleted::Object(written) => {
                viewer.prepare(std::iter::once(&written.json)).await?;
                Ok(viewer.respond(&accepted, written.code, &written.json))
            }
            Deleted::Gone(status) => Ok(response::object(StatusCode::OK, &accepted, &status)),
        }
    }

    async fn delete_collection(self, registry: &Arc<Registry>) -> Answer {
        let accepted = accept(self.headers)?;
        let viewer = self.viewer(registry, &accepted)?;
        let (options, selection) = self.selected(registry)?;
        let mut scope = self.scope(registry, false);
        let body = request_body::read(self.body).await?;
        let delete = delete_options(self.request, self.headers, &body)?;
        scope.dry_run = delete.dry_run;
        let page = registry.page(selection, &options).await?;
        registry.delete_collection(&scope, &page, &delete).await?;
        list::respond(page, viewer, &accepted).await
    }

    // --- what verbs share ---

    fn selected(
        &self,
        registry: &Registry,
    ) -> Result<(ListOptions, crate::registry::generic::selection::Selection), StatusError> {
        let options = ListOptions::parse(&self.request.query)?;
        let name = self.request.name.as_deref();
        let selection = registry.select(self.namespace(registry), name, &options)?;
        Ok((options, selection))
    }

    /// The namespace of the request, none for cluster-scoped resources.
    pub(crate) fn namespace(&self, registry: &Registry) -> Option<&'a str> {
        self.request.namespace.as_deref().filter(|_| registry.info().namespaced)
    }

    pub(crate) fn scope(&self, registry: &Registry, dry_run: bool) -> Scope<'a> {
        Scope {
            user: self.user,
            namespace: self.namespace(registry),
            now: self.now,
            dry_run,
            manager: self.manager(),
            query: Some(&self.request.query),
            warnings: Some(self.warnings),
        }
    }

    /// Who is to own what the request writes: whom it names, else its program.
    fn manager(&self) -> &'a str {
        if let Some(named) = self.request.query.get("fieldManager").filter(|named| !named.is_empty()) {
            return named;
        }
        let Some(agent) = self.headers.get(USER_AGENT) else {
            // The components of this process send none; they are called as their programs are elsewhere.
            let name = self.user.name.as_str();
            let component = name.strip_prefix("system:").filter(|name| name.starts_with("kube-"));
            return component.unwrap_or(if name.starts_with("system:node:") { "kubelet" } else { "" });
        };
        let agent = agent.to_str().unwrap_or_default();
        let program = agent.split('/').next().unwrap_or_default();
        program.get(..MAX_MANAGER).unwrap_or(program)
    }

    pub(crate) fn viewer(&self, registry: &Arc<Registry>, accepted: &Accepted) -> Result<Viewer, StatusError> {
        let include = IncludeObject::parse(&self.request.query)?;
        Ok(Viewer::new(Arc::clone(registry), accepted.view.clone(), include, self.now))
    }

    pub(crate) fn wrong_method(&self) -> StatusError {
        let verb = self.request.verb.as_str();
        StatusError::method_not_supported(self.request.group_resource(), verb)
    }
}

/// Options of a deletion: the body's if there is one, else the query's.
fn delete_options(request: &RequestInfo, headers: &HeaderMap, body: &[u8]) -> Result<DeleteOptions, StatusError> {
    if body.is_empty() {
        return DeleteOptions::parse(&request.query);
    }
    let unreadable = |error: &dyn std::fmt::Display| {
        StatusError::bad_request(format!("the delete options of the request cannot be read: {error}"))
    };
    let wire = match document(headers, body)? {
        Document::Json(json) => {
            serde_json::from_slice::<WireDeleteOptions>(&json).map_err(|error| unreadable(&error))?
        }
        Document::Value(value) => WireDeleteOptions::deserialize(value).map_err(|error| unreadable(&error))?,
    };
    DeleteOptions::from_body(wire)
}
