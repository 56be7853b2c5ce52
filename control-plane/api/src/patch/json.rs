//! JSON patch, RFC 6902.

use json_patch::{Patch, PatchErrorKind, PatchOperation, TestOperation};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause;
use serde_json::Value;

use super::unprocessable;
use crate::field::quote;
use crate::status::StatusError;

/// More operations than this are refused, as upstream does.
const MAX_OPERATIONS: usize = 10_000;

/// Applies every operation in order, or none.
pub fn apply(mut document: Value, patch: &Value) -> Result<Value, StatusError> {
    let patch: Patch = serde_json::from_value(patch.clone())
        .map_err(|e| StatusError::bad_request(format!("error decoding patch: {e}")))?;
    if patch.len() > MAX_OPERATIONS {
        let found = patch.len();
        let why = format!("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {found}");
        return Err(StatusError::request_entity_too_large(why));
    }
    // One by one: the document is dropped upon failure, so nothing need be undone.
    for operation in patch.iter() {
        if !expects_absence(operation, &document) {
            json_patch::patch_unsafe(&mut document, std::slice::from_ref(operation)).map_err(does_not_fit)?;
        }
    }
    Ok(document)
}

/// Whether this tests for null what is absent from an object that is there: upstream lets that pass, and clients rely on
/// it to add a list only where there is none.
fn expects_absence(operation: &PatchOperation, document: &Value) -> bool {
    let PatchOperation::Test(TestOperation { path, value: Value::Null }) = operation else { return false };
    let Some((parent, _)) = path.split_back() else { return false };
    path.resolve(document).is_err() && parent.resolve(document).is_ok_and(Value::is_object)
}

fn does_not_fit(error: json_patch::PatchError) -> StatusError {
    let message = match error.kind {
        PatchErrorKind::TestFailed => format!("testing value {} failed: test failed", error.path),
        kind => format!("{kind} at {}", quote(error.path.as_str())),
    };
    unprocessable().with_cause(StatusCause { message: Some(message), ..Default::default() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn operations_apply_in_order() {
        let patch = json!([
            {"op": "test", "path": "/a", "value": 1},
            {"op": "replace", "path": "/a", "value": 2},
            {"op": "add", "path": "/l/-", "value": "x"},
            {"op": "remove", "path": "/b"},
        ]);
        assert_eq!(apply(json!({"a": 1, "b": 1, "l": []}), &patch).unwrap(), json!({"a": 2, "l": ["x"]}));
    }

    #[test]
    fn what_is_absent_is_null_to_a_test() {
        let add = json!([
            {"op": "test", "path": "/metadata/finalizers", "value": null},
            {"op": "add", "path": "/metadata/finalizers", "value": ["a"]},
        ]);
        let added = json!({"metadata": {"finalizers": ["a"]}});
        assert_eq!(apply(json!({"metadata": {}}), &add).unwrap(), added);
        assert_eq!(apply(json!({"metadata": {"finalizers": null}}), &add).unwrap(), added);
        assert!(apply(added, &add).is_err());
        assert!(apply(json!({}), &add).is_err());
        assert!(apply(json!({"a": [1]}), &json!([{"op": "test", "path": "/a/7", "value": null}])).is_err());
    }

    #[test]
    fn a_patch_that_does_not_fit_is_unprocessable() {
        let error = apply(json!({}), &json!([{"op": "remove", "path": "/a"}])).unwrap_err();
        assert_eq!((error.code().as_u16(), error.reason()), (422, "Invalid"));
        assert_eq!(error.message(), "the server rejected our request due to an error in our request");
        let error = apply(json!({"a": 1}), &json!([{"op": "test", "path": "/a", "value": 2}])).unwrap_err();
        assert_eq!(error.code(), 422);
    }

    #[test]
    fn a_malformed_patch_is_a_bad_request() {
        assert_eq!(apply(json!({}), &json!({"a": 1})).unwrap_err().code(), 400);
        assert_eq!(apply(json!({}), &json!([{"op": "fly", "path": "/a"}])).unwrap_err().code(), 400);
    }

    #[test]
    fn there_is_a_limit_to_operations() {
        let operation = json!({"op": "add", "path": "/a", "value": 1});
        let patch = Value::Array(vec![operation; MAX_OPERATIONS + 1]);
        assert_eq!(apply(json!({}), &patch).unwrap_err().code(), 413);
    }
}
