//! Rows of the resource table, for the strategies built into this crate.

use skep_api::resource::{self, ResourceInfo};

/// A resource of another version.
pub(crate) fn info_of(group: &str, version: &str, plural: &str) -> &'static ResourceInfo {
    // As below.
    resource::find(group, version, plural).expect("a resource of the built-in table")
}

/// The `v1` resource `plural` of `group`.
pub(crate) fn info(group: &str, plural: &str) -> &'static ResourceInfo {
    // Only called with names that stand in the table; a test of `table` proves it.
    resource::find(group, "v1", plural).expect("a resource of the built-in table")
}
