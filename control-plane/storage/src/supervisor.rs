//! An etcd of our own: starts and supervises the `etcd` found on PATH.

use crate::config::EtcdConfig;
use crate::error::Result;
use std::path::PathBuf;

/// How to run etcd.
#[derive(Clone, Debug)]
pub struct SupervisorConfig {
    /// etcd's data directory; created if missing.
    pub data_dir: PathBuf,
    /// The program; a bare name is looked for on PATH.
    pub program: PathBuf,
    /// Loopback port for clients; 0 picks a free one.
    pub client_port: u16,
    /// Loopback port for peers; 0 picks a free one.
    pub peer_port: u16,
    /// Backend quota in bytes.
    pub quota_bytes: u64,
    /// Where etcd's output goes; `None`: `etcd.log` beside the data directory.
    pub log_file: Option<PathBuf>,
}

impl SupervisorConfig {
    /// Defaults: `etcd` from PATH, free ports, a quota of 8 GiB.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            program: "etcd".into(),
            client_port: 0,
            peer_port: 0,
            quota_bytes: 8 << 30,
            log_file: None,
        }
    }
}

/// A running etcd that is restarted when it dies. Dropping it stops etcd.
#[derive(Debug)]
pub struct Supervisor {}

impl Supervisor {
    /// Starts etcd and waits until it answers. An etcd left over from an earlier run on the same directory is ended first.
    pub async fn start(_config: SupervisorConfig) -> Result<Self> {
        unreachable!()
    }
    /// What [`crate::Storage::connect`] needs.
    pub fn etcd_config(&self) -> EtcdConfig {
        unreachable!()
    }
    /// Process id of the present etcd, if one runs.
    pub fn pid(&self) -> Option<u32> {
        unreachable!()
    }
    /// Asks etcd to stop and waits for it.
    pub async fn stop(self) {
        unreachable!()
    }
}
