//! PATCH: applies a patch to the JSON of the object stored now.

use futures::{
    FutureExt as _,
    future::{self, BoxFuture},
};
use http::{HeaderMap, Response};
use serde_json::Value;
use skep_api::{
    field,
    options::FieldValidation,
    patch::{json, merge},
    status::StatusError,
};
use skep_apply::{Type, strategic};

use super::{
    Registry,
    decode::Warnings,
    strict,
    update::{Current, Source},
};
use crate::{
    http::negotiate::content_type,
    registry::{
        erased::{UnknownFields, unknown_field_texts},
        object::Object,
    },
};

/// The patch types served, as the 415 answer lists them.
const PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
/// Those of custom resources: nothing says how their lists merge strategically.
const CUSTOM_PATCH_TYPES: &[&str] =
    &["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];

/// A patch that was read from a request.
#[derive(Debug)]
pub(crate) struct Patch {
    kind: PatchKind,
    body: Value,
    /// What is wrong with the patch beyond what makes it useless.
    complaints: Vec<String>,
}

/// The kinds of patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatchKind {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl PatchKind {
    /// The kind a PATCH request sends; 415 for any other.
    pub(crate) fn of(headers: &HeaderMap, registry: &Registry) -> Result<Self, StatusError> {
        let is_custom = registry.conversion.is_some();
        match content_type(headers) {
            Some("application/json-patch+json") => Ok(Self::Json),
            Some("application/merge-patch+json") => Ok(Self::Merge),
            Some("application/strategic-merge-patch+json") if !is_custom => Ok(Self::Strategic),
            Some("application/apply-patch+yaml") => Ok(Self::Apply),
            _ => Err(StatusError::unsupported_media_type(if is_custom { CUSTOM_PATCH_TYPES } else { PATCH_TYPES })),
        }
    }
}

impl Patch {
    /// Reads the body of a PATCH request that is no apply.
    pub(crate) fn parse(kind: PatchKind, body: &[u8], validation: FieldValidation) -> Result<Self, StatusError> {
        let complaints = match validation {
            FieldValidation::Ignore => Vec::new(),
            _ => strict::duplicates(body),
        };
        let body = serde_json::from_slice(body)
            .map_err(|error| StatusError::bad_request(format!("error decoding patch: {error}")))?;
        Ok(Self { kind, body, complaints })
    }

    /// Applies it to a document of a type.
    pub(crate) fn apply(&self, of: Type<'_>, document: Value) -> Result<Value, StatusError> {
        match self.kind {
            PatchKind::Json => json::apply(document, &self.body),
            PatchKind::Merge => merge::apply(document, &self.body),
            PatchKind::Strategic | PatchKind::Apply => {
                strategic::merge(of, document, &self.body).map_err(|error| StatusError::bad_request(error.to_string()))
            }
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
    fn produce<'a>(&'a mut self, current: &'a Current<'_>) -> BoxFuture<'a, Result<Box<dyn Object>, StatusError>> {
        future::ready(self.patched(current.json)).boxed()
    }
}

impl Patched<'_> {
    fn patched(&mut self, json: &[u8]) -> Result<Box<dyn Object>, StatusError> {
        let patched = || {
            let document = serde_json::from_slice(json).map_err(StatusError::internal_error)?;
            self.patch.apply(self.registry.field_type(), document)
        };
        // A refusal shows the result, which decoding takes apart: it is made again for that.
        let refuse = |why: &str| match patched() {
            Ok(result) => {
                let error = field::Error::invalid(&field::Path::new("patch"), result.to_string(), why);
                StatusError::invalid("", "", "", &[error])
            }
            Err(error) => error,
        };
        let mut unknown = UnknownFields::new();
        let object = match self.registry.decode_value(patched()?, &mut unknown) {
            Ok(object) => object,
            Err(error) => return Err(refuse(&error.to_string())),
        };
        self.warnings.clear();
        let mut complaints = self.patch.complaints.clone();
        complaints.extend(unknown_field_texts(&unknown));
        strict::judge(complaints, self.validation, &mut self.warnings, |all| {
            refuse(&format!("strict decoding error: {all}"))
        })?;
        Ok(object)
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
