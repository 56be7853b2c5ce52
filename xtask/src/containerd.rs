//! A containerd of our own beside whatever the machine runs: own root, state, socket and runc state.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::Daemon;
use crate::{command, process, wait};

/// The image of every pod's first container; `skep-node` builds it and imports it at start.
pub const PAUSE_IMAGE: &str = "localhost/skep/pause:1";

/// Where one containerd keeps things.
#[derive(Clone, Debug)]
pub struct Containerd {
    /// Images and metadata; outlives a restart of the machine.
    pub root: PathBuf,
    /// Sockets and running state. Keep it short: socket paths are limited to 107 bytes.
    pub state: PathBuf,
    /// CNI plugins.
    pub cni_bin: PathBuf,
    /// CNI configuration.
    pub cni_conf: PathBuf,
    /// Its process.
    pub daemon: Daemon,
}

impl Containerd {
    /// The socket that serves CRI.
    pub fn socket(&self) -> PathBuf {
        self.state.join("containerd.sock")
    }

    /// Starts it with `launcher` (the words that go before `containerd`, for example `nsenter …`) and waits until it answers.
    pub fn start(&self, launcher: impl FnOnce(&Path) -> Command) -> Result<()> {
        let program = command::require("containerd")?;
        command::require("runc")?;
        for folder in [&self.root, &self.state, &self.cni_bin, &self.cni_conf] {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let config = self.root.join("config.toml");
        fs::write(&config, self.config())?;
        let mut command = launcher(&program);
        command.arg("--config").arg(&config);
        self.daemon.start(&mut command)?;
        wait::until("containerd does not answer", Duration::from_secs(30), || {
            self.daemon.check()?;
            command::output(self.ctr().arg("version")).map(drop)
        })
    }

    /// `ctr` in the namespace that CRI uses.
    pub fn ctr(&self) -> Command {
        let mut command = Command::new(command::find("ctr").unwrap_or_else(|| "ctr".into()));
        command.arg("--address").arg(self.socket()).args(["--namespace", "k8s.io"]);
        command
    }

    /// Imports an OCI archive.
    pub fn import(&self, archive: &Path) -> Result<()> {
        command::output(self.ctr().args(["images", "import"]).arg(archive)).map(drop)
    }

    /// Stops it, and the shims it left running.
    pub fn stop(&self) -> Result<()> {
        self.daemon.stop()?;
        let socket = self.socket().display().to_string();
        for shim in process::find(|words| {
            words.first().is_some_and(|program| program.ends_with("containerd-shim-runc-v2")) && words.contains(&socket)
        }) {
            process::end(shim);
        }
        Ok(())
    }

    fn config(&self) -> String {
        // `restrict_oom_score_adj` and `disable_apparmor`: it must also start in a container or a small VM.
        format!(
            r#"version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.internal.v1.restart", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_bin}"
    conf_dir = "{cni_conf}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
      Root = "{state}/runc"
"#,
            root = self.root.display(),
            state = self.state.display(),
            socket = self.socket().display(),
            cni_bin = self.cni_bin.display(),
            cni_conf = self.cni_conf.display(),
        )
    }
}
