//! Cells that many tables share.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Value, json};

use super::checks::text as str_of;
use super::strategy;

/// The name column.
pub(crate) fn name(meta: &ObjectMeta) -> Value {
    json!(str_of(&meta.name))
}

/// The age column.
pub(crate) fn age(meta: &ObjectMeta, now: Timestamp) -> Value {
    since(meta.creation_timestamp.as_ref(), now)
}

/// How long ago something was.
pub(crate) fn since(time: Option<&Time>, now: Timestamp) -> Value {
    json!(strategy::age(time.map(|t| t.0), now))
}

/// The creation time, for tables that show it as it is.
pub(crate) fn created_at(meta: &ObjectMeta) -> Value {
    json!(meta.creation_timestamp.as_ref().map(|t| t.0.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()))
}

/// A text, empty when absent.
pub(crate) fn text(value: &Option<String>) -> Value {
    json!(str_of(value))
}

/// A text, or what stands for its absence.
pub(crate) fn text_or(value: &Option<String>, absent: &str) -> Value {
    json!(if str_of(value).is_empty() { absent } else { str_of(value) })
}
