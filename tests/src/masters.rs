//! One or several `skep-server` processes over one etcd, on loopback and without nodes: all that tests of the API need.
//! Ports are free ones.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use xtask::cluster::test_name;
use xtask::command::require;
use xtask::process::Daemon;
use xtask::workspace::{self, Profile};
use xtask::{cluster, wait};

use crate::cluster::LIMIT;
use crate::kubectl::Kubectl;

/// The servers and their etcd. Dropping it ends and removes them.
pub struct Masters {
    /// What all of them store in.
    pub etcd: Daemon,
    etcd_url: String,
    servers: Vec<Server>,
    data: PathBuf,
    run: PathBuf,
}

struct Server {
    daemon: Daemon,
    port: u16,
}

impl Masters {
    /// Starts etcd and `count` servers of the debug build with every component, and waits until all are ready.
    pub fn start(count: usize) -> Result<Self> {
        let masters = Self::create(count)?;
        for number in 0..count {
            masters.spawn(number)?;
        }
        for number in 0..count {
            masters.wait_ready(number)?;
        }
        Ok(masters)
    }

    fn create(count: usize) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        ensure!(
            workspace::programs(Profile::Debug).join("skep-server").exists(),
            "skep-server is not built: run the tests with `cargo xtask test`"
        );
        let name = test_name(std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let data = workspace::target().join("tests").join(format!("{name}-masters"));
        std::fs::create_dir_all(&data).with_context(|| format!("cannot create {}", data.display()))?;
        let run = cluster::claim_daemons(&data)?;
        let etcd_url = format!("http://127.0.0.1:{}", free_port()?);
        let peer_url = format!("http://127.0.0.1:{}", free_port()?);
        let servers = (0..count)
            .map(|number| {
                Ok(Server { daemon: Daemon::new(&format!("skep-server-{number}"), &run), port: free_port()? })
            })
            .collect::<Result<_>>()?;
        let masters = Self { etcd: Daemon::new("etcd", &run), etcd_url, servers, data, run };
        let url = masters.etcd_url.as_str();
        masters.etcd.start(
            Command::new(require("etcd")?)
                .arg("--data-dir")
                .arg(masters.data.join("etcd"))
                .args(["--listen-client-urls", url, "--advertise-client-urls", url])
                .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
                .args(["--initial-cluster", &format!("default={peer_url}")]),
        )?;
        Ok(masters)
    }

    /// Starts server `number` unless it runs.
    pub fn spawn(&self, number: usize) -> Result<()> {
        let server = &self.servers[number];
        if server.daemon.pid().is_some() {
            return Ok(());
        }
        server.daemon.start(
            Command::new(workspace::programs(Profile::Debug).join("skep-server"))
                .args(["run", "--bind-address", "127.0.0.1", "--secure-port", &server.port.to_string()])
                // Only written into Endpoints that nobody follows here; a loopback address is refused.
                .args(["--advertise-address", &format!("198.51.100.{}", number + 1)])
                .args(["--service-cluster-ip-range", "10.112.0.0/16", "--cluster-cidr", "10.113.0.0/16"])
                .args(["--etcd-endpoints", &self.etcd_url])
                .arg("--pki-dir")
                .arg(self.data.join("pki"))
                .arg("--data-dir")
                .arg(self.server_data(number)),
        )
    }

    /// Waits until server `number` says that it is ready.
    pub fn wait_ready(&self, number: usize) -> Result<()> {
        let kubectl = self.kubectl(number)?;
        wait::until(&format!("skep-server {number} is not ready"), LIMIT, || {
            self.servers[number].daemon.check()?;
            ensure!(self.kubeconfig(number).exists(), "it has written no kubeconfig");
            let ready = kubectl.ok("get --raw /readyz")?;
            ensure!(ready.trim() == "ok", "/readyz says: {ready}");
            Ok(())
        })
    }

    /// The process of server `number`.
    pub fn server(&self, number: usize) -> &Daemon {
        &self.servers[number].daemon
    }

    /// Where server `number` serves.
    pub fn url(&self, number: usize) -> String {
        format!("https://127.0.0.1:{}", self.servers[number].port)
    }

    /// The administrator's kubeconfig for server `number`.
    pub fn kubeconfig(&self, number: usize) -> PathBuf {
        self.server_data(number).join("admin.conf")
    }

    /// The newest kubectl, as the administrator, to server `number`.
    pub fn kubectl(&self, number: usize) -> Result<Kubectl> {
        Kubectl::newest(&self.kubeconfig(number), &self.data.join("kubectl"), |program| Command::new(program))
    }

    /// Where etcd serves clients.
    pub fn etcd_url(&self) -> &str {
        &self.etcd_url
    }

    /// A folder of the test's own.
    pub fn folder(&self) -> &Path {
        &self.data
    }

    fn server_data(&self, number: usize) -> PathBuf {
        self.data.join(format!("server-{number}"))
    }
}

impl Drop for Masters {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for server in &self.servers {
                eprintln!("--- the end of {}'s log\n{}", server.daemon.name(), server.daemon.log_tail(40));
            }
        }
        if let Err(error) = cluster::remove_daemons(&self.run) {
            eprintln!("cannot remove {}: {error:#}", self.run.display());
        }
    }
}

/// A port nobody has at the moment.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
