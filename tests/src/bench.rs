//! The measurements. Each group starts the real programs it needs, measures rows and their limits in turn, and stops.

pub mod bare;
pub mod change;
pub mod client;
pub mod connect;
pub mod contest;
pub mod crowd;
pub mod cut_over;
pub mod duel;
pub mod lease;
pub mod load;
pub mod manifest;
pub mod memory;
pub mod node_port;
pub mod place;
pub mod pods;
pub mod profile;
pub mod programming;
pub mod read;
pub mod reconcile;
pub mod restart;
pub mod row;
pub mod server;
pub mod storm;
pub mod usage;
pub mod watch;
pub mod wire;
pub mod write;
pub mod xdp;

use anyhow::{Result, anyhow};
use row::Row;

/// A group of rows that need the same things running.
struct Group {
    name: &'static str,
    measure: fn() -> Result<Vec<Row>>,
}

const GROUPS: &[Group] = &[
    Group { name: "api-create", measure: write::create },
    Group { name: "api-status", measure: write::status },
    Group { name: "api-apply", measure: write::apply },
    Group { name: "api-get", measure: read::get },
    Group { name: "api-list", measure: read::list },
    Group { name: "api-lease", measure: lease::measure },
    Group { name: "api-watch", measure: watch::measure },
    Group { name: "api-storm", measure: storm::measure },
    Group { name: "programming", measure: programming::measure },
    Group { name: "change", measure: change::measure },
    Group { name: "connect", measure: connect::measure },
    Group { name: "node-port", measure: node_port::measure },
    Group { name: "cut-over", measure: cut_over::measure },
    Group { name: "reconcile", measure: reconcile::measure },
    Group { name: "restart", measure: restart::measure },
    Group { name: "pods-direct", measure: pods::direct },
    Group { name: "pods-vxlan", measure: pods::vxlan },
    Group { name: "xdp", measure: xdp::measure },
    Group { name: "memory", measure: memory::measure },
];

/// Measures the groups whose name contains `filter`. A group that fails has no rows: a row is never made of failed
/// operations. The others are measured all the same.
///
/// # Errors
/// The names of the groups that failed, with the rows of the rest.
pub fn run(filter: &str) -> (Vec<Row>, Result<()>) {
    let (mut rows, mut failed) = (Vec::new(), Vec::new());
    for group in GROUPS.iter().filter(|group| group.name.contains(filter)) {
        eprintln!("measuring {} …", group.name);
        match (group.measure)() {
            Ok(measured) => rows.extend(measured),
            Err(error) => {
                eprintln!("{}: {error:#}", group.name);
                failed.push(group.name);
            }
        }
    }
    let result = if failed.is_empty() { Ok(()) } else { Err(anyhow!("not measured: {}", failed.join(", "))) };
    (rows, result)
}
