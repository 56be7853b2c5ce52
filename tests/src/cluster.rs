//! A cluster for one test, gone when the test ends, however it ends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
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

/// The client outside the cluster, on the first network; of IPv6 it has `fd00:111::64`.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 111, 0, 100);

/// Last octet of the router between two networks.
const ROUTER: u8 = 254;

/// A cluster of one machine or several. Dropping it removes everything it made.
pub struct TestCluster {
    cluster: Cluster,
    others: Vec<Cluster>,
    // In this order: the machines leave the networks before those go.
    machine: Netns,
    _machines: Vec<Netns>,
    outside: Option<Netns>,
    router: Option<Netns>,
    _lans: Vec<Lan>,
}

/// What a cluster of several nodes looks like.
#[derive(Clone, Debug)]
pub struct Shape {
    /// How many nodes; the control plane is on the first.
    pub nodes: usize,
    /// 1: all machines are on one Ethernet. 2: every other node is on a second one behind a router that knows only
    /// those two networks, so packets with pods' addresses get nowhere between them.
    pub segments: u8,
    /// Which programs to run.
    pub profile: Profile,
    /// Pod addresses, `A` or `A,B`.
    pub pod_cidr: String,
    /// Service addresses, `A` or `A,B`.
    pub service_cidr: String,
    /// Whether every machine has an IPv6 address, too (`fd00:111:<segment>::<n>`), and says so by `--node-ip`.
    pub ipv6: bool,
    /// Whether IPv6 comes first: the API server listens there, and it is each node's first address. Needs `ipv6`; the ranges
    /// have an order of their own.
    pub ipv6_first: bool,
    /// Further arguments of `skep-server run`.
    pub server_flags: Vec<String>,
    /// Further arguments of every `skep-node run`.
    pub node_flags: Vec<String>,
    /// Give each node a BPF file system of its own below its data, instead of a folder in the machine's.
    pub own_bpffs: bool,
}

impl Shape {
    /// `count` nodes of the debug build on one Ethernet, IPv4 alone.
    pub fn nodes(count: usize) -> Self {
        Self {
            nodes: count,
            segments: 1,
            profile: Profile::Debug,
            pod_cidr: "10.113.0.0/16".into(),
            service_cidr: "10.112.0.0/16".into(),
            ipv6: false,
            ipv6_first: false,
            server_flags: Vec::new(),
            node_flags: Vec::new(),
            own_bpffs: false,
        }
    }

    fn segment(&self, number: usize) -> u8 {
        if self.segments > 1 && number.is_multiple_of(2) { 1 } else { 0 }
    }

    /// The address of node `number` (from 1).
    pub fn address(&self, number: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 111, self.segment(number), number as u8)
    }

    /// Its IPv6 address, if [`Shape::ipv6`] is set.
    pub fn address6(&self, number: usize) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x111, self.segment(number).into(), 0, 0, 0, 0, number as u16)
    }

    /// `count` nodes on one Ethernet whose machines, pods and Services have addresses of both families, IPv4 first.
    pub fn dual_stack(count: usize) -> Self {
        Self {
            pod_cidr: "10.113.0.0/16,fd00:113::/56".into(),
            service_cidr: "10.112.0.0/16,fd00:112::/108".into(),
            ipv6: true,
            ..Self::nodes(count)
        }
    }

    /// The first and the second address of node `number`.
    fn addresses(&self, number: usize) -> (IpAddr, Option<IpAddr>) {
        let (v4, v6) = (self.address(number).into(), self.ipv6.then(|| self.address6(number).into()));
        match v6 {
            Some(v6) if self.ipv6_first => (v6, Some(v4)),
            v6 => (v4, v6),
        }
    }
}

impl TestCluster {
    /// Starts a whole cluster of the debug build and waits until its node is Ready.
    pub fn start() -> Result<Self> {
        let created = Self::create(Profile::Debug)?;
        created.start_all()?;
        Ok(created)
    }

