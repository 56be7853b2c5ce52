//! Nodes and pods made of network namespaces, gone when dropped.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;
use skep_network::{CONFLIST_NAME, Config, Environment, Network, Reconciled, respond};
use tempfile::TempDir;

/// The longest anything here waits; reached only when something is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A network namespace held by a bind mount.
pub(crate) struct Namespace {
    pub(crate) path: PathBuf,
}

impl Namespace {
    /// A new one, its loopback device down.
    pub(crate) fn bare() -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let name = format!("skep-network-test-{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        File::create(&path).unwrap();
        let namespace = Self { path };
        let path = namespace.path.clone();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace needs root");
            mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .expect("bind mount needs root");
        })
        .join()
        .unwrap();
        namespace
    }

    /// A new one.
    pub(crate) fn new() -> Self {
        let namespace = Self::bare();
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs `work` on a thread inside.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(&self.path).unwrap();
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&file, CloneFlags::CLONE_NEWNET).unwrap();
                    work()
                })
                .join()
                .unwrap()
        })
    }

    /// Runs `ip ARGS` inside and returns what it says.
    pub(crate) fn ip(&self, args: &str) -> String {
        self.run(|| {
            let output = Command::new("ip").args(args.split(' ')).output().expect("these tests need iproute2's ip");
            assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&self.path);
    }
}

/// A pod on a [`Node`].
pub(crate) struct Pod {
    pub(crate) namespace: Namespace,
    /// The primary one.
    pub(crate) address: IpAddr,
    /// The other, if it has two.
    pub(crate) second: Option<IpAddr>,
}

/// A node: a namespace with an uplink to a second one, and the pod network set up in it.
pub(crate) struct Node {
    pub(crate) namespace: Namespace,
    pub(crate) outside: Namespace,
    pub(crate) dir: TempDir,
    pub(crate) config: Config,
    pub(crate) network: Network,
    pub(crate) bare_inventory: String,
}

/// A node before [`Network::setup`].
pub(crate) struct Prepared {
    pub(crate) namespace: Namespace,
    outside: Namespace,
    dir: TempDir,
    pub(crate) config: Config,
}

impl Prepared {
    pub(crate) fn setup(&mut self) {
        self.namespace.run(|| Network::setup(self.config.clone()).unwrap());
    }

    pub(crate) fn teardown(&mut self) {
        self.namespace.run(|| Network::setup(self.config.clone()).unwrap().teardown().unwrap());
    }

    pub(crate) fn into_node(self) -> Node {
        let Self { namespace, outside, dir, config } = self;
        let bare_inventory = inventory(&namespace);
        let network = namespace.run(|| Network::setup(config.clone()).unwrap());
        Node { namespace, outside, dir, config, network, bare_inventory }
    }
}

