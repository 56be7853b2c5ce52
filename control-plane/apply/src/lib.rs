//! Server-side apply: who owns which field of an object, and what happens when several apply it.
//!
//! An object's `metadata.managedFields` says which manager owns which field. A [`Set`] is such a set of fields, kept as
//! upstream keeps it (`FieldsV1`). [`update`](managers::Managed::update) notes what a create, PUT or PATCH changed;
//! [`apply`] merges an applied configuration into the live object, tells conflicts, and takes away what the manager no
//! longer applies. What belongs together in a list or map comes from a [`Type`]: a built-in type of `skep-schema`, a
//! [`Custom`] one made of an OpenAPI schema, or [deduced](Type::Deduced) from the value.
//!
//! Managers of other versions own fields of those: [`Versions`] shows them an object as they know it.
//!
//! See upstream's document "Server-Side Apply" and KEP-555. There is no I/O here.

#![forbid(unsafe_code)]

pub mod apply;
pub mod compare;
mod element;
mod error;
mod field_set;
mod fields_v1;
pub mod last_applied;
pub mod managers;
mod merge;
mod prune;
mod remove;
pub mod reset;
pub mod scale;
mod schema;
mod set;
pub mod strategic;
mod validate;
mod versions;

pub use apply::{Apply, apply};
pub use compare::{Comparison, compare};
pub use element::{Element, Scalar};
pub use error::{Conflict, Error};
pub use managers::{Managed, Manager, Operation};
pub use schema::{Custom, Field, Relation, Type};
pub use set::{Path, Set};
pub use versions::{Changes, OneVersion, Versions};

#[cfg(test)]
mod tests;
