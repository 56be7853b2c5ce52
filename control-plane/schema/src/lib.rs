//! The types of the Kubernetes API, v1.35, as data.
//!
//! [`types`] is what code walks: fields, shapes, list types, merge keys. Its tables are constants, so they cost no heap and no
//! start-up time; descriptions lie compressed in the binary and are expanded only while a document is made. [`openapi`] makes
//! the documents below `/openapi`: pure functions from the table of resources to bytes.

#![forbid(unsafe_code)]

mod error;
pub mod openapi;
pub mod types;
pub mod unknown;

pub use error::Error;
pub use types::{Field, ListType, Shape, Type};
