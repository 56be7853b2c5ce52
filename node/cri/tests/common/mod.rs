//! A containerd of the test's own: root, state, socket, cgroup and images, gone when dropped.

#![expect(
    clippy::disallowed_methods,
    reason = "set-up and Drop run outside of any runtime's workers that others wait for"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};

/// The image the tests' containers run.
pub(crate) const BUSYBOX: &str = "localhost/skep-test/busybox:1";

pub(crate) struct Containerd {
    dir: tempfile::TempDir,
    process: Option<Child>,
    /// Cgroup of the tests' pods, absolute within every hierarchy.
    pub(crate) cgroup: String,
}

impl Containerd {
    /// Starts it and waits until it answers.
    pub(crate) fn start() -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "component tests with containerd need root");
        // Below /run: socket paths are short there, and it is no overlay file system.
        let dir = tempfile::Builder::new().prefix("skep-cri-").tempdir_in("/run").context("a folder below /run")?;
        let cgroup = format!("/{}", dir.path().file_name().and_then(|name| name.to_str()).unwrap_or_default());
        let mut containerd = Self { dir, process: None, cgroup };
        fs::write(containerd.path("config.toml"), containerd.config())?;
        containerd.spawn()?;
        containerd.import_busybox()?;
        Ok(containerd)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn socket(&self) -> String {
        self.path("containerd.sock").display().to_string()
    }

    fn config(&self) -> String {
        let dir = self.dir.path().display();
        format!(
            r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
disabled_plugins = ["io.containerd.internal.v1.restart"]
[grpc]
  address = "{dir}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{dir}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{dir}/cni-bin"
    conf_dir = "{dir}/cni-conf"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
      Root = "{dir}/runc"
"#,
            pause = skep_cri::pause::IMAGE
        )
    }

    /// Starts the process; also after [`Containerd::kill`].
    pub(crate) fn spawn(&mut self) -> Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log"))?;
        let child = Command::new("containerd")
            .arg("--config")
            .arg(self.path("config.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("containerd must be installed")?;
        self.process = Some(child);
        let deadline = Instant::now() + Duration::from_secs(60);
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            ensure!(Instant::now() < deadline, "containerd did not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// SIGKILL; its containers stay.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn import_busybox(&self) -> Result<()> {
        let archive = self.path("busybox.tar");
        fs::write(&archive, busybox_archive()?)?;
        let output = Command::new("ctr")
            .args(["--address", &self.socket(), "--namespace", "k8s.io", "images", "import"])
            .arg(&archive)
            .output()
            .context("ctr must be installed")?;
        ensure!(output.status.success(), "ctr: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.kill();
        let dir = self.dir.path().to_owned();
        // Shims name their containerd's socket on their command line, and nobody else does.
        for _ in 0..50 {
            let shims = processes_mentioning(&dir);
            if shims.is_empty() {
                break;
            }
            for pid in shims {
                kill_tree(pid);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        for mount in mounts_below(&dir) {
            let _ = nix::mount::umount2(&mount, nix::mount::MntFlags::MNT_DETACH);
        }
        remove_cgroups(self.cgroup.trim_start_matches('/'));
    }
}

fn processes_mentioning(dir: &Path) -> Vec<i32> {
    let needle = dir.display().to_string();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command);
        command.contains("containerd-shim") && command.contains(&needle)
    })
    .collect()
}

fn kill_tree(pid: i32) {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
        kill_tree(child);
    }
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
}

fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut below: Vec<_> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|m| m.starts_with(dir))
        .collect();
    below.reverse();
    below
}

fn remove_cgroups(name: &str) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in mounts.lines().filter(|line| line.contains(" - cgroup")) {
        if let Some(mount) = line.split(' ').nth(4) {
            for _ in 0..20 {
                if remove_dirs(&Path::new(mount).join(name)).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn remove_dirs(dir: &Path) -> std::io::Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(dir)?.flatten().filter(|entry| entry.path().is_dir()) {
        remove_dirs(&entry.path())?;
    }
    fs::remove_dir(dir)
}

/// An OCI archive of this machine's static busybox.
fn busybox_archive() -> Result<Vec<u8>> {
    let program = fs::read("/bin/busybox").context("busybox-static must be installed")?;
    let mut layer = tar::Builder::new(Vec::new());
    append(&mut layer, "bin/busybox", &program, 0o755)?;
    for applet in ["sh", "sleep", "true", "false", "echo", "cat"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        layer.append_link(&mut header, format!("bin/{applet}"), "/bin/busybox")?;
    }
    let layer = layer.into_inner()?;
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    })
    .to_string();
    let describe = |kind: &str, data: &[u8]| json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest(data), "size": data.len()});
    let manifest = json!({
        "schemaVersion": 2,
        "config": describe("config.v1+json", config.as_bytes()),
        "layers": [describe("layer.v1.tar", &layer)],
    })
    .to_string();
    let mut entry = describe("manifest.v1+json", manifest.as_bytes());
    entry["annotations"] = json!({"io.containerd.image.name": BUSYBOX});
    let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
    append(&mut archive, "index.json", index.as_bytes(), 0o644)?;
    for data in [layer.as_slice(), config.as_bytes(), manifest.as_bytes()] {
        append(&mut archive, &format!("blobs/{}", digest(data).replace(':', "/")), data, 0o644)?;
    }
    Ok(archive.into_inner()?)
}

fn append(archive: &mut tar::Builder<Vec<u8>>, path: &str, data: &[u8], mode: u32) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(data.len() as u64);
    header.set_mode(mode);
    archive.append_data(&mut header, path, data)?;
    Ok(())
}

fn digest(data: &[u8]) -> String {
    let hash = Sha256::digest(data);
    format!("sha256:{}", hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}
