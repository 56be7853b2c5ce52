//! Progress as a person sees it: one line a step, a spinner on a terminal, plain lines elsewhere.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};

/// Runs `work` as the step `what`; its error says which step failed.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed:.dim}") {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    let result = work();
    bar.finish_and_clear();
    let sign = if result.is_ok() { "ok" } else { "FAILED" };
    eprintln!("{what} … {sign} ({:.1} s)", start.elapsed().as_secs_f32());
    result.with_context(|| format!("step \"{what}\" failed"))
}
