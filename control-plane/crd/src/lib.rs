//! CustomResourceDefinitions (`apiextensions.k8s.io/v1`) and the objects they define, without any I/O.
//!
//! [`definition`] defaults and validates definitions, [`names`] decides whose names are accepted. A version's
//! [`Schema`] prunes, defaults and validates objects with upstream's messages; [`Columns`] makes table cells of them and
//! [`publish`] the schemas of `/openapi`.
#![forbid(unsafe_code)]

mod columns;
pub mod default;
pub mod definition;
pub mod embedded;
mod field_path;
mod format;
mod json_path;
pub mod list_type;
pub mod names;
pub mod prune;
pub mod publish;
pub mod review;
mod rules;
mod schema;
mod validate;

pub use columns::Columns;
pub use json_path::{JsonPath, simple_get, simple_set};
pub use rules::Rules;
pub use schema::{Additional, Kind, Pattern, Schema};
pub use validate::{validate, validate_update};
