//! The patches a client can send that need no schema: JSON patch (RFC 6902) and merge patch (RFC 7386). Strategic merge
//! patch and server-side apply are `skep-apply`'s.

pub mod json;
pub mod merge;

use serde_json::Value;

use crate::status::StatusError;

/// Media type of a JSON patch.
pub const JSON_PATCH: &str = "application/json-patch+json";
/// Media type of a merge patch.
pub const MERGE_PATCH: &str = "application/merge-patch+json";
/// Media type of a strategic merge patch.
pub const STRATEGIC_MERGE_PATCH: &str = "application/strategic-merge-patch+json";
/// Media type of a server-side apply.
pub const APPLY_PATCH: &str = "application/apply-patch+yaml";

/// A patch does not fit the object: 422, in the words upstream uses for it.
pub(crate) fn unprocessable() -> StatusError {
    StatusError::new(422, "Invalid", "the server rejected our request due to an error in our request")
}

/// The patch, read from its JSON text.
pub fn parse(body: &[u8]) -> Result<Value, StatusError> {
    serde_json::from_slice(body).map_err(|e| StatusError::bad_request(format!("error decoding patch: {e}")))
}
