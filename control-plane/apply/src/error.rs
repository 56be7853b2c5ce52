//! What can go wrong.

use std::fmt::Write as _;

use crate::{
    managers::{Manager, Operation},
    set::Path,
};

/// What can go wrong with an apply.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Others own fields with other values.
    #[error("{}", message(.0))]
    Conflicts(Vec<Conflict>),
    /// The configuration makes no sense as a request.
    #[error("{0}")]
    BadRequest(String),
    /// The configuration does not fit its type.
    #[error("failed to create typed patch object ({object}): {errors}")]
    Untyped {
        /// Namespace, name and kind, as upstream prints them.
        object: String,
        /// All that is wrong.
        errors: String,
    },
    /// Somebody has to be asked for an object in another version before the apply is tried again.
    #[error("an object is not converted to {to}")]
    Unconverted {
        /// The object as it is.
        object: Box<serde_json::Value>,
        /// The version that is wanted.
        to: String,
    },
    /// Stored or given managed fields cannot be read.
    #[error("{0}")]
    ManagedFields(String),
}

/// A field that another manager owns with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Its owner.
    pub manager: Manager,
    /// The field.
    pub path: Path,
}

impl Conflict {
    /// The owner, as upstream names it in conflicts.
    pub fn owner(&self) -> String {
        let Manager { name, operation, api_version, subresource } = &self.manager;
        let mut text = format!("{name:?}");
        if !subresource.is_empty() {
            // A string takes all that is written to it.
            let _ = write!(text, " with subresource {subresource:?}");
        }
        if *operation == Operation::Update {
            let _ = write!(text, " using {api_version}");
        }
        text
    }
}

/// Upstream's text for a list of conflicts.
fn message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", one.owner(), one.path);
    }
    let mut owned: Vec<(String, &Path)> = conflicts.iter().map(|one| (one.owner(), &one.path)).collect();
    owned.sort();
    let mut text = format!("Apply failed with {} conflicts: ", conflicts.len());
    let mut last = "";
    for (owner, path) in &owned {
        if last != owner {
            let _ = writeln!(text, "conflicts with {owner}:");
            last = owner;
        }
        let _ = writeln!(text, "- {path}");
    }
    text.pop();
    text
}