    /// Starts a cluster of `count` nodes on one Ethernet and waits until all are Ready.
    pub fn start_nodes(count: usize) -> Result<Self> {
        Self::start_shape(&Shape::nodes(count))
    }

    /// Starts a cluster of that shape and waits until all its nodes are Ready.
    pub fn start_shape(shape: &Shape) -> Result<Self> {
        let created = Self::create_shape(shape)?;
        created.start_all()?;
        Ok(created)
    }

    /// Starts every process and waits until all nodes are Ready.
    pub fn start_all(&self) -> Result<()> {
        let runtime = |node: &Cluster| {
            node.start_containerd()?;
            node.containerd.import(&archive())
        };
        std::thread::scope(|scope| {
            let others = self.others.iter().map(|node| scope.spawn(move || runtime(node))).collect::<Vec<_>>();
            self.cluster.start_server()?;
            runtime(&self.cluster)?;
            others.into_iter().try_for_each(|other| other.join().unwrap_or_else(|_| bail!("a start panicked")))
        })?;
        self.nodes().into_iter().try_for_each(Cluster::spawn_node)?;
        self.nodes().into_iter().try_for_each(Cluster::wait_node_ready)
    }

    /// Makes the machine and its network, and starts nothing on it.
    pub fn create(profile: Profile) -> Result<Self> {
        let (owner, number) = claim(profile)?;
        let name = test_name(owner, number);
        let lan = Lan::create(&format!("{name}-lan"))?;
        let machine = Netns::create(&name)?;
        lan.join(&machine, ADDRESS)?;
        let cluster =
            Cluster::new(Spec::for_test(owner, number, &machine, ADDRESS.into(), workspace::programs(profile)));
        let created = Self {
            cluster,
            others: Vec::new(),
            machine,
            _machines: Vec::new(),
            outside: None,
            router: None,
            _lans: vec![lan],
        };
        created.cluster.prepare()?;
        Ok(created)
    }

