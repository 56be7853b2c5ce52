//! A whole cluster from the checkout: `skep-server` (with its etcd), containerd and `skep-node` on one machine, which is
//! this one (`cargo xtask up`) or a network namespace (tests).

use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::containerd::Containerd;
use crate::netns::Netns;
use crate::process::Daemon;
use crate::{cgroup, command, mounts, netns, wait, workspace};

/// Where the clusters of tests keep their sockets, a folder each, named `<owner's pid>-<number>`.
const TEST_RUN: &str = "/run/skep-test";

/// In a folder of [`TEST_RUN`] whose daemons are no whole cluster: where their data is.
const DATA_FILE: &str = "data-folder";

/// How long a part of the cluster may take to come up.
const START_LIMIT: Duration = Duration::from_secs(90);

/// What tells one cluster from another on the same machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// The node's name, and part of every path.
    pub name: String,
    /// State that outlives the processes: etcd, images, certificates, logs.
    pub data: PathBuf,
    /// Sockets and running state; short, because socket paths are limited to 107 bytes.
    pub run: PathBuf,
    /// The folder with `skep-server` and `skep-node`.
    pub programs: PathBuf,
    /// The network namespace everything runs in; `None` is this machine's own.
    pub netns: Option<PathBuf>,
    /// The node's address.
    pub address: IpAddr,
    /// The cgroup below which the pods live, and whose processes see Services. `/` is every process of the machine.
    pub cgroup: String,
    /// Where BPF maps and links are pinned.
    pub bpf_root: PathBuf,
    /// ClusterIPs.
    pub service_cidr: String,
    /// Pod addresses of the whole cluster.
    pub pod_cidr: String,
    /// The node's address of the other family beside `address`, which is of the cluster's primary one.
    #[serde(default, alias = "address6")]
    pub second_address: Option<IpAddr>,
    /// The control plane of a node that has none of its own.
    #[serde(default)]
    pub joins: Option<ControlPlane>,
    /// Further arguments of `skep-server run`.
    #[serde(default)]
    pub server_flags: Vec<String>,
    /// Further arguments of `skep-node run`.
    #[serde(default)]
    pub node_flags: Vec<String>,
}

/// Where a node finds the control plane that runs on another node of the cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ControlPlane {
    /// The data folder of `skep-server`, which issues the node's credentials.
    pub data: PathBuf,
    /// The address it listens at.
    pub address: IpAddr,
}

impl Spec {
    /// A cluster for the test process `owner`, on the machine that the namespace `machine` stands for.
    pub fn for_test(owner: u32, number: u32, machine: &Netns, address: IpAddr, programs: PathBuf) -> Self {
        let name = test_name(owner, number);
        Self {
            data: workspace::target().join("tests").join(&name),
            run: Path::new(TEST_RUN).join(format!("{owner}-{number}")),
            programs,
            netns: Some(machine.path()),
            address,
            cgroup: format!("/{name}"),
            bpf_root: Path::new("/sys/fs/bpf").join(&name),
            // Apart from those of `up`, whose hooks see every process of the machine.
            service_cidr: "10.112.0.0/16".into(),
            pod_cidr: "10.113.0.0/16".into(),
            second_address: None,
            joins: None,
            server_flags: Vec::new(),
            node_flags: Vec::new(),
            name,
        }
    }

    /// Node `number` (from 2) of this cluster, on another machine. Its name is this one's with `-n<number>` behind it, so
    /// that [`sweep`] finds it, too.
    pub fn joining(&self, number: usize, machine: &Netns, address: IpAddr) -> Self {
        let behind = |path: &Path| {
            let mut text = path.as_os_str().to_owned();
            text.push(format!("-n{number}"));
            PathBuf::from(text)
        };
        Self {
            name: format!("{}-n{number}", self.name),
            data: behind(&self.data),
            run: behind(&self.run),
            netns: Some(machine.path()),
            address,
            cgroup: format!("{}-n{number}", self.cgroup),
            bpf_root: behind(&self.bpf_root),
            joins: Some(ControlPlane { data: self.server_data(), address: self.address }),
            ..self.clone()
        }
    }

