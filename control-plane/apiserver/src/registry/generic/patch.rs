//! PATCH: applies a patch to the JSON of the object stored now.

use http::{HeaderMap, Response};
use serde_json::Value;
use skep_api::{
    options::FieldValidation,
    patch::{json, merge, schema_for, strategic},
    status::StatusError,
};

use super::{
    Registry,
    decode::Warnings,
    update::{Current, Source},
};
use crate::{http::negotiate::content_type, registry::object::Object};

/// The patch types served, as the 415 answer lists them.
const PATCH_TYPES: &[&str] =
    &["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"];

/// A patch that was read from a request.
#[derive(Debug)]
pub(crate) struct Patch {
    kind: PatchKind,
    body: Value,
}

/// The kinds of patches.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PatchKind {
    Json,
    Merge,
    Strategic,
}

impl PatchKind {
    /// The kind a PATCH request sends; 415 for any other.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, StatusError> {
        match content_type(headers) {
            Some("application/json-patch+json") => Ok(Self::Json),
            Some("application/merge-patch+json") => Ok(Self::Merge),
            Some("application/strategic-merge-patch+json") => Ok(Self::Strategic),
            _ => Err(StatusError::unsupported_media_type(PATCH_TYPES)),
        }
    }
}

impl Patch {
    /// Reads the body of a PATCH request.
    pub(crate) fn parse(kind: PatchKind, body: &[u8]) -> Result<Self, StatusError> {
        let body = serde_json::from_slice(body)
            .map_err(|error| StatusError::bad_request(format!("error decoding patch: {error}")))?;
        Ok(Self { kind, body })
    }

    /// Applies it to a document of some kind.
    pub(crate) fn apply(&self, kind: &str, document: Value) -> Result<Value, StatusError> {
        match self.kind {
            PatchKind::Json => json::apply(document, &self.body),
            PatchKind::Merge => merge::apply(document, &self.body),
            PatchKind::Strategic => strategic::apply(document, &self.body, schema_for(kind)),
        }
    }
}

/// A patch as the source of an update.
pub(crate) struct Patched<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) patch: Patch,
    pub(crate) validation: FieldValidation,
    pub(crate) warnings: Warnings,
}

impl Source for Patched<'_> {
    fn produce(&mut self, current: &Current<'_>) -> Result<Box<dyn Object>, StatusError> {
        let document = serde_json::from_slice(current.json).map_err(StatusError::internal_error)?;
        let patched = self.patch.apply(&self.registry.info().kind, document)?;
        self.warnings.clear();
        self.registry.decode_patched(patched, self.validation, &mut self.warnings)
    }
}

/// Adds warnings to a response, as upstream words the header.
pub(crate) fn add_warnings<B>(response: &mut Response<B>, warnings: &[String]) {
    for warning in warnings {
        let text = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = http::HeaderValue::try_from(format!("299 - \"{text}\"")) {
            response.headers_mut().append(http::header::WARNING, value);
        }
    }
}
