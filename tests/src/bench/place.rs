//! Where clients and servers of the data plane's measurements run. They are the toolbox, started from here and not in a
//! container: so both sides of a comparison get the processor on the same terms, whatever cgroup a pod has.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use xtask::cluster::Cluster;
use xtask::netns::Netns;
use xtask::{cgroup, process, workspace};

/// Seconds that a timed client may take before it counts as hung.
const PATIENCE: &str = "20";

/// A network namespace and, where there may be a cluster's programs on it, a cgroup.
#[derive(Clone, Debug)]
pub struct Place {
    netns: PathBuf,
    cgroup: Option<PathBuf>,
}

impl Place {
    /// A namespace of no node: nothing translates its sockets.
    pub fn bare(netns: &Netns) -> Self {
        Self { netns: netns.path(), cgroup: None }
    }

    /// The same namespace, in a cgroup.
    pub fn within(self, cgroup: PathBuf) -> Self {
        Self { cgroup: Some(cgroup), ..self }
    }

    /// Beside the processes of a node.
    pub fn node(node: &Cluster) -> Result<Self> {
        let netns = node.spec().netns.clone().context("a test's node has a namespace")?;
        Ok(Self { netns, cgroup: Some(cgroup_of(node)?) })
    }

    /// In the network of the pod of that node whose container runs `toolbox serve <port>`.
    pub fn pod(node: &Cluster, port: u16) -> Result<Self> {
        let wanted = ["toolbox".to_owned(), "serve".into(), port.to_string()];
        let served = process::find(|words| words.get(..3) == Some(&wanted))
            .into_iter()
            .find(|pid| is_below(*pid, &node.spec().cgroup))
            .with_context(|| format!("no pod serves on port {port} of {}", node.spec().name))?;
        Ok(Self { netns: format!("/proc/{served}/ns/net").into(), cgroup: Some(cgroup_of(node)?) })
    }

    /// The toolbox, here. It ends with the thread that starts it.
    pub fn toolbox(&self, args: &[&str]) -> Command {
        let mut command = self.command("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(workspace::target().join("static/release/skep-toolbox")).args(args);
        command
    }

    /// Runs a timed client of the toolbox and returns the nanoseconds it took.
    pub fn time(&self, args: &[&str]) -> Result<f64> {
        let mut command = self.command("timeout");
        command.arg(PATIENCE).arg(workspace::target().join("static/release/skep-toolbox")).args(args);
        let printed = xtask::command::output(&mut command)?;
        printed.trim().parse().with_context(|| format!("the client printed {printed:?}"))
    }

    /// Starts a server of the toolbox and waits until it serves.
    pub fn serve(&self, args: &[&str]) -> Result<Server> {
        let mut child = self.toolbox(args).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("no stdout")?;
        let server = Server(child);
        let mut line = String::new();
        // It says so in its first line.
        let mut reader = BufReader::new(stdout);
        reader.read_line(&mut line)?;
        ensure!(!line.is_empty(), "`toolbox {}` has ended at once", args.join(" "));
        // What else it says is read, so that it never waits, and dropped.
        std::thread::spawn(move || reader.read_to_end(&mut Vec::new()));
        Ok(server)
    }

    /// Datagrams that found the buffer of their socket full, in this namespace so far. They are lost by a receiver that
    /// got no processor, not by the network.
    pub fn overruns(&self) -> Result<u64> {
        let text = xtask::command::output(self.command("cat").arg("/proc/net/snmp"))?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
        let (names, values) = (lines.next().context("no Udp line")?, lines.next().context("no Udp figures")?);
        let place = names.split(' ').position(|name| name == "RcvbufErrors").context("no RcvbufErrors")?;
        Ok(values.split(' ').nth(place).context("a short Udp line")?.parse()?)
    }

    fn command(&self, program: &str) -> Command {
        let netns = format!("--net={}", self.netns.display());
        let mut command = match &self.cgroup {
            None => Command::new("nsenter"),
            Some(cgroup) => {
                // The shell joins the cgroup before it becomes the program, so nothing of it runs outside.
                let mut shell = Command::new("sh");
                shell.args(["-c", r#"echo $$ > "$0/cgroup.procs" && exec nsenter "$@""#]).arg(cgroup);
                shell
            }
        };
        command.args([&netns, "--", program]);
        command
    }
}

/// Where the node's own processes are; it was made with the node.
fn cgroup_of(node: &Cluster) -> Result<PathBuf> {
    Ok(cgroup::unified()?.join(node.spec().cgroup.trim_matches('/')).join("machine"))
}

fn is_below(pid: i32, cgroup: &str) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    text.lines().filter_map(|line| line.strip_prefix("0::")).any(|path| Path::new(path).starts_with(cgroup))
}

/// A running server; it ends when this is dropped.
pub struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It holds nothing; an error means it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
