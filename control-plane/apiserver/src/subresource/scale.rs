//! `scale` of Deployments and ReplicaSets: `autoscaling/v1` Scale.

use std::sync::Arc;

use futures::{
    FutureExt as _,
    future::{self, BoxFuture},
};
use http::{Response, StatusCode};
use k8s_openapi::{api::autoscaling::v1::Scale, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde_json::Value;
use skep_api::{
    field,
    options::{CreateOptions, PatchOptions},
    request::Verb,
    status::StatusError,
};
use skep_apply::{Apply, Changes, Managed, Manager, OneVersion, Type, compare, reset::Ignored, scale as owners};

use crate::{
    dispatch::Call,
    http::{
        body::Body,
        negotiate::accept_plain,
        request_body::{self, Document, document},
        response,
    },
    registry::{
        erased::UpdateKind,
        generic::{
            Registry, Scope, apply,
            ownership::{Ownership, apply_error},
            patch::{Patch, PatchKind},
            update::{Current, Source},
        },
        object::Object,
    },
};

/// The version of a Scale.
const SCALE_VERSION: &str = "autoscaling/v1";

pub(crate) async fn answer(call: Call<'_>, registry: &Arc<Registry>) -> Result<Response<Body>, StatusError> {
    let Some(name) = call.request.name.as_deref() else { return Err(StatusError::generic_not_found()) };
    let accepted = accept_plain(call.headers)?;
    let (options, patch) = match call.request.verb {
        Verb::Get => {
            let object = registry.get_object(call.namespace(registry), name).await?;
            let scale = scale_of(registry, &*object)?;
            return Ok(response::object(StatusCode::OK, &accepted, &scale));
        }
        Verb::Update => {
            let CreateOptions { dry_run, field_manager, field_validation } =
                CreateOptions::parse_update(&call.request.query)?;
            (PatchOptions { dry_run, force: None, field_manager, field_validation }, None)
        }
        Verb::Patch => {
            let kind = PatchKind::of(call.headers, registry)?;
            (PatchOptions::parse(&call.request.query, kind == PatchKind::Apply)?, Some(kind))
        }
        _ => return Err(call.wrong_method()),
    };
    let scope = call.scope(registry, options.dry_run);
    let headers = call.headers;
    let bytes = request_body::read(call.body).await?;
    let change = match patch {
        Some(PatchKind::Apply) => {
            let config = apply::read(&bytes, options.field_validation, &mut Vec::new())?;
            Change::Apply { config, force: options.force.unwrap_or(false) }
        }
        Some(kind) => Change::Patch(Patch::parse(kind, &bytes, options.field_validation)?),
        None => {
            let value = match document(headers, &bytes)? {
                Document::Json(json) => serde_json::from_slice(&json).map_err(|error| unreadable(&error))?,
                Document::Value(value) => value,
            };
            Change::Replace(read(value)?)
        }
    };
    let mut source = ScaleSource { registry, name, change, scope: &scope };
    let written = registry.update(&scope, name, UpdateKind::Scale, &mut source).await?;
    let object = registry.read_back(&written.json).await?;
    Ok(response::object(StatusCode::OK, &accepted, &scale_of(registry, &*object)?))
}

enum Change {
    Replace(Box<Scale>),
    Patch(Patch),
    Apply { config: Value, force: bool },
}

struct ScaleSource<'a> {
    registry: &'a Registry,
    name: &'a str,
    change: Change,
    scope: &'a Scope<'a>,
}

impl ScaleSource<'_> {
    /// The scale that is asked for, and who then owns the number of replicas.
    fn scale(&self, present: &Value, managed: &mut Managed) -> Result<Box<Scale>, StatusError> {
        let of = Type::of_kind("autoscaling", "v1", "Scale");
        let scale = match &self.change {
            Change::Replace(scale) => scale.clone(),
            Change::Patch(patch) => read(patch.apply(of, present.clone())?)?,
            Change::Apply { config, force } => {
                let request = Apply {
                    of,
                    api_version: SCALE_VERSION,
                    kind: "Scale",
                    live: Some(present),
                    config,
                    manager: self.scope.manager,
                    subresource: "scale",
                    force: *force,
                    ignored: Ignored::NOTHING,
                    // Owners of the scale all know it in this version.
                    versions: &OneVersion,
                    now: self.scope.now,
                };
                let applied = skep_apply::apply(&request, managed).map_err(apply_error)?;
                return read(applied.unwrap_or_else(|| present.clone()));
            }
        };
        if !managed.is_empty() {
            let asked = serde_json::to_value(&scale).map_err(StatusError::internal_error)?;
            let manager =
                Manager { api_version: SCALE_VERSION.to_owned(), ..self.registry.updater(self.scope, "scale") };
            let changes = Changes::new(compare(of, present, &asked), Ignored::NOTHING);
            managed.update(&changes, &manager, self.scope.now);
        }
        Ok(scale)
    }
}

impl ScaleSource<'_> {
    fn scaled(&self, current: &Current<'_>) -> Result<Box<dyn Object>, StatusError> {
        let present = scale_of(self.registry, current.object)?;
        let present = serde_json::to_value(&present).map_err(StatusError::internal_error)?;
        let stored = current.object.meta().managed_fields.clone().unwrap_or_default();
        let parent = Managed::decode(stored).unwrap_or_default();
        let path = self.registry.strategy.replicas_path();
        let mut managed = owners::of_parent(&parent, &path);
        let scale = self.scale(&present, &mut managed)?;
        let given = scale.metadata.name.as_deref().unwrap_or_default();
        if given != self.name {
            return Err(StatusError::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({})",
                self.name
            )));
        }
        let replicas = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        if replicas < 0 {
            let path = field::Path::new("spec.replicas");
            let error = field::Error::invalid(&path, replicas, "must be greater than or equal to 0");
            return Err(StatusError::invalid("autoscaling", "Scale", self.name, &[error]));
        }
        let mut object = current.object.boxed_clone();
        self.registry.strategy.set_scale(&mut *object, replicas);
        // The client's preconditions hold for the object behind the scale.
        let meta = object.meta_mut();
        meta.resource_version.clone_from(&scale.metadata.resource_version);
        if scale.metadata.uid.as_deref().is_some_and(|uid| !uid.is_empty()) {
            meta.uid.clone_from(&scale.metadata.uid);
        }
        let api_version = self.registry.info().api_version();
        meta.managed_fields = owners::to_parent(parent, managed, &path, &api_version).encode();
        Ok(object)
    }
}

impl Source for ScaleSource<'_> {
    fn produce<'a>(&'a mut self, current: &'a Current<'_>) -> BoxFuture<'a, Result<Box<dyn Object>, StatusError>> {
        future::ready(self.scaled(current)).boxed()
    }

    fn ownership(&self) -> Ownership {
        Ownership::Settled
    }
}

fn read(value: Value) -> Result<Box<Scale>, StatusError> {
    serde_json::from_value(value).map_err(|error| unreadable(&error))
}

fn unreadable(error: &serde_json::Error) -> StatusError {
    StatusError::bad_request(format!("Scale in version \"v1\" cannot be handled as a Scale: {error}"))
}

/// The scale of an object, with the object's identity.
pub(crate) fn scale_of(registry: &Registry, object: &dyn Object) -> Result<Scale, StatusError> {
    let mut scale = registry.strategy.scale(object).ok_or_else(StatusError::generic_not_found)?;
    let meta = object.meta();
    scale.metadata = ObjectMeta {
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        creation_timestamp: meta.creation_timestamp.clone(),
        ..ObjectMeta::default()
    };
    Ok(scale)
}
