//! An etcd of our own: starts and supervises the `etcd` found on PATH.
//!
//! etcd never outlives its purpose and never loses data:
//! - It is killed with the process that supervises it (`PR_SET_PDEATHSIG`), even if that is killed by SIGKILL.
//! - Should one be left over all the same, the next start ends it before it starts its own: it is known by a file with
//!   its process id and start time, beside the data directory.
//! - Only one supervisor at a time works on a data directory (an advisory lock beside it).
//! - A data directory whose very first start was cut short is unusable (etcd waits for a leader for ever): it is set up
//!   anew, as long as that etcd has never answered.
//! - etcd acknowledges a write only after it is on disk, so killing it loses nothing that was acknowledged.

mod bootstrap;
mod leftover;
mod process;

use crate::config::EtcdConfig;
use crate::error::{Error, Result};
use process::{Keeper, Launch};
use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tracing::info;

/// How often a start is tried when etcd ends before it answers.
const START_ATTEMPTS: usize = 3;

/// How to run etcd.
#[derive(Clone, Debug)]
pub struct SupervisorConfig {
    /// etcd's data directory; created if missing. Its siblings `<name>.pid`, `.lock`, `.log` and `.bootstrap` are used as well.
    pub data_dir: PathBuf,
    /// The program; a bare name is looked for on PATH.
    pub program: PathBuf,
    /// Loopback port for clients; 0 picks a free one.
    pub client_port: u16,
    /// Loopback port for peers; 0 picks a free one.
    pub peer_port: u16,
    /// Backend quota in bytes.
    pub quota_bytes: u64,
    /// Where etcd's output is appended; `None`: `<data_dir>.log`.
    pub log_file: Option<PathBuf>,
    /// Longest time until etcd must answer. A large log to replay takes its time.
    pub start_timeout: Duration,
}

impl SupervisorConfig {
    /// Defaults: `etcd` from PATH, free ports, a quota of 8 GiB, a minute to start.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            program: "etcd".into(),
            client_port: 0,
            peer_port: 0,
            quota_bytes: 8 << 30,
            log_file: None,
            start_timeout: Duration::from_secs(60),
        }
    }
}

/// A running etcd that is restarted when it dies. Dropping it kills etcd; [`Supervisor::stop`] is gentler.
#[derive(Debug)]
pub struct Supervisor {
    keeper: Keeper,
    endpoint: String,
    /// Held as long as etcd may run.
    _lock: File,
}

impl Supervisor {
    /// Starts etcd and waits until it answers. An etcd left over from an earlier run on the same directory is ended first.
    pub async fn start(config: SupervisorConfig) -> Result<Self> {
        let program = find_program(&config.program)?;
        let data_dir = prepare(&config.data_dir)?;
        let lock = lock(&beside(&data_dir, "lock"))?;
        let pid_file = beside(&data_dir, "pid");
        leftover::end(&pid_file, &data_dir).await?;
        let log_file = config.log_file.clone().unwrap_or_else(|| beside(&data_dir, "log"));
        let deadline = Instant::now() + config.start_timeout;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let bootstrap = bootstrap::begin(&data_dir, beside(&data_dir, "bootstrap"))?;
            let client_port = choose_port(config.client_port)?;
            let peer_port = choose_port(config.peer_port)?;
            let launch = Launch {
                program: program.clone(),
                arguments: arguments(&data_dir, client_port, peer_port, config.quota_bytes),
                log_file: log_file.clone(),
                pid_file: pid_file.clone(),
            };
            let keeper = Keeper::start(launch)?;
            let endpoint = format!("http://127.0.0.1:{client_port}");
            match wait_until_healthy(&keeper, &endpoint, deadline).await {
                Ok(()) => {
                    bootstrap.complete()?;
                    info!(pid = keeper.pid(), endpoint, data_dir = %data_dir.display(), "etcd runs");
                    return Ok(Self { keeper, endpoint, _lock: lock });
                }
                // Somebody else may have taken a port between its choice and its use, or it died while it set itself up.
                Err(_) if keeper.deaths() > 0 && attempt < START_ATTEMPTS => {
                    keeper.stop(Duration::ZERO).await;
                }
                Err(reason) => {
                    keeper.stop(Duration::from_secs(1)).await;
                    let log = tail(&log_file);
                    let path = log_file.display();
                    return Err(Error::Supervisor(format!("etcd did not start: {reason}; the end of {path}:\n{log}")));
                }
            }
        }
    }

    /// What [`crate::Storage::connect`] needs.
    pub fn etcd_config(&self) -> EtcdConfig {
        EtcdConfig { endpoints: vec![self.endpoint.clone()], ..EtcdConfig::default() }
    }

    /// Process id of the present etcd; `None` between its death and its restart.
    pub fn pid(&self) -> Option<u32> {
        self.keeper.pid()
    }

    /// Asks etcd to stop and waits for it; kills it if it takes longer than 10 s.
    pub async fn stop(self) {
        self.keeper.stop(Duration::from_secs(10)).await;
    }
}

