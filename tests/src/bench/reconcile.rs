//! A daemon comes back to 250,000 endpoints in pinned maps: reading all of it and comparing it with what is wanted.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use xtask::command::output;

use super::row::{Goal, Row};
use super::usage::peak_rss_mb;

const SERVICES: usize = 5_000;
/// Of each Service.
const ENDPOINTS: usize = 50;

/// Measures this group.
pub fn measure() -> Result<Vec<Row>> {
    let pins = Pins(format!("/sys/fs/bpf/skep-bench-{}", std::process::id()).into());
    let step = |name: &str| output(Command::new(std::env::current_exe()?).arg(name).arg(&pins.0));
    step("reconcile-fill")?;
    let printed = step("reconcile")?;
    let figures: Vec<f64> = printed.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [recover, resync, memory] = figures.as_slice() else { anyhow::bail!("the process printed {printed:?}") };
    let name = format!("restart with {} endpoints in {SERVICES} services", SERVICES * ENDPOINTS);
    Ok(vec![
        Row {
            name: format!("{name}: full reconcile"),
            measured: format!("{recover:.2} s to read the maps, {resync:.2} s to compare"),
            limit: String::new(),
            score: recover + resync,
            goal: Goal::Under(5.0, " s"),
        },
        Row {
            name: format!("{name}: peak memory of the process"),
            measured: format!("{memory:.1} MB"),
            limit: String::new(),
            score: *memory,
            goal: Goal::Under(200.0, " MB"),
        },
    ])
}

/// What the first process does: it leaves full maps.
pub fn fill(root: &Path) -> Result<()> {
    Ok(skep_proxy::bench::fill(root, SERVICES, ENDPOINTS)?)
}

/// What the second does. It prints seconds to recover, seconds to compare, and MB at its peak, of which what is wanted is a
/// part, as it is in the daemon.
pub fn restart(root: &Path) -> Result<()> {
    let restart = skep_proxy::bench::restart(root, SERVICES, ENDPOINTS)?;
    ensure!(restart.writes == 0, "nothing has changed, and yet {} entries were written", restart.writes);
    let memory = peak_rss_mb(i32::try_from(std::process::id()).context("a strange process id")?)?;
    println!("{} {} {memory}", restart.recover.as_secs_f64(), restart.resync.as_secs_f64());
    Ok(())
}

/// Pinned maps; they are removed when this is dropped.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = skep_proxy::bench::remove(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}
