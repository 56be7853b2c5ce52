//! The Common Expression Language as Kubernetes offers it: rules of custom resources, conditions and validations of
//! admission.
//!
//! The crate `cel` parses; checking, cost estimation and evaluation are done here, because Kubernetes demands what an
//! embedded interpreter does not give: every step is charged against a budget, JSON is looked into where it lies instead of
//! being converted, and schemas give types, sizes and equality of lists.
//!
//! ```
//! use skep_cel::{Budget, Environment, Inputs, Type, Want};
//!
//! let schema = serde_json::json!({"type": "object", "properties": {"replicas": {"type": "integer"}}});
//! let ty = Type::from_schema(&schema, false).unwrap();
//! let program = Environment::new().with("self", ty).compile("self.replicas <= 10", Want::Bool).unwrap();
//! let object = serde_json::json!({"replicas": 3});
//! let inputs = Inputs::new().json("self", &object);
//! assert!(program.evaluate_bool(&inputs, &mut Budget::new(Budget::PER_REQUEST)).unwrap());
//! ```
#![forbid(unsafe_code)]

mod authorizer;
mod budget;
mod compile;
mod cost;
mod error;
mod evaluate;
mod functions;
mod parse;
mod program;
mod schema;
mod types;
mod value;

pub use authorizer::{Answer, Authorizer, Question};
pub use budget::Budget;
pub use compile::{Environment, Want};
pub use cost::Range;
pub use error::{CompileError, Error, Fault};
pub use evaluate::Inputs;
pub use program::Program;
pub use schema::escape;
pub use types::{Field, ListKind, ListType, MAX_REQUEST_BYTES, MapType, ObjectType, Opaque, Type};
pub use value::{Fields, Key, List, Map, Text, Value};
