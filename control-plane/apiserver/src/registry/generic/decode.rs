//! From a request's body to an object, with upstream's words for what is wrong with it.

use http::HeaderMap;
use serde::Deserialize;
use serde_json::Value;
use skep_api::{options::FieldValidation, status::StatusError};

use super::{Registry, omit, strict};
use crate::{
    http::request_body::{Document, document},
    registry::{
        erased::{UnknownFields, unknown_field_texts},
        object::Object,
    },
};

/// Warnings for the `Warning` headers of the response.
pub(crate) type Warnings = Vec<String>;

#[derive(Default, Deserialize)]
#[serde(default)]
struct TypeMeta {
    #[serde(rename = "apiVersion")]
    api_version: Option<String>,
    kind: Option<String>,
}

impl Registry {
    /// Reads the object of a create or update request, defaults filled in.
    pub(crate) fn decode_body(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        validation: FieldValidation,
        warnings: &mut Warnings,
    ) -> Result<Box<dyn Object>, StatusError> {
        let mut unknown = UnknownFields::new();
        let mut complaints = Vec::new();
        let decoded = match document(headers, body)? {
            Document::Json(json) => {
                let decoded = self
                    .read(&json, &mut unknown)
                    .map_err(|error| self.explain(serde_json::from_slice(&json).ok(), &json, &error));
                if validation != FieldValidation::Ignore {
                    complaints = strict::complaints(self.field_type(), &json, &unknown);
                }
                decoded
            }
            Document::Value(value) => {
                let meta = TypeMeta::deserialize(&value).ok();
                let summary = value.to_string();
                let decoded = self.read_value(value, &mut unknown);
                complaints.extend(unknown_field_texts(&unknown));
                decoded.map_err(|error| self.explain(meta, summary.as_bytes(), &error))
            }
        };
        let mut object = decoded?;
        strict::judge(complaints, validation, warnings, |all| {
            let (kind, version) = (&self.info().kind, &self.info().version);
            StatusError::bad_request(format!(
                "{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {all}"
            ))
        })?;
        self.strategy.default(&mut *object);
        Ok(object)
    }

    /// Makes an object of its JSON, defaults filled in.
    pub(crate) fn decode_value(
        &self,
        value: Value,
        unknown: &mut UnknownFields,
    ) -> serde_json::Result<Box<dyn Object>> {
        let mut object = self.read_value(value, unknown)?;
        self.strategy.default(&mut *object);
        Ok(object)
    }

    /// Makes an object of what the server itself or admission made, defaults filled in.
    pub(crate) fn decode_patched(
        &self,
        value: Value,
        validation: FieldValidation,
        warnings: &mut Warnings,
    ) -> Result<Box<dyn Object>, StatusError> {
        let mut unknown = UnknownFields::new();
        let refuse = |why: &dyn std::fmt::Display| {
            let (kind, version) = (&self.info().kind, &self.info().version);
            StatusError::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
        };
        let object = self.decode_value(value, &mut unknown).map_err(|error| refuse(&error))?;
        let complaints = unknown_field_texts(&unknown).collect();
        strict::judge(complaints, validation, warnings, |all| refuse(&format_args!("strict decoding error: {all}")))?;
        Ok(object)
    }

    fn read(&self, json: &[u8], unknown: &mut UnknownFields) -> serde_json::Result<Box<dyn Object>> {
        // Few objects have anything upstream leaves out. What is no object is told by reading it once more.
        if self.omitting().is_some()
            && omit::may_be_in(json)
            && let Ok(value) = serde_json::from_slice(json)
            && let Ok(object) = self.read_value(value, unknown)
        {
            return Ok(object);
        }
        unknown.clear();
        match &self.version {
            None => self.strategy.decode(json, unknown),
            Some(version) => version.decode(json, unknown),
        }
    }

    fn read_value(&self, mut json: Value, unknown: &mut UnknownFields) -> serde_json::Result<Box<dyn Object>> {
        if let Some(of) = self.omitting().filter(|_| omit::are_in(&json)) {
            omit::omit(of, &mut json);
        }
        match &self.version {
            None => self.strategy.decode_value(json, unknown),
            Some(version) => version.decode_value(json, unknown),
        }
    }

    /// The type whose empty lists and maps are left out; none for custom resources, which keep what is sent.
    fn omitting(&self) -> Option<skep_schema::Type> {
        let info = self.info();
        if self.conversion.is_some() {
            return None;
        }
        skep_schema::Type::of(&info.group, &info.version, &info.kind)
    }

    /// What to say about a body that is no object of this resource.
    fn explain(&self, meta: Option<TypeMeta>, body: &[u8], error: &serde_json::Error) -> StatusError {
        let info = self.info();
        let expected = &info.kind;
        let Some(TypeMeta { api_version, kind }) = meta else {
            return StatusError::bad_request(format!(
                "the object provided is unrecognized (must be of type {expected}): \
                 couldn't get version/kind; json parse error: {error} ({})",
                summary(body)
            ));
        };
        let (own_version, own_kind) = (info.api_version(), expected.as_ref());
        let api_version = api_version.unwrap_or_else(|| own_version.clone().into_owned());
        let kind = kind.unwrap_or_else(|| own_kind.to_owned());
        let version = api_version.rsplit('/').next().unwrap_or_default();
        StatusError::bad_request(if kind != own_kind {
            format!(
                "{kind} in version {version:?} cannot be handled as a {expected}: \
                 the kind in the data does not match the expected kind {own_kind:?}"
            )
        } else if api_version != own_version {
            format!(
                "the API version in the data ({api_version}) does not match the expected API version ({own_version})"
            )
        } else {
            format!("{kind} in version {version:?} cannot be handled as a {expected}: {error}")
        })
    }
}

/// The first bytes of a body in hexadecimal, so that a log or a person can tell what came.
fn summary(body: &[u8]) -> String {
    const SHOWN: usize = 30;
    let shown: String = body.iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect();
    if body.len() > SHOWN { format!("{shown} ...") } else { shown }
}
