//! `pods/eviction`: a deletion that may be refused.
//!
//! PodDisruptionBudgets are not served yet, so nothing refuses it for their sake.

use std::sync::Arc;

use http::{Response, StatusCode};
use k8s_openapi::{api::policy::v1::Eviction, apimachinery::pkg::apis::meta::v1::Status};
use serde::Deserialize as _;
use skep_api::{
    options::{CreateOptions, DeleteOptions},
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
    registry::generic::Registry,
};

pub(crate) async fn answer(call: Call<'_>, registry: &Arc<Registry>) -> Result<Response<Body>, StatusError> {
    let (Verb::Create, Some(name)) = (call.request.verb, call.request.name.as_deref()) else {
        return Err(call.wrong_method());
    };
    let accepted = accept_plain(call.headers)?;
    let create = CreateOptions::parse(&call.request.query)?;
    let mut scope = call.scope(registry, create.dry_run);
    let headers = call.headers;
    let body = request_body::read(call.body).await?;
    let unreadable = |error: &dyn std::fmt::Display| {
        StatusError::bad_request(format!("Eviction in version \"v1\" cannot be handled as a Eviction: {error}"))
    };
    let eviction: Eviction = match document(headers, &body)? {
        Document::Json(json) => serde_json::from_slice(&json).map_err(|error| unreadable(&error))?,
        Document::Value(value) => Eviction::deserialize(value).map_err(|error| unreadable(&error))?,
    };
    if eviction.metadata.name.as_deref().is_some_and(|given| !given.is_empty() && given != name) {
        return Err(StatusError::bad_request("name in URL does not match name in Eviction object"));
    }
    let eviction = registry.admit_part(&scope, name, "eviction", eviction).await?;
    let options = DeleteOptions::from_body(eviction.delete_options.unwrap_or_default())?;
    scope.dry_run |= options.dry_run;
    registry.delete(&scope, name, &options).await?;
    let status = Status { status: Some("Success".to_owned()), code: Some(201), ..Status::default() };
    Ok(response::object(StatusCode::CREATED, &accepted, &status))
}