impl Node {
    pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
    pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);

    pub(crate) const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
    pub(crate) const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);

    /// With the given pod CIDRs, a comma between them, and addresses of the same families.
    pub(crate) fn prepare(pod_cidrs: &str) -> Prepared {
        let (namespace, outside) = (Namespace::new(), Namespace::new());
        // `ip` takes names below /run/netns or process ids only; moving the peer is done from inside it instead.
        namespace.ip("link add up0 type veth peer name up1");
        let target = File::open(&outside.path).unwrap();
        namespace.run(|| {
            use std::os::fd::AsRawFd as _;
            let path = format!("/proc/{}/fd/{}", std::process::id(), target.as_raw_fd());
            let status = Command::new("ip").args(["link", "set", "up1", "netns", &path]).status().unwrap();
            assert!(status.success());
        });
        namespace.ip(&format!("address add {}/24 dev up0", Self::ADDRESS));
        namespace.ip("link set up0 mtu 1400 up");
        outside.ip(&format!("address add {}/24 dev up1", Self::OUTSIDE));
        outside.ip("link set up1 mtu 1400 up");
        let pod_cidrs: Vec<IpNet> = pod_cidrs.split(',').map(|cidr| cidr.parse().unwrap()).collect();
        let (mut service_cidrs, mut node_ips) = (Vec::new(), Vec::new());
        for cidr in &pod_cidrs {
            if cidr.addr().is_ipv4() {
                service_cidrs.push("10.96.0.0/12".parse().unwrap());
                node_ips.push(IpAddr::V4(Self::ADDRESS));
            } else {
                namespace.ip(&format!("address add {}/64 dev up0 nodad", Self::ADDRESS6));
                outside.ip(&format!("address add {}/64 dev up1 nodad", Self::OUTSIDE6));
                service_cidrs.push("fd96::/108".parse().unwrap());
                node_ips.push(IpAddr::V6(Self::ADDRESS6));
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            pod_cidrs,
            service_cidrs,
            awaits_more_ranges: false,
            node_ips,
            mtu: None,
            overhead: 0,
            cni_bin_dir: dir.path().join("bin"),
            cni_conf_dir: dir.path().join("conf"),
            data_dir: dir.path().join("data"),
            plugin: None,
        };
        Prepared { namespace, outside, dir, config }
    }

    pub(crate) fn new(pod_cidrs: &str) -> Self {
        Self::prepare(pod_cidrs).into_node()
    }

    /// The plugin's configuration as the runtime hands it over.
    pub(crate) fn conf(&self, version: &str) -> String {
        let conflist = fs::read_to_string(self.config.cni_conf_dir.join(CONFLIST_NAME)).unwrap();
        let mut conf: Value = serde_json::from_str::<Value>(&conflist).unwrap()["plugins"][0].take();
        conf["cniVersion"] = version.into();
        conf["name"] = "skep".into();
        conf.to_string()
    }

    /// One call of the plugin, in the node's namespace; `Null` when it answers nothing.
    pub(crate) fn respond(
        &self,
        command: &str,
        container: &str,
        interface: &str,
        namespace: Option<&Path>,
        conf: &str,
    ) -> Result<Value, Value> {
        let environment = Environment {
            command: command.to_owned(),
            container: container.to_owned(),
            namespace: namespace.unwrap_or(Path::new("")).to_owned(),
            interface: interface.to_owned(),
        };
        let parse = |text: String| match text.as_str() {
            "" => Value::Null,
            text => serde_json::from_str(text).unwrap(),
        };
        self.namespace.run(|| respond(&environment, conf)).map(parse).map_err(parse)
    }

    pub(crate) fn call_as(
        &self,
        version: &str,
        command: &str,
        container: &str,
        namespace: Option<&Path>,
    ) -> Result<Value, Value> {
        self.respond(command, container, "eth0", namespace, &self.conf(version))
    }

    pub(crate) fn call(&self, command: &str, container: &str, namespace: Option<&Path>) -> Result<Value, Value> {
        self.call_as("1.0.0", command, container, namespace)
    }

    pub(crate) fn add(&self, container: &str) -> Pod {
        let namespace = Namespace::bare();
        let result = self.call("ADD", container, Some(&namespace.path)).unwrap();
        let address = |n: usize| {
            let told: IpNet = result["ips"][n]["address"].as_str()?.parse().unwrap();
            assert_eq!(told.prefix_len(), told.max_prefix_len());
            Some(told.addr())
        };
        Pod { address: address(0).unwrap(), second: address(1), namespace }
    }

    pub(crate) fn delete(&self, container: &str, namespace: Option<&Path>) {
        self.call("DEL", container, namespace).unwrap();
    }

    pub(crate) fn reconcile(&self) -> Reconciled {
        self.namespace.run(|| self.network.reconcile().unwrap())
    }

    pub(crate) fn teardown(&mut self) {
        self.namespace.run(|| Network::setup(self.config.clone()).unwrap().teardown().unwrap());
    }

    /// Links, addresses, routes and lasting neighbours of the node, without what numbers them.
    pub(crate) fn inventory(&self) -> String {
        inventory(&self.namespace)
    }
}

fn inventory(namespace: &Namespace) -> String {
    let names = |text: String| {
        // "7: name@if3: <FLAGS>" -> "name up": indices differ each time.
        let mut lines: Vec<String> = text
            .lines()
            .map(|line| {
                let mut words = line.split_whitespace().skip(1);
                let name = words
                    .next()
                    .unwrap_or_default()
                    .split('@')
                    .next()
                    .unwrap_or_default()
                    .trim_end_matches(':')
                    .to_owned();
                // Whether the carrier was noticed yet is the kernel's affair.
                let up = words.next().unwrap_or_default().contains(",UP");
                format!("{name} {}", if up { "up" } else { "down" })
            })
            .collect();
        lines.sort();
        lines.join("\n")
    };
    let sorted = |text: String| {
        let mut lines: Vec<&str> = text.lines().map(|line| line.trim().trim_end_matches(" linkdown")).collect();
        lines.sort_unstable();
        lines.join("\n")
    };
    [
        names(namespace.ip("-oneline link show")),
        sorted(namespace.ip("-4 route show table all")),
        sorted(namespace.ip("-4 neigh show nud permanent")),
        sorted(namespace.ip("-6 route show table main")),
        sorted(namespace.ip("-6 neigh show nud permanent")),
    ]
    .join("\n--\n")
}

/// Sends a word from one namespace to `address` in another and back; returns the sender's address as the receiver saw it.
pub(crate) fn exchange(from: &Namespace, to: &Namespace, address: impl Into<IpAddr>) -> String {
    let address = address.into();
    let any = if address.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let listener = to.run(|| TcpListener::bind((any, 0)).unwrap());
    let port = listener.local_addr().unwrap().port();
    std::thread::scope(|scope| {
        let server = scope.spawn(move || {
            let (mut stream, peer) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut word = [0; 4];
            stream.read_exact(&mut word).unwrap();
            stream.write_all(&word).unwrap();
            peer.ip().to_string()
        });
        from.run(|| {
            let target = SocketAddr::from((address, port));
            let mut stream = TcpStream::connect_timeout(&target, PATIENCE)
                .unwrap_or_else(|error| panic!("connect to {target}: {error}"));
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(b"ping").unwrap();
            let mut word = [0; 4];
            stream.read_exact(&mut word).unwrap();
            assert_eq!(&word, b"ping");
        });
        server.join().unwrap()
    })
}
