//! `scale` of Deployments and ReplicaSets: `autoscaling/v1` Scale.

use std::sync::Arc;

use http::{Response, StatusCode};
use k8s_openapi::{api::autoscaling::v1::Scale, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde_json::Value;
use skep_api::{
    field,
    options::{CreateOptions, PatchOptions},
    request::Verb,
    status::StatusError,
};

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
            Registry,
            patch::{Patch, PatchKind},
            update::{Current, Source},
        },
        object::Object,
    },
};

pub(crate) async fn answer(call: Call<'_>, registry: &Arc<Registry>) -> Result<Response<Body>, StatusError> {
    let Some(name) = call.request.name.as_deref() else { return Err(StatusError::generic_not_found()) };
    let accepted = accept_plain(call.headers)?;
    let (dry_run, patch) = match call.request.verb {
        Verb::Get => {
            let object = registry.get_object(call.namespace(registry), name).await?;
            let scale = scale_of(registry, &*object)?;
            return Ok(response::object(StatusCode::OK, &accepted, &scale));
        }
        Verb::Update => (CreateOptions::parse_update(&call.request.query)?.dry_run, None),
        Verb::Patch => {
            let kind = PatchKind::of(call.headers)?;
            (PatchOptions::parse(&call.request.query, false)?.dry_run, Some(kind))
        }
        _ => return Err(call.wrong_method()),
    };
    let scope = call.scope(registry, dry_run);
    let headers = call.headers;
    let bytes = request_body::read(call.body).await?;
    let change = match patch {
        Some(kind) => Change::Patch(Patch::parse(kind, &bytes)?),
        None => {
            let value = match document(headers, &bytes)? {
                Document::Json(json) => serde_json::from_slice(&json).map_err(|error| unreadable(&error))?,
                Document::Value(value) => value,
            };
            Change::Replace(read(value)?)
        }
    };
    let mut source = ScaleSource { registry, name, change };
    let written = registry.update(&scope, name, UpdateKind::Scale, &mut source).await?;
    let object = registry.read_back(&written.json).await?;
    Ok(response::object(StatusCode::OK, &accepted, &scale_of(registry, &*object)?))
}

enum Change {
    Replace(Box<Scale>),
    Patch(Patch),
}

struct ScaleSource<'a> {
    registry: &'a Registry,
    name: &'a str,
    change: Change,
}

impl Source for ScaleSource<'_> {
    fn produce(&mut self, current: &Current<'_>) -> Result<Box<dyn Object>, StatusError> {
        let scale = match &self.change {
            Change::Replace(scale) => scale.clone(),
            Change::Patch(patch) => {
                let present = scale_of(self.registry, current.object)?;
                let document = serde_json::to_value(&present).map_err(StatusError::internal_error)?;
                read(patch.apply("Scale", document)?)?
            }
        };
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
        Ok(object)
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
