//! What a test stands on: two network namespaces joined by a veth pair, a cgroup, a BPF file system. All of it is the
//! test's own and goes with it.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use skep_proxy::{Config, Family, Frontend, MapSizes, Protocol, Proxy, Service, ServicePort, maps::Reader};
use tempfile::TempDir;

use crate::agent::{Agent, Request};

/// Numbers grounds within a process; the process id tells processes apart.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A place for maps and programs, without a network.
pub(crate) struct Ground {
    dir: TempDir,
    pub(crate) cgroup: PathBuf,
    name: String,
}

impl Ground {
    pub(crate) fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test loads programs into the kernel: run it as root");
        let name = format!("skep{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let cgroup = cgroup2().join(&name);
        fs::create_dir(&cgroup).unwrap();
        Self { dir: tempfile::tempdir().unwrap(), cgroup, name }
    }

    pub(crate) fn bpf_root(&self) -> PathBuf {
        self.dir.path().join("bpf")
    }

    pub(crate) fn config(&self) -> Config {
        // Small maps: the preallocated ones cost kernel memory per test.
        let maps = MapSizes {
            services: 4096,
            backends: 16_384,
            sticky: 4096,
            udp_peers: 4096,
            tcp_peers: 4096,
            connections: 0,
            flows: 4096,
        };
        Config { bpf_root: self.bpf_root(), cgroup_root: Some(self.cgroup.clone()), maps, ..Config::default() }
    }

    pub(crate) fn load(&self) -> Proxy {
        Proxy::load(self.config()).unwrap()
    }

    pub(crate) fn reader(&self) -> Reader {
        Reader::open(&self.bpf_root()).unwrap()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Err(error) = Proxy::cleanup(&self.bpf_root()) {
            eprintln!("cannot clean up {}: {error}", self.bpf_root().display());
        }
        // Processes that just died are still members for a moment.
        for _ in 0..100 {
            if fs::remove_dir(&self.cgroup).is_ok() {
                return;
            }
            #[expect(clippy::disallowed_methods, reason = "no runtime here")]
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        eprintln!("cannot remove {}", self.cgroup.display());
    }
}

/// A ground with a network: clients here, backends there.
pub(crate) struct Network {
    // Dropped in this order: processes before the namespaces and the cgroup they live in.
    pub(crate) client: Agent,
    _server: Agent,
    _namespaces: Namespaces,
    pub(crate) ground: Ground,
}

impl Network {
    /// With so many backends answering, over TCP and UDP.
    pub(crate) fn new(backends: u8) -> Self {
        let ground = Ground::new();
        let namespaces = Namespaces::new(&ground.name);
        let mut server = Agent::start(Some(&namespaces.server), None);
        for n in 0..backends {
            server.ask(&Request::Serve(backend(n).into()));
            server.ask(&Request::Serve(backend6(n).into()));
        }
        let client = Agent::start(Some(&namespaces.client), Some(&ground.cgroup));
        Self { client, _server: server, _namespaces: namespaces, ground }
    }

    /// A process in the client's namespace that is not in the cgroup.
    pub(crate) fn outsider(&self) -> Agent {
        Agent::start(Some(&self._namespaces.client), None)
    }
}

/// The n-th backend's address.
pub(crate) fn backend(n: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 231, 0, 10 + n), 8080)
}

/// The n-th backend's IPv6 address.
pub(crate) fn backend6(n: u8) -> SocketAddrV6 {
    SocketAddrV6::new(Ipv6Addr::new(0xfd00, 231, 0, 0, 0, 0, 0, 10 + u16::from(n)), 8080, 0, 0)
}

/// The IPv6 address tests use.
pub(crate) const VIP6: SocketAddrV6 = SocketAddrV6::new(Ipv6Addr::new(0xfd00, 97, 0, 0, 0, 0, 0, 1), 80, 0, 0);

/// The virtual address most tests use.
pub(crate) const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 97, 0, 1), 80);

/// Name of the service port at that address.
pub(crate) fn port_of(at: impl Into<SocketAddr>, protocol: Protocol) -> ServicePort {
    let at = at.into();
    let name = format!("ns/web:{}-{protocol}", at.to_string().replace(':', "-")).parse().unwrap();
    ServicePort { name, family: Family::of(at.ip()) }
}

/// The service port at that address, with those backends.
pub(crate) fn entry(
    at: impl Into<SocketAddr>,
    protocol: Protocol,
    backends: impl IntoIterator<Item = u8>,
) -> (ServicePort, Service) {
    let at = at.into();
    let frontend = Frontend { address: at.ip(), port: at.port(), protocol };
    let place = |n: u8| if at.is_ipv4() { backend(n).into() } else { backend6(n).into() };
    (port_of(at, protocol), Service::new(frontend, backends.into_iter().map(place)))
}

/// Programs [`entry`]. Returns whether anything was written.
pub(crate) fn apply(
    proxy: &mut Proxy,
    at: impl Into<SocketAddr>,
    protocol: Protocol,
    backends: impl IntoIterator<Item = u8>,
) -> bool {
    let (port, service) = entry(at, protocol, backends);
    proxy.programmer().apply(&port, &service).unwrap()
}

struct Namespaces {
    client: String,
    server: String,
}

impl Namespaces {
    fn new(name: &str) -> Self {
        let both = Self { client: format!("{name}-c"), server: format!("{name}-s") };
        let (client, server) = (both.client.as_str(), both.server.as_str());
        ip(&["netns", "add", client]);
        ip(&["netns", "add", server]);
        ip(&["-n", client, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", server]);
        for (netns, address) in [(client, "10.231.0.1/24"), (server, "10.231.0.2/24")] {
            ip(&["-n", netns, "link", "set", "lo", "up"]);
            ip(&["-n", netns, "address", "add", address, "dev", "eth0"]);
            let six = address.replace("10.231.0.", "fd00:e7::").replace("/24", "/64");
            ip(&["-n", netns, "address", "add", &six, "dev", "eth0", "nodad"]);
            ip(&["-n", netns, "link", "set", "eth0", "up"]);
        }
        for n in 0..8 {
            let address = format!("{}/24", backend(n).ip());
            ip(&["-n", server, "address", "add", &address, "dev", "eth0"]);
            let address = format!("{}/64", backend6(n).ip());
            ip(&["-n", server, "address", "add", &address, "dev", "eth0", "nodad"]);
        }
        both
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in [&self.client, &self.server] {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().expect("iproute2 is needed");
    assert!(status.success(), "ip {arguments:?}");
}

fn cgroup2() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 ")).expect("a cgroup2 file system is needed");
    line.split(' ').nth(4).unwrap().into()
}