fn arguments(data_dir: &Path, client_port: u16, peer_port: u16, quota_bytes: u64) -> Vec<String> {
    let client = format!("http://127.0.0.1:{client_port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    let flags = [
        ("name", "skep".to_owned()),
        ("data-dir", data_dir.display().to_string()),
        ("listen-client-urls", client.clone()),
        ("advertise-client-urls", client),
        ("listen-peer-urls", peer.clone()),
        ("initial-advertise-peer-urls", peer.clone()),
        ("initial-cluster", format!("skep={peer}")),
        ("quota-backend-bytes", quota_bytes.to_string()),
        // Storage compacts, in step with other API servers.
        ("auto-compaction-retention", "0".to_owned()),
        // etcd 3.4's default of 100000 keeps that many requests in memory; newer versions come down to this as well.
        ("snapshot-count", "10000".to_owned()),
        ("logger", "zap".to_owned()),
        ("log-outputs", "stderr".to_owned()),
    ];
    flags.into_iter().map(|(flag, value)| format!("--{flag}={value}")).collect()
}

fn find_program(program: &Path) -> Result<PathBuf> {
    if program.components().count() > 1 {
        let missing = || Error::Supervisor(format!("{} is not an executable file", program.display()));
        return executable(program).then(|| program.to_owned()).ok_or_else(missing);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|candidate| executable(candidate)).ok_or_else(|| {
        let name = program.display();
        Error::Supervisor(format!(
            "no `{name}` on PATH: install etcd (Debian and Ubuntu: the package etcd-server), or use a running one with --etcd-endpoints"
        ))
    })
}

fn executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Creates the data directory, for its owner only, and resolves it.
fn prepare(data_dir: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let failed =
        |e: std::io::Error| Error::Supervisor(format!("cannot use data directory {}: {e}", data_dir.display()));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(failed)?;
    data_dir.canonicalize().map_err(failed)
}

/// `/a/etcd` -> `/a/etcd.<suffix>`.
fn beside(data_dir: &Path, suffix: &str) -> PathBuf {
    let mut name = data_dir.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(suffix);
    data_dir.with_file_name(name)
}

fn lock(path: &Path) -> Result<File> {
    let failed = |e: std::io::Error| Error::Supervisor(format!("cannot lock {}: {e}", path.display()));
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::Error(e)) => Err(failed(e)),
        Err(TryLockError::WouldBlock) => Err(Error::Supervisor(format!(
            "another process runs etcd on this data directory ({} is locked); stop it or choose another",
            path.display()
        ))),
    }
}

fn choose_port(wanted: u16) -> Result<u16> {
    if wanted != 0 {
        return Ok(wanted);
    }
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    free.map(|addr| addr.port()).map_err(|e| Error::Supervisor(format!("no free loopback port: {e}")))
}

/// Waits for an answer to a linearizable read: etcd has a leader then.
async fn wait_until_healthy(keeper: &Keeper, endpoint: &str, deadline: Instant) -> Result<(), String> {
    let mut client = etcd_client::Client::connect([endpoint], None).await.map_err(|e| e.to_string())?;
    loop {
        let answer = tokio::time::timeout(Duration::from_secs(1), client.get("health", None)).await;
        if matches!(answer, Ok(Ok(_))) {
            return Ok(());
        }
        if let Some(death) = keeper.last_death() {
            return Err(death);
        }
        if Instant::now() > deadline {
            return Err("it does not answer".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The last lines of a log.
fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(2000)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}
