//! Vocabulary of the Kubernetes API: the resource table, request paths, query options, selectors, quantities, patches,
//! object metadata and errors. No I/O happens here.
#![forbid(unsafe_code)]

pub mod amounts;
pub mod continuation;
pub mod field;
pub mod meta;
pub mod name;
pub mod options;
pub mod patch;
pub mod quantity;
pub mod quota;
pub mod request;
pub mod resource;
pub mod selector;
pub mod status;

pub use meta::ApiObject;
pub use quantity::Quantity;
pub use request::{RequestInfo, Verb};
pub use resource::{ResourceInfo, SubresourceInfo, built_in};
pub use status::StatusError;
