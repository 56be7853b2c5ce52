//! Reads the body of a request, within limits.

use std::borrow::Cow;

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use serde_json::Value;
use skep_api::status::StatusError;

use super::{
    body::BodyError,
    negotiate::{MEDIA_TYPES, content_type},
};

/// The most bytes a request body may have.
pub(crate) const MAX_BODY: usize = 3 * 1024 * 1024;

/// A request's body, whatever its transport's type was.
pub(crate) type RequestBody = UnsyncBoxBody<Bytes, BodyError>;

/// Erases the type of a body.
pub(crate) fn erase<B>(body: B) -> RequestBody
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BodyError>,
{
    body.map_frame(|frame| frame.map_data(|mut data| data.copy_to_bytes(data.remaining())))
        .map_err(Into::into)
        .boxed_unsync()
}

/// The whole body; 413 when it is too large.
pub(crate) async fn read(mut body: RequestBody) -> Result<Bytes, StatusError> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| StatusError::bad_request(format!("reading the request body: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + all.len() + data.len() > MAX_BODY {
            return Err(StatusError::request_entity_too_large(format!("limit is {MAX_BODY}")));
        }
        if all.is_empty() && first.is_empty() {
            first = data;
        } else {
            if all.is_empty() {
                all.extend_from_slice(&first);
                first = Bytes::new();
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// A body that is an object, before its type is known.
#[derive(Debug)]
pub(crate) enum Document<'a> {
    /// JSON text, not yet parsed.
    Json(Cow<'a, [u8]>),
    /// Parsed from YAML or protobuf.
    Value(Value),
}

/// Looks at the media type of a body that is an object (or options).
pub(crate) fn document<'a>(headers: &HeaderMap, body: &'a [u8]) -> Result<Document<'a>, StatusError> {
    match content_type(headers) {
        None | Some("application/json") => Ok(Document::Json(Cow::Borrowed(body))),
        // Valid JSON is valid YAML, and curl's default type has always been read as JSON.
        Some("application/yaml") => yaml(body).map(Document::Value),
        Some(skep_protobuf::MEDIA_TYPE) => protobuf(body).map(Document::Value),
        Some(_) => Err(StatusError::unsupported_media_type(MEDIA_TYPES)),
    }
}

/// The JSON of an object that a typed client sends.
fn protobuf(body: &[u8]) -> Result<Value, StatusError> {
    let (_, object) = skep_protobuf::decode(body)
        .map_err(|error| StatusError::bad_request(format!("the body of the request is no valid protobuf: {error}")))?;
    Ok(object)
}

/// The deepest nesting of brackets YAML may have. JSON ends at 128 by itself.
const MAX_YAML_DEPTH: usize = 256;

/// Parses YAML, refusing what JSON cannot say. Aliases are bounded by the library.
pub(crate) fn yaml(body: &[u8]) -> Result<Value, StatusError> {
    let refuse =
        |why: &dyn std::fmt::Display| StatusError::bad_request(format!("error converting YAML to JSON: {why}"));
    if is_deep(body) {
        return Err(refuse(&"recursion limit exceeded"));
    }
    serde_yaml_ng::from_slice(body).map_err(|error| refuse(&error))
}

/// Whether brackets nest too deep. The parser looks at every open bracket for each token it reads, so depth alone makes a
/// small body cost minutes; it must be bounded before. Quotes are not minded: text with hundreds of brackets that are
/// never closed can be sent as JSON.
fn is_deep(body: &[u8]) -> bool {
    let mut depth = 0_usize;
    body.iter().any(|byte| {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > MAX_YAML_DEPTH
    })
}
