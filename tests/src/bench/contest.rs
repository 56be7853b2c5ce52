//! Rounds of ours and the limit in turn, because neighbours on the machine disturb single rounds.

use std::time::Duration;

use anyhow::Result;

use super::row::{Goal, Row, median};
use super::usage::cpu_seconds;

/// Rounds of each.
pub const ROUNDS: usize = 5;

/// What came of the rounds.
pub struct Contest {
    /// Operations a second.
    ours: Vec<f64>,
    limits: Vec<f64>,
    /// CPU seconds of the server per 1,000 of our operations.
    cpu: Vec<f64>,
}

impl Contest {
    /// Runs `operations` of each a round. Both closures get the round's number and return how long the round took; `pid` is
    /// the server whose CPU time is counted.
    pub async fn run(
        operations: usize,
        pid: i32,
        mut limit: impl AsyncFnMut(usize) -> Result<Duration>,
        mut ours: impl AsyncFnMut(usize) -> Result<Duration>,
    ) -> Result<Self> {
        let mut contest = Self { ours: Vec::new(), limits: Vec::new(), cpu: Vec::new() };
        let rate = |took: Duration| operations as f64 / took.as_secs_f64();
        for round in 0..ROUNDS {
            contest.limits.push(rate(limit(round).await?));
            let before = cpu_seconds(pid)?;
            contest.ours.push(rate(ours(round).await?));
            contest.cpu.push((cpu_seconds(pid)? - before) / operations as f64 * 1e3);
        }
        Ok(contest)
    }

    /// Two rows: our rate by the limit's, and the CPU time.
    pub fn rows(self, name: &str, limit: &str, ratio: f64, cpu: f64) -> Vec<Row> {
        let score = median(self.ours.iter().zip(&self.limits).map(|(ours, limit)| ours / limit).collect());
        let seconds = median(self.cpu);
        vec![
            Row {
                name: name.to_owned(),
                measured: format!("{:.0}/s", median(self.ours)),
                limit: format!("{:.0}/s {limit}", median(self.limits)),
                score,
                goal: Goal::AtLeast(ratio, ""),
            },
            Row::cpu(name, seconds, cpu),
        ]
    }
}
