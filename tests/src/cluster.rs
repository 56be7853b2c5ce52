//! A cluster for one test, gone when the test ends, however it ends.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use xtask::cluster::{Cluster, Spec, test_name};
use xtask::command::output;
use xtask::netns::{Lan, Netns};
use xtask::workspace::{self, Profile};
use xtask::{process, wait};

use crate::hammer::Hammer;

/// How long the cluster may take to reach a state.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The node's address on the test's own network.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 111, 0, 1);

/// A cluster of one machine. Dropping it removes everything it made.
pub struct TestCluster {
    cluster: Cluster,
    // In this order: the machine leaves the network before the network goes.
    machine: Netns,
    _lan: Lan,
}

impl TestCluster {
    /// Starts a whole cluster of the debug build and waits until its node is Ready.
    pub fn start() -> Result<Self> {
        let created = Self::create(Profile::Debug)?;
        created.start_all()?;
        Ok(created)
    }

    /// Starts every process and waits until the node is Ready.
    pub fn start_all(&self) -> Result<()> {
        self.cluster.start_server()?;
        self.cluster.start_containerd()?;
        self.cluster.containerd.import(&archive())?;
        self.cluster.start_node()
    }

    /// Makes the machine and its network, and starts nothing on it.
    pub fn create(profile: Profile) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        ensure!(nix::unistd::geteuid().is_root(), "cluster tests need root: run `cargo xtask test` as root");
        let programs = workspace::programs(profile);
        ensure!(
            programs.join("skep-node").exists() && archive().exists(),
            "the programs or the tests' image are not built: run the tests with `cargo xtask test`"
        );
        let (owner, number) = (std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let name = test_name(owner, number);
        let lan = Lan::create(&format!("{name}-lan"))?;
        let machine = Netns::create(&name)?;
        lan.join(&machine, ADDRESS)?;
        let cluster = Cluster::new(Spec::for_test(owner, number, &machine, ADDRESS.into(), programs));
        let created = Self { cluster, machine, _lan: lan };
        created.cluster.prepare()?;
        Ok(created)
    }

    /// The processes and their controls.
    pub fn parts(&self) -> &Cluster {
        &self.cluster
    }

    /// A runtime whose threads are on the machine: what runs on it, and in `block_on` of this thread, reaches the
    /// cluster's addresses. The calling thread stays there.
    pub fn runtime(&self) -> Result<tokio::runtime::Runtime> {
        let path = self.machine.path();
        let join = move || -> Result<()> {
            let netns = std::fs::File::open(&path).with_context(|| path.display().to_string())?;
            Ok(nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET)?)
        };
        join()?;
        // A thread that cannot join would reach nothing, and the test would say so.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().on_thread_start(move || drop(join())).build()?;
        Ok(runtime)
    }

    /// Runs kubectl and returns what it printed.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        output(&mut self.cluster.kubectl(args))
    }

    /// Applies a manifest.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        let file = self.cluster.spec().data.join("manifest.yaml");
        std::fs::write(&file, manifest)?;
        let file = file.display().to_string();
        self.kubectl(&["apply", "-f", &file]).map(drop)
    }

    /// What `kubectl get <args> -o jsonpath=<path>` prints.
    pub fn get(&self, args: &[&str], path: &str) -> Result<String> {
        let path = format!("jsonpath={path}");
        self.kubectl(&[&["get"], args, &["-o", &path]].concat())
    }

    /// The names of the running and ready pods that `selector` matches.
    pub fn ready_pods(&self, selector: &str) -> Result<Vec<String>> {
        let path = "{range .items[?(@.status.phase=='Running')]}{.metadata.name} {.metadata.deletionTimestamp} {.status.conditions[?(@.type=='Ready')].status}{'\\n'}{end}";
        let lines = self.get(&["pods", "-l", selector], path)?;
        let ready = lines.lines().filter_map(|line| line.strip_suffix(" True"));
        // Two blanks: no deletion timestamp stands between them.
        Ok(ready.filter_map(|line| line.strip_suffix(' ')).map(str::to_owned).collect())
    }

    /// Waits until exactly `count` pods that `selector` matches are ready, and returns their names.
    pub fn wait_ready_pods(&self, selector: &str, count: usize) -> Result<Vec<String>> {
        wait::until(&format!("{count} ready pods of {selector}"), LIMIT, || {
            let pods = self.ready_pods(selector)?;
            ensure!(pods.len() == count, "ready are {pods:?}");
            Ok(pods)
        })
        .with_context(|| self.describe())
    }

    /// What a person would look at when something does not come up.
    fn describe(&self) -> String {
        let look = |args: &[&str]| self.kubectl(args).unwrap_or_else(|error| format!("{error:#}"));
        [look(&["get", "pods,events", "-A", "-o", "wide"]), look(&["describe", "nodes"])].join("\n")
    }

    /// The toolbox, run on the cluster's machine as any process of it would be.
    pub fn toolbox(&self, args: &[&str]) -> Command {
        let mut command = self.cluster.on_machine(workspace::target().join("static/release/skep-toolbox"));
        command.args(args);
        command
    }

    /// Asks `address` once over HTTP from the machine.
    pub fn ask(&self, address: &str) -> Result<String> {
        Ok(output(&mut self.toolbox(&["get", address]))?.trim().to_owned())
    }

    /// Asks `address` without pause from the machine, until stopped.
    pub fn hammer(&self, address: &str) -> Result<Hammer> {
        Hammer::start(self.toolbox(&["hammer", address]))
    }

    /// Waits until `address` has been answered by each of `names`, and by none but them.
    pub fn wait_answers(&self, address: &str, names: &[String]) -> Result<()> {
        wait::until(&format!("answers of {names:?} at {address}"), LIMIT, || {
            let hammer = self.hammer(address)?;
            std::thread::sleep(Duration::from_millis(300));
            let heard = hammer.stop()?;
            ensure!(heard.errors.is_empty(), "errors: {:?}", heard.errors);
            let (mut expected, answered) = (names.to_vec(), heard.answers.into_keys().collect::<Vec<_>>());
            expected.sort();
            ensure!(answered == expected, "answered: {answered:?}");
            Ok(())
        })
    }

    /// The pid of the etcd that this cluster's server started.
    pub fn etcd_pid(&self) -> Result<i32> {
        let data = self.cluster.spec().data.display().to_string();
        let ours = |words: &[String]| {
            words.first().is_some_and(|program| program.ends_with("etcd"))
                && words.iter().any(|word| word.contains(&data))
        };
        process::find(ours).first().copied().context("no etcd of this cluster runs")
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for daemon in [&self.cluster.server, &self.cluster.node, &self.cluster.containerd.daemon] {
                eprintln!("--- the end of {}'s log\n{}", daemon.name(), daemon.log_tail(40));
            }
        }
        if let Err(error) = self.cluster.destroy(false) {
            eprintln!("cannot remove cluster {}: {error:#}", self.cluster.spec().name);
        }
    }
}

fn archive() -> PathBuf {
    workspace::target().join("images/toolbox.tar")
}
