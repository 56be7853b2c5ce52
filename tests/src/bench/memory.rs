//! What the daemons hold when nothing happens.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::profile;
use super::row::{Goal, Row};
use super::usage::rss_mb;
use crate::cluster::TestCluster;

/// How long after the start a cluster counts as idle.
const SETTLE: Duration = Duration::from_secs(15);

/// Measures this group.
pub fn measure() -> Result<Vec<Row>> {
    let cluster = TestCluster::create(profile::chosen())?;
    cluster.start_all()?;
    std::thread::sleep(SETTLE);
    let rows =
        [("idle memory of skep-server", &cluster.parts().server), ("idle memory of skep-node", &cluster.parts().node)];
    rows.into_iter()
        .map(|(name, daemon)| {
            let rss = rss_mb(daemon.pid().with_context(|| format!("{} has ended", daemon.name()))?)?;
            let measured = format!("{rss:.1} MB");
            Ok(Row {
                name: name.to_owned(),
                measured,
                limit: String::new(),
                score: rss,
                goal: Goal::Under(40.0, " MB"),
            })
        })
        .collect()
}
