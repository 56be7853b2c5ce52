//! How to reach etcd, and the knobs of the cache.

use crate::servers::Member;
use std::path::PathBuf;
use std::time::Duration;

/// Where etcd is and how to authenticate to it.
#[derive(Clone, Debug, Default)]
pub struct EtcdConfig {
    /// Client URLs, `http://` or `https://`; requests are balanced over those that answer.
    pub endpoints: Vec<String>,
    /// PEM bundle that etcd's server certificate is verified against.
    pub ca_file: Option<PathBuf>,
    /// PEM client certificate (needs `key_file`).
    pub cert_file: Option<PathBuf>,
    /// PEM private key of `cert_file`.
    pub key_file: Option<PathBuf>,
    /// Who writes. Without it every consistent read asks etcd, and others may write as they like.
    pub member: Option<Member>,
    /// Everything that has a sensible default.
    pub tuning: Tuning,
}

/// Timeouts and sizes with upstream's defaults where upstream has them.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// gRPC connections to each endpoint that requests are spread over. Measured with 32 and 128 writers, more than one
    /// gained nothing (see `examples/throughput.rs`). The watch has a connection of its own.
    pub connections: usize,
    /// Longest time one etcd request may take before it is given up.
    pub request_timeout: Duration,
    /// Longest time [`crate::Storage::wait_for`] waits for the cache (upstream: 3 s).
    pub freshness_timeout: Duration,
    /// Keys fetched by one page of the initial list.
    pub page_size: i64,
    /// Events of history a resource keeps even when they are no longer fresh.
    pub history_min: usize,
    /// Most bytes these may hold.
    pub history_min_bytes: usize,
    /// Most events of history kept for a resource (upstream: 102400).
    pub history_max: usize,
    /// Most bytes of past content kept for a resource's history, about.
    pub history_max_bytes: usize,
    /// Younger events are kept, up to the maxima (upstream: 75 s).
    pub history_fresh: Duration,
    /// How often old history is dropped where nothing changes any more.
    pub history_trim_interval: Duration,
    /// Interval of etcd compaction (upstream: 5 min); `None` leaves compaction to others.
    pub compaction_interval: Option<Duration>,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            connections: 1,
            request_timeout: Duration::from_secs(10),
            freshness_timeout: Duration::from_secs(3),
            page_size: 1000,
            history_min: 1024,
            history_min_bytes: 1024 * 1024,
            history_max: 100 * 1024,
            history_max_bytes: 64 * 1024 * 1024,
            history_fresh: Duration::from_secs(75),
            history_trim_interval: Duration::from_secs(5),
            compaction_interval: Some(Duration::from_secs(300)),
        }
    }
}
