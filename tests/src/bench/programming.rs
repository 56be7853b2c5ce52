//! Services into the kernel's maps.

use std::path::Path;

use anyhow::Result;

use super::row::{Goal, Row};

const SERVICES: usize = 10_000;
const ENDPOINTS: usize = 10;

/// Measures this group.
pub fn measure() -> Result<Vec<Row>> {
    let folder = format!("/sys/fs/bpf/skep-bench-{}", std::process::id());
    let report = skep_proxy::bench::run(Path::new(&folder), SERVICES, ENDPOINTS)?;
    let (bulk, change) = (report.bulk.as_secs_f64(), report.change.as_secs_f64() * 1e3);
    // The limit: the same entries, each written by a system call of its own, as any program would have to.
    let single = report.bulk_unbatched.as_secs_f64();
    Ok(vec![
        Row {
            name: "map update: 10,000 services of 10 endpoints from empty".to_owned(),
            measured: format!("{:.0} ms, {} writes", bulk * 1e3, report.bulk_writes),
            limit: format!("{:.0} ms without batches", single * 1e3),
            score: bulk,
            goal: Goal::Under(1.0, " s"),
        },
        Row {
            name: "map update: one endpoint changes, at that size".to_owned(),
            measured: format!("{:.3} ms, {} writes", change, report.change_writes),
            limit: String::new(),
            score: change,
            goal: Goal::Under(5.0, " ms"),
        },
    ])
}
