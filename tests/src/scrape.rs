//! What a node's daemon says in its metrics.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use xtask::cluster::Cluster;

/// Where a node serves its metrics, to itself alone.
const METRICS: &str = "127.0.0.1:10249";

/// How long the daemon may take to answer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// All metrics of a node, in the text format.
///
/// # Errors
/// When nobody answers.
pub fn metrics(node: &Cluster) -> Result<String> {
    let netns = std::fs::File::open(node.spec().netns.as_deref().context("not a test's node")?)?;
    let ask = move || -> Result<String> {
        nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET)?;
        let mut stream = TcpStream::connect(METRICS)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nhost: {METRICS}\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    // A thread of its own, for it joins the node's network namespace.
    std::thread::spawn(ask).join().map_err(|_| anyhow!("asking panicked"))?
}

/// The value of the sample `name{labels}` in `text`.
///
/// # Errors
/// When there is none.
pub fn sample(text: &str, name: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = line.with_context(|| format!("{name} is missing in\n{text}"))?;
    value.split(' ').next().unwrap_or_default().parse().with_context(|| format!("{name} is {value:?}"))
}

/// The value of one metric of a node.
///
/// # Errors
/// As [`metrics`] and [`sample`].
pub fn value(node: &Cluster, name: &str) -> Result<f64> {
    sample(&metrics(node)?, name)
}
