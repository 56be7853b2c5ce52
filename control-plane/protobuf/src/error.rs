//! What can be wrong with a message.

/// Why something cannot be decoded or encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes do not begin with `k8s\0`.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoPrefix,
    /// The bytes end within a value.
    #[error("unexpected end of the protobuf message")]
    Truncated,
    /// A number of more than 64 bits.
    #[error("a protobuf varint overflows 64 bits")]
    Overflow,
    /// A tag that no field can have.
    #[error("illegal protobuf tag {0}")]
    Tag(u64),
    /// The value of a field has another wire type than the field.
    #[error("field {field:?} has the wrong wire type {wire}")]
    WireType {
        /// The field's name in JSON.
        field: &'static str,
        /// The wire type found.
        wire: u8,
    },
    /// Messages lie too deep in each other.
    #[error("messages are nested more than {} deep", crate::MAX_DEPTH)]
    TooDeep,
    /// A string is not UTF-8.
    #[error("field {0:?} is not valid UTF-8")]
    Utf8(&'static str),
    /// The raw message is compressed or the like.
    #[error("content encoding {0:?} is not supported")]
    ContentEncoding(String),
    /// The envelope or the JSON names no kind.
    #[error("Object 'Kind' is missing")]
    NoKind,
    /// A kind without protobuf encoding.
    #[error("no kind {kind:?} is registered for version {api_version:?} in the protobuf encoding")]
    UnknownKind {
        /// The apiVersion asked for.
        api_version: String,
        /// The kind asked for.
        kind: String,
    },
    /// JSON inside of a message, or the JSON to be encoded, cannot be read.
    #[error("invalid JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A time that RFC 3339 cannot say, or a text that is none.
    #[error("field {0:?} is not a time")]
    Time(&'static str),
    /// A JSON value of another type than the field.
    #[error("field {field:?} must be {expected}")]
    Type {
        /// The field's name in JSON.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// A message too large for the frame of a watch.
    #[error("the message is too large for a frame")]
    TooLarge,
}