    /// The data folder of the `skep-server` this node belongs to.
    fn server_data(&self) -> PathBuf {
        self.joins.as_ref().map_or_else(|| self.data.join("server"), |joined| joined.data.clone())
    }
}

/// The name of everything that cluster `number` of test process `owner` makes.
pub fn test_name(owner: u32, number: u32) -> String {
    format!("skep-test-{owner}-{number}")
}

/// Removes the clusters of test processes that are gone and could not clean up. What cannot be removed is said, and is no
/// reason to stop.
pub fn sweep() {
    let Ok(entries) = fs::read_dir(TEST_RUN) else { return };
    for folder in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let owner = folder.file_name().and_then(OsStr::to_str).and_then(|name| name.split('-').next());
        if owner.is_some_and(|pid| Path::new("/proc").join(pid).exists()) {
            continue;
        }
        if let Err(error) = sweep_one(&folder) {
            eprintln!("cannot remove what a test left ({}): {error:#}", folder.display());
        }
    }
}

/// Makes a folder for the pid files and logs of a test's daemons that are no whole cluster. They and their `data` are
/// removed by [`remove_daemons`]; by [`sweep`] once this process is gone.
pub fn claim_daemons(data: &Path) -> Result<PathBuf> {
    let name = data.file_name().context("a folder without a name")?;
    let folder = Path::new(TEST_RUN).join(format!("{}-{}", std::process::id(), name.to_string_lossy()));
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    fs::write(folder.join(DATA_FILE), data.as_os_str().as_encoded_bytes())?;
    Ok(folder)
}

/// Kills the daemons of a folder of [`claim_daemons`] and removes what they kept.
pub fn remove_daemons(folder: &Path) -> Result<()> {
    let data = fs::read_to_string(folder.join(DATA_FILE))?;
    for file in fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path())) {
        if let (Some("pid"), Some(name)) =
            (file.extension().and_then(OsStr::to_str), file.file_stem().and_then(OsStr::to_str))
        {
            Daemon::new(name, folder).kill()?;
        }
    }
    remove(Path::new(&data))?;
    remove(folder)
}

fn sweep_one(folder: &Path) -> Result<()> {
    if folder.join(DATA_FILE).exists() {
        return remove_daemons(folder);
    }
    let spec = fs::read(folder.join("spec.json"))?;
    let spec: Spec = serde_json::from_slice(&spec).with_context(|| format!("{}/spec.json", folder.display()))?;
    let name = spec.name.clone();
    Cluster::new(spec).destroy(false)?;
    netns::list(&name).iter().try_for_each(|left| netns::delete(left))?;
    cgroup::list(&name)?.iter().try_for_each(|left| cgroup::remove(left))
}

/// A cluster, started or not.
#[derive(Clone, Debug)]
pub struct Cluster {
    spec: Spec,
    /// Its containerd.
    pub containerd: Containerd,
    /// `skep-server`, whose child is etcd.
    pub server: Daemon,
    /// `skep-node`.
    pub node: Daemon,
}

impl Cluster {
    /// The cluster that `spec` describes. Starts nothing.
    pub fn new(spec: Spec) -> Self {
        let logs = spec.data.join("logs");
        let containerd = Containerd {
            root: spec.data.join("containerd"),
            state: spec.run.join("containerd"),
            cni_bin: spec.data.join("cni/bin"),
            cni_conf: spec.data.join("cni/net.d"),
            daemon: Daemon::new("containerd", &logs),
        };
        let (server, node) = (Daemon::new("skep-server", &logs), Daemon::new("skep-node", &logs));
        Self { spec, containerd, server, node }
    }

