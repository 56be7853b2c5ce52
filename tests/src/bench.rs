//! The measurements. Each group starts the real programs it needs, measures rows and their limits in turn, and stops.

pub mod api;
pub mod bare;
pub mod change;
pub mod client;
pub mod connect;
pub mod memory;
pub mod programming;
pub mod row;
pub mod usage;

use anyhow::Result;
use row::Row;

/// A group of rows that need the same things running.
struct Group {
    name: &'static str,
    measure: fn() -> Result<Vec<Row>>,
}

const GROUPS: &[Group] = &[
    Group { name: "api", measure: api::measure },
    Group { name: "programming", measure: programming::measure },
    Group { name: "change", measure: change::measure },
    Group { name: "connect", measure: connect::measure },
    Group { name: "memory", measure: memory::measure },
];

/// Measures the groups whose name contains `filter`.
///
/// # Errors
/// When a program cannot be started or gives a wrong answer: a row is never made of failed operations.
pub fn run(filter: &str) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for group in GROUPS.iter().filter(|group| group.name.contains(filter)) {
        eprintln!("measuring {} …", group.name);
        rows.extend((group.measure)()?);
    }
    Ok(rows)
}