    /// Makes the machines and networks of a cluster of that shape, and starts nothing on them.
    pub fn create_shape(shape: &Shape) -> Result<Self> {
        ensure!((1..=9).contains(&shape.nodes) && (1..=2).contains(&shape.segments), "no such shape: {shape:?}");
        let (owner, number) = claim(shape.profile)?;
        let name = test_name(owner, number);
        let lans = (0..shape.segments).map(|n| Lan::create(&format!("{name}-lan{n}"))).collect::<Result<Vec<_>>>()?;
        let join = |machine: &Netns, segment: u8, host: u8, device: &str| {
            let v4 = format!("10.111.{segment}.{host}/24");
            let v6 = format!("{}/64", Ipv6Addr::new(0xfd00, 0x111, segment.into(), 0, 0, 0, 0, host.into()));
            let addresses: &[&str] = if shape.ipv6 { &[&v4, &v6] } else { &[&v4] };
            lans[usize::from(segment)].join_as(machine, device, addresses)?;
            for other in (0..shape.segments).filter(|other| *other != segment && host != ROUTER) {
                let (to, via) = (format!("10.111.{other}.0/24"), format!("10.111.{segment}.{ROUTER}"));
                machine.ip(&["route", "add", &to, "via", &via])?;
                if shape.ipv6 {
                    let (to, via) = (format!("fd00:111:{other}::/64"), format!("fd00:111:{segment}::fe"));
                    machine.ip(&["-6", "route", "add", &to, "via", &via])?;
                }
            }
            Ok::<_, anyhow::Error>(())
        };
        let router = match shape.segments {
            1 => None,
            _ => {
                let router = Netns::create(&format!("{name}-router"))?;
                join(&router, 0, ROUTER, "eth0")?;
                join(&router, 1, ROUTER, "eth1")?;
                for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                    let file = format!("/proc/sys/net/{setting}");
                    output(router.command("sh").args(["-c", "echo 1 > $0", &file]))?;
                }
                Some(router)
            }
        };
        let outside = Netns::create(&format!("{name}-outside"))?;
        join(&outside, 0, OUTSIDE.octets()[3], "eth0")?;
        let mut machines = Vec::new();
        for node in 1..=shape.nodes {
            let machine = Netns::create(&if node == 1 { name.clone() } else { format!("{name}-n{node}") })?;
            join(&machine, shape.segment(node), node as u8, "eth0")?;
            machines.push(machine);
        }
        let machine = machines.remove(0);
        let (address, second_address) = shape.addresses(1);
        let spec = Spec::for_test(owner, number, &machine, address, workspace::programs(shape.profile));
        let first = Spec {
            pod_cidr: shape.pod_cidr.clone(),
            service_cidr: shape.service_cidr.clone(),
            server_flags: shape.server_flags.clone(),
            node_flags: shape.node_flags.clone(),
            second_address,
            bpf_root: if shape.own_bpffs { spec.run.join("bpf") } else { spec.bpf_root.clone() },
            ..spec
        };
        let others = machines.iter().zip(2..).map(|(machine, node)| {
            let (address, second_address) = shape.addresses(node);
            Cluster::new(Spec { second_address, ..first.joining(node, machine, address) })
        });
        let created = Self {
            others: others.collect(),
            cluster: Cluster::new(first),
            machine,
            _machines: machines,
            outside: Some(outside),
            router,
            _lans: lans,
        };
        created.nodes().into_iter().try_for_each(Cluster::prepare)?;
        Ok(created)
    }

    /// Every node, the one with the control plane first.
    pub fn nodes(&self) -> Vec<&Cluster> {
        std::iter::once(&self.cluster).chain(&self.others).collect()
    }

    /// The machine outside the cluster, of a cluster made from a [`Shape`].
    pub fn outside(&self) -> Result<&Netns> {
        self.outside.as_ref().context("this cluster was made without an outside")
    }

    /// The router between the networks of a shape with two.
    pub fn router(&self) -> Result<&Netns> {
        self.router.as_ref().context("this cluster was made with one network")
    }

    /// The toolbox on the machine outside.
    pub fn outside_toolbox(&self, args: &[&str]) -> Result<Command> {
        let mut command = self.outside()?.command(toolbox());
        command.args(args);
        Ok(command)
    }

    /// The toolbox on a node, as any process of it would be.
    pub fn toolbox_on(&self, node: &Cluster, args: &[&str]) -> Command {
        let mut command = node.on_machine(toolbox());
        command.args(args);
        command
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
        self.toolbox_on(&self.cluster, args)
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
        // Nodes that join before the one whose server they need to be told apart.
        for node in self.nodes().into_iter().rev() {
            if std::thread::panicking() {
                for daemon in [&node.server, &node.node, &node.containerd.daemon] {
                    let (name, tail) = (daemon.name(), daemon.log_tail(40));
                    eprintln!("--- the end of {name}'s log on {}\n{tail}", node.spec().name);
                }
            }
            if let Err(error) = node.destroy(false) {
                eprintln!("cannot remove cluster {}: {error:#}", node.spec().name);
            }
        }
    }
}

/// A name for a new cluster: this process's id, and a number nobody else of it has.
fn claim(profile: Profile) -> Result<(u32, u32)> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    ensure!(nix::unistd::geteuid().is_root(), "cluster tests need root: run `cargo xtask test` as root");
    ensure!(
        workspace::programs(profile).join("skep-node").exists() && archive().exists(),
        "the programs or the tests' image are not built: run the tests with `cargo xtask test`"
    );
    Ok((std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)))
}

fn toolbox() -> PathBuf {
    workspace::target().join("static/release/skep-toolbox")
}

fn archive() -> PathBuf {
    workspace::target().join("images/toolbox.tar")
}