    /// What it was made from.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.spec.server_data().join("admin.conf")
    }

    fn node_kubeconfig(&self) -> PathBuf {
        self.spec.data.join("node.conf")
    }

    fn api_url(&self) -> String {
        let address = self.spec.joins.as_ref().map_or(self.spec.address, |joined| joined.address);
        format!("https://{}", SocketAddr::new(address, 6443))
    }

    /// Where a command must run to be on the cluster's machine: in its network namespace and below its cgroup.
    pub fn on_machine(&self, program: impl AsRef<OsStr>) -> Command {
        let Some(netns) = &self.spec.netns else { return Command::new(program) };
        // The shell puts itself into the cgroup before it becomes the program, so nothing of it runs outside.
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"echo $$ > "$0/cgroup.procs" && netns=$1 && shift && exec nsenter --net="$netns" -- "$@""#])
            .arg(self.machine_cgroup().unwrap_or_default())
            .arg(netns)
            .arg(program);
        command
    }

    fn machine_cgroup(&self) -> Result<PathBuf> {
        Ok(cgroup::unified()?.join(self.spec.cgroup.trim_matches('/')).join("machine"))
    }

    /// `kubectl` as the administrator.
    pub fn kubectl(&self, args: &[&str]) -> Command {
        let program = command::find("kubectl").unwrap_or_else(|| "kubectl".into());
        let mut command = self.on_machine(program);
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(args);
        command
    }

    /// One of our own programs, on the cluster's machine.
    pub fn program(&self, name: &str) -> Command {
        self.on_machine(self.spec.programs.join(name))
    }

    /// Makes the folders and the cgroup that everything else needs.
    pub fn prepare(&self) -> Result<()> {
        for folder in [&self.spec.data, &self.spec.run] {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        if self.spec.netns.is_some() {
            fs::write(self.spec.run.join("spec.json"), serde_json::to_vec(&self.spec)?)?;
            let cgroup = self.machine_cgroup()?;
            fs::create_dir_all(&cgroup).with_context(|| format!("cannot create {}", cgroup.display()))?;
        }
        Ok(())
    }

    /// Starts containerd unless it runs.
    pub fn start_containerd(&self) -> Result<()> {
        if self.containerd.daemon.pid().is_some() {
            return Ok(());
        }
        self.containerd.start(|program| self.on_machine(program))
    }

    /// Starts `skep-server` unless it runs, and waits until it is ready.
    pub fn start_server(&self) -> Result<()> {
        self.spawn_server()?;
        wait::until("skep-server is not ready", START_LIMIT, || {
            self.server.check()?;
            let ready = command::output(&mut self.kubectl(&["get", "--raw", "/readyz"]))?;
            ensure!(ready.trim() == "ok", "/readyz says: {ready}");
            Ok(())
        })
        .with_context(|| format!("its log is {}", self.server.log().display()))
    }

    /// Starts `skep-server` unless it runs.
    pub fn spawn_server(&self) -> Result<()> {
        if self.server.pid().is_some() {
            return Ok(());
        }
        let mut command = self.program("skep-server");
        command
            .arg("run")
            .arg("--data-dir")
            .arg(self.spec.data.join("server"))
            .args([
                "--bind-address",
                &self.spec.address.to_string(),
                "--advertise-address",
                &self.spec.address.to_string(),
            ])
            .args(["--service-cluster-ip-range", &self.spec.service_cidr, "--cluster-cidr", &self.spec.pod_cidr])
            .args(&self.spec.server_flags);
        self.server.start(&mut command)
    }

    /// Starts `skep-node` unless it runs, and waits until the node is Ready.
    pub fn start_node(&self) -> Result<()> {
        self.spawn_node()?;
        self.wait_node_ready()
    }

    /// Starts `skep-node` unless it runs.
    pub fn spawn_node(&self) -> Result<()> {
        if self.node.pid().is_some() {
            return Ok(());
        }
        let user = format!("system:node:{}", self.spec.name);
        command::output(
            self.program("skep-server")
                .arg("kubeconfig")
                .arg("--data-dir")
                .arg(self.spec.server_data())
                .args(["--user", &user, "--group", "system:nodes", "--server", &self.api_url()])
                .arg("--out")
                .arg(self.node_kubeconfig()),
        )?;
        let addresses = [Some(self.spec.address), self.spec.second_address];
        let addresses: Vec<String> = addresses.iter().flatten().map(IpAddr::to_string).collect();
        let mut command = self.program("skep-node");
        command.arg("run");
        self.node_arguments(&mut command);
        command
            .arg("--kubeconfig")
            .arg(self.node_kubeconfig())
            .args(["--node-name", &self.spec.name, "--node-ip", &addresses.join(",")])
            .args(["--service-cluster-ip-range", &self.spec.service_cidr])
            // A cluster to try things with must work on a full disk, too.
            .args(["--eviction-hard", "memory.available<100Mi"])
            .args(&self.spec.node_flags);
        self.node.start(&mut command)
    }

    /// The arguments `skep-node run` and `skep-node cleanup` share: where the node keeps what it makes.
    fn node_arguments(&self, command: &mut Command) {
        command
            .arg("--data-dir")
            .arg(self.spec.data.join("node"))
            .arg("--containerd")
            .arg(self.containerd.socket())
            .arg("--cni-bin-dir")
            .arg(&self.containerd.cni_bin)
            .arg("--cni-conf-dir")
            .arg(&self.containerd.cni_conf)
            .arg("--cgroup-root")
            .arg(&self.spec.cgroup)
            .arg("--bpf-root")
            .arg(&self.spec.bpf_root);
    }

    /// Waits until the node reports Ready, which it does once the runtime and the pod network are.
    pub fn wait_node_ready(&self) -> Result<()> {
        let node = format!("node/{}", self.spec.name);
        let jsonpath = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        wait::until("the node is not Ready", START_LIMIT, || {
            self.node.check()?;
            let ready = command::output(&mut self.kubectl(&["get", &node, "-o", jsonpath]))?;
            ensure!(ready == "True", "its Ready condition is {ready:?}");
            Ok(())
        })
        .with_context(|| format!("its log is {}", self.node.log().display()))
    }

    /// Stops everything and removes what it made; with `keep_data`, all but etcd's data, certificates and images.
    /// A step that fails does not keep the others from being done; the first error is returned.
    pub fn destroy(&self, keep_data: bool) -> Result<()> {
        let top = self.spec.cgroup.trim_matches('/');
        let steps = [
            self.node.stop(),
            self.clean_node(),
            self.server.stop(),
            self.containerd.stop(),
            cgroup::remove(if top.is_empty() { "kubepods" } else { top }),
            mounts::unmount_below(&self.spec.run),
            mounts::unmount_below(&self.spec.data),
            remove(&self.spec.bpf_root),
            remove(&self.spec.run),
            remove(&if keep_data { self.spec.data.join("node") } else { self.spec.data.clone() }),
        ];
        steps.into_iter().collect()
    }

    /// Lets `skep-node` remove the pods, network and kernel parts it made. containerd must answer for the pods.
    fn clean_node(&self) -> Result<()> {
        if self.containerd.daemon.pid().is_none() && !self.spec.bpf_root.exists() {
            return Ok(());
        }
        if self.spec.netns.as_ref().is_some_and(|netns| !netns.exists()) {
            // The machine is gone, and its pods' network with it. Pins are files.
            return remove(&self.spec.bpf_root);
        }
        self.prepare()?;
        self.start_containerd()?;
        let mut command = self.program("skep-node");
        command.arg("cleanup");
        self.node_arguments(&mut command);
        command.args(["--service-cluster-ip-range", &self.spec.service_cidr]);
        // A container that dies while it is being removed makes the runtime fail that one call.
        let limit = Duration::from_secs(15);
        wait::until("skep-node cannot clean up", limit, || command::run_logged(&mut command, &self.node.log()))
    }
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
