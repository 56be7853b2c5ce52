//! The protobuf encoding of the Kubernetes API, `application/vnd.kubernetes.protobuf`: what Go clients send for built-in types.
//!
//! One table (`schema.txt`, made constant by the build script) describes every message; one decoder and one encoder walk it.
//! JSON is the other side of both, by upstream's conventions: what Go's JSON would leave out is left out, quantities and
//! times are strings, bytes are base64. An object travels in an envelope: the bytes `k8s\0`, then `runtime.Unknown`
//! with its apiVersion, its kind and the message itself.

#![forbid(unsafe_code)]

mod decode;
mod duration;
mod encode;
mod error;
mod list;
mod schema;
mod special;
mod wire;

pub use decode::{TypeMeta, decode};
pub use encode::{encode, encode_json, watch_frame};
pub use error::Error;
pub use list::List;

/// The media type of an object or a list.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// The media type of a watch: frames of four bytes of length (big endian) and a bare `WatchEvent`, whose object is in an
/// envelope.
pub const WATCH_MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf;stream=watch";

/// What every envelope begins with.
pub const MAGIC: [u8; 4] = *b"k8s\0";

/// How deep messages may lie in each other.
const MAX_DEPTH: usize = 100;

/// Whether objects of this kind have a protobuf encoding. Custom resources have none.
pub fn knows(api_version: &str, kind: &str) -> bool {
    schema::find(api_version, kind).is_some()
}

#[cfg(test)]
mod tests;
