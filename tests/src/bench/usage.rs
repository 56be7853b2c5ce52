//! What a process has used, from `/proc`.

use std::fs;

use anyhow::{Context as _, Result};

/// User and system CPU time of `pid`, in seconds.
pub fn cpu_seconds(pid: i32) -> Result<f64> {
    // Clock ticks of user space are 1/100 s on every Linux architecture (USER_HZ).
    const TICKS: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
    let fields: Vec<&str> = stat.rsplit_once(") ").context("a strange /proc/PID/stat")?.1.split(' ').collect();
    let ticks = |index: usize| -> Result<f64> { Ok(fields.get(index).context("a short /proc/PID/stat")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}

/// Resident memory of `pid`, in MB (1,000,000 bytes).
pub fn rss_mb(pid: i32) -> Result<f64> {
    status_mb(pid, "VmRSS:")
}

/// The most it ever was, or was since [`forget_peak`].
pub fn peak_rss_mb(pid: i32) -> Result<f64> {
    status_mb(pid, "VmHWM:")
}

/// Makes the peak what the process holds now.
pub fn forget_peak(pid: i32) -> Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").with_context(|| format!("process {pid} is gone"))
}

fn status_mb(pid: i32, key: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid} is gone"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("no {key}"))?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024.0 / 1e6)
}
