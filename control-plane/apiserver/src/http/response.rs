//! Makes responses.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde::Serialize;
use skep_api::status::StatusError;

use super::{
    body::Body,
    negotiate::{Accepted, Format, accept_plain},
};

/// A response with JSON bytes that are ready to be sent.
pub(crate) fn json(code: StatusCode, bytes: impl Into<Body>) -> Response<Body> {
    with_type(code, "application/json", bytes)
}

/// A response of some media type.
pub(crate) fn with_type(code: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A response that says `text`.
pub(crate) fn text(code: StatusCode, text: impl Into<Body>) -> Response<Body> {
    with_type(code, "text/plain; charset=utf-8", text)
}

/// 404 where nothing is served, as Go's server says it.
pub(crate) fn no_page() -> Response<Body> {
    let mut response = text(StatusCode::NOT_FOUND, "404 page not found\n");
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Serialises `value` in the format that was agreed on.
pub(crate) fn object(code: StatusCode, accepted: &Accepted, value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => json_as(code, accepted, bytes.into()),
        Err(error) => status_error(&StatusError::internal_error(error)),
    }
}

/// JSON bytes in the format that was agreed on.
pub(crate) fn json_as(code: StatusCode, accepted: &Accepted, bytes: Bytes) -> Response<Body> {
    match accepted.format {
        Format::Json => json(code, bytes),
        Format::Yaml => match to_yaml(&bytes) {
            Ok(text) => with_type(code, accepted.content_type(), text),
            Err(error) => status_error(&StatusError::internal_error(error)),
        },
        Format::Protobuf => match skep_protobuf::encode_json(&bytes) {
            Ok(bytes) => with_type(code, accepted.content_type(), bytes),
            Err(error) => status_error(&protobuf_error(error)),
        },
    }
}

/// Why something cannot be answered in protobuf.
pub(crate) fn protobuf_error(error: skep_protobuf::Error) -> StatusError {
    match error {
        // Custom resources, and what is no API object at all.
        skep_protobuf::Error::UnknownKind { .. } | skep_protobuf::Error::NoKind => {
            StatusError::not_acceptable(&["application/json", "application/yaml"])
        }
        error => StatusError::internal_error(error),
    }
}

/// JSON text as YAML text.
pub(crate) fn to_yaml(json: &[u8]) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let value: serde_json::Value = serde_json::from_slice(json)?;
    Ok(serde_yaml_ng::to_string(&value)?)
}

/// The response of a failed request, in protobuf for a client that takes nothing else.
pub(crate) fn failure(headers: &HeaderMap, error: &StatusError) -> Response<Body> {
    let response = status_error(error);
    match accept_plain(headers) {
        Ok(accepted) if accepted.format == Format::Protobuf => {
            let (mut parts, _) = response.into_parts();
            let other = object(parts.status, &accepted, error.status());
            parts.headers.extend(other.headers().clone());
            Response::from_parts(parts, other.into_body())
        }
        _ => response,
    }
}

/// The response of a failed request.
pub(crate) fn status_error(error: &StatusError) -> Response<Body> {
    // A Status is strings and numbers: it always serialises.
    let bytes = serde_json::to_vec(error.status()).unwrap_or_default();
    let mut response = json(error.code(), bytes);
    if let Some(seconds) = error.retry_after_seconds() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
