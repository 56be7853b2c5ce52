//! The object with maps of its own (nothing pinned), in a network namespace of the test's thread.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Command,
};

use aya::{
    Ebpf, EbpfLoader, Pod, TestRun as _,
    maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray, lpm_trie::Key},
    programs::{ProgramError, SchedClassifier, TestRunOptions, Xdp, xdp::XdpMode},
};
use nix::sched::{CloneFlags, unshare};
use skep_ebpf_common::{
    AddressValue, BackendValue, FrontendKey, FrontendValue, Segment, ServiceValue, SlotKey, SlotValue, SourceRange,
    address, address_bits,
    conntrack::{Flow, Node, Reply, Tuple, inside},
    dsr::LocalKey,
    kind,
    load::LoadKey,
    packet::{self, Device, Drop},
    port, service_flags,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SKEP_EBPF_OBJECT"));

pub(crate) const NEXT: u32 = u32::MAX;
pub(crate) const SHOT: u32 = 2;
pub(crate) const REDIRECT: u32 = 7;

/// Addresses on the test's network, by family: of the node, of a client, of a pod here, of a pod elsewhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Net {
    pub(crate) node: &'static str,
    pub(crate) client: &'static str,
    pub(crate) here: &'static str,
    pub(crate) there: &'static str,
}

impl Net {
    /// The shortest frame of this family that the kernel runs a program on: an Ethernet and an IP header.
    pub(crate) fn shortest(&self) -> usize {
        if self.node.starts_with('[') { 54 } else { 34 }
    }
}

pub(crate) const IP4: Net =
    Net { node: "192.0.2.1:30080", client: "192.0.2.9:4321", here: "10.1.0.5:8080", there: "10.2.0.5:8080" };
pub(crate) const IP6: Net =
    Net { node: "[2001:db8::1]:30080", client: "[2001:db8::9]:4321", here: "[fd01::5]:8080", there: "[fd02::5]:8080" };

pub(crate) struct Rig {
    ebpf: Ebpf,
    pub(crate) device: u32,
    pub(crate) pod: u32,
    next: u32,
    counts: bool,
}

impl Rig {
    /// With a device of the node and one of a pod, and routes.
    pub(crate) fn new() -> Self {
        let mut rig = Self::bare();
        for (name, addresses) in [("out0", ["192.0.2.1/24", "2001:db8::1/64"]), ("pod0", ["10.1.0.1/24", "fd01::1/64"])]
        {
            ip(&format!("link add name {name} address 02:00:00:00:00:01 type veth peer name {name}-peer"));
            ip(&format!("link set {name} up"));
            ip(&format!("link set {name}-peer up"));
            for address in addresses {
                ip(&format!("address add {address} dev {name} {}", if address.contains(':') { "nodad" } else { "" }));
            }
        }
        ip("route add 10.2.0.0/24 via 192.0.2.2");
        ip("-6 route add fd02::/64 via 2001:db8::2");
        (rig.device, rig.pod) = (ifindex("out0"), ifindex("pod0"));
        rig
    }

    /// In a namespace without devices.
    pub(crate) fn bare() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test loads programs into the kernel: run it as root");
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        Self { ebpf: object(0), device: 0, pod: 0, next: 1, counts: false }
    }

    /// The same, with programs that count open connections and choose by them.
    pub(crate) fn counting(self) -> Self {
        Self { ebpf: object(1), counts: true, ..self }
    }

    /// Do the programs count open connections?
    pub(crate) fn counts(&self) -> bool {
        self.counts
    }

    /// Says how many connections a backend has.
    pub(crate) fn set_load(&mut self, backend: &str, count: u64) {
        let at: SocketAddr = backend.parse().unwrap();
        self.map("LOADS").insert(LoadKey::new(words(at.ip()), port(at.port())), count, 0).unwrap();
    }

    /// How many connections a backend has.
    pub(crate) fn load(&mut self, backend: &str) -> u64 {
        let at: SocketAddr = backend.parse().unwrap();
        self.map::<_, u64>("LOADS").get(&LoadKey::new(words(at.ip()), port(at.port())), 0).unwrap_or(0)
    }

    /// Runs a program on a frame that came in by the device it is for; its verdict, and the frame as it leaves it.
    pub(crate) fn run(&mut self, name: &str, frame: &[u8]) -> (u32, Vec<u8>) {
        self.run_merged(name, frame, 0)
    }

    /// The same with a frame that stands for segments of so many bytes each.
    pub(crate) fn run_merged(&mut self, name: &str, frame: &[u8], segment: u32) -> (u32, Vec<u8>) {
        let device = if name == "from_pod" { self.pod } else { self.device };
        // `struct __sk_buff`, of which only ifindex and gso_size are set.
        let mut context = [0_u8; 192];
        context[40..44].copy_from_slice(&device.to_ne_bytes());
        context[176..180].copy_from_slice(&segment.to_ne_bytes());
        let mut out = vec![0; frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        options.ctx_in = Some(&context);
        let result = program(&mut self.ebpf, name).test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        (result.return_value, out)
    }

    /// Puts the fast lane on a device, which [`Self::run_on_wire`] needs: the kernel knows a place of reception then.
    pub(crate) fn on_the_wire(&mut self, device: &str) {
        let program: &mut Xdp = self.ebpf.program_mut("from_wire").unwrap().try_into().unwrap();
        if program.fd().is_err() {
            program.load().unwrap();
        }
        program.attach(device, XdpMode::Driver).unwrap();
    }

    /// Runs the fast lane on a frame that came in by the node's device; its verdict, and the frame as it leaves it.
    pub(crate) fn run_on_wire(&mut self, frame: &[u8]) -> (u32, Vec<u8>) {
        // `struct xdp_md`: no metadata, the length, the device, its first queue.
        let mut context = [0_u8; 24];
        context[4..8].copy_from_slice(&(frame.len() as u32).to_ne_bytes());
        context[12..16].copy_from_slice(&self.device.to_ne_bytes());
        let mut out = vec![0; frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        options.ctx_in = Some(&context);
        let program: &mut Xdp = self.ebpf.program_mut("from_wire").unwrap().try_into().unwrap();
        let result = program.test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        (result.return_value, out)
    }

    /// Says what is known of a device that has the fast lane.
    pub(crate) fn set_device(&mut self, name: &str, device: Device) {
        self.map("DEVICES").insert(ifindex(name), device, 0).unwrap();
    }

    /// How many packets were forwarded that way.
    pub(crate) fn forwarded(&mut self, path: packet::Path) -> u64 {
        let map = PerCpuArray::<_, u64>::try_from(self.ebpf.map("PACKET_PATHS").unwrap()).unwrap();
        map.get(&(path as u32), 0).unwrap().iter().sum()
    }

    pub(crate) fn map<K: Pod, V: Pod>(&mut self, name: &str) -> HashMap<&mut MapData, K, V> {
        HashMap::try_from(self.ebpf.map_mut(name).unwrap()).unwrap()
    }

    /// Pins every map under its name. (A BPF file system allows no dot in a name: the object's own data stays out.)
    pub(crate) fn pin(&self, folder: &Path) {
        for (name, map) in self.ebpf.maps().filter(|(name, _)| !name.contains('.')) {
            map.pin(folder.join(name)).unwrap();
        }
    }

    pub(crate) fn program(&mut self, name: &str) -> &mut SchedClassifier {
        program(&mut self.ebpf, name)
    }

    pub(crate) fn flows(&mut self) -> Vec<(Tuple, Flow)> {
        self.map("FLOWS").iter().map(Result::unwrap).collect()
    }

    pub(crate) fn replies(&mut self) -> Vec<(Tuple, Reply)> {
        self.map("REPLIES").iter().map(Result::unwrap).collect()
    }

    pub(crate) fn forget(&mut self) {
        for (key, _) in self.flows() {
            self.map::<Tuple, Flow>("FLOWS").remove(&key).unwrap();
        }
        for (key, _) in self.replies() {
            self.map::<Tuple, Reply>("REPLIES").remove(&key).unwrap();
        }
    }

    pub(crate) fn set_node(&mut self, node: Node) {
        Array::try_from(self.ebpf.map_mut("NODE").unwrap()).unwrap().set(0, node, 0).unwrap();
    }

    /// Sets the word by which programs know whether a flow may begin.
    pub(crate) fn set_tracking(&mut self, word: u32) {
        Array::try_from(self.ebpf.map_mut("TRACKING").unwrap()).unwrap().set(0, word, 0).unwrap();
    }

    /// How many packets were dropped for that reason.
    pub(crate) fn drops(&mut self, reason: Drop) -> u64 {
        let map = PerCpuArray::<_, u64>::try_from(self.ebpf.map("PACKET_DROPS").unwrap()).unwrap();
        map.get(&(reason as u32), 0).unwrap().iter().sum()
    }

    /// Serves a frontend of that kind with backends (and whether each is on this node); the ids of service and backends.
    pub(crate) fn serve(&mut self, at: &str, protocol: u8, kind: u32, backends: &[(&str, bool)]) -> (u32, Vec<u32>) {
        let service = self.take();
        let at: SocketAddr = at.parse().unwrap();
        let own = words(at.ip());
        let bits = if kind == kind::NODE_PORT { address_bits::NODE } else { address_bits::PARTIAL };
        let listens = if kind == kind::NODE_PORT { skep_ebpf_common::unspecified(&own) } else { own };
        let ids = self.set_backends(service, 0, backends);
        let key = FrontendKey::new(listens, port(at.port()), protocol);
        self.map("FRONTENDS").insert(key, FrontendValue::sealed(&key, service, kind), 0).unwrap();
        self.map::<[u32; 4], AddressValue>("ADDRESSES")
            .insert(own, AddressValue { bits, ..AddressValue::default() }, 0)
            .unwrap();
        (service, ids)
    }

    /// Gives a service other backends; those it had are gone afterwards.
    pub(crate) fn set_backends(&mut self, service: u32, flags: u32, backends: &[(&str, bool)]) -> Vec<u32> {
        let old: Vec<u32> = self
            .map::<u32, BackendValue>("BACKENDS")
            .iter()
            .map(Result::unwrap)
            .filter(|(_, backend)| backend.service == service)
            .map(|(id, _)| id)
            .collect();
        let generation = self.take();
        let mut ids = Vec::new();
        for (slot, (backend, local)) in backends.iter().enumerate() {
            let id = self.take();
            let backend: SocketAddr = backend.parse().unwrap();
            let flags = if *local { BackendValue::LOCAL } else { 0 };
            let value = BackendValue::sealed(id, service, words(backend.ip()), port(backend.port()), flags);
            self.map("BACKENDS").insert(id, value, 0).unwrap();
            if *local {
                let key = LocalKey { address: value.address, service, port: value.port, pad: 0 };
                self.map("LOCALS").insert(key, id, 0).unwrap();
            }
            let key = SlotKey { service, generation, slot: slot as u32 };
            self.map("SLOTS").insert(key, SlotValue::sealed(&key, id), 0).unwrap();
            ids.push(id);
        }
        let all = Segment { start: 0, count: backends.len() as u32 };
        let external = if flags & service_flags::EXTERNAL_LOCAL != 0 {
            // Tests list local backends first.
            Segment { start: 0, count: backends.iter().filter(|(_, local)| *local).count() as u32 }
        } else {
            all
        };
        let any = if backends.is_empty() { 0 } else { service_flags::HAS_ANY };
        let value = ServiceValue {
            generation,
            cluster: all,
            internal: all,
            external,
            flags: flags | any,
            ..Default::default()
        };
        self.map("SERVICES").insert(service, value.sealed(service), 0).unwrap();
        for id in old {
            self.map::<u32, BackendValue>("BACKENDS").remove(&id).unwrap();
        }
        ids
    }

    /// Lets a service be reached from that address only.
    pub(crate) fn restrict(&mut self, service: u32, to: &str) {
        let mut map: LpmTrie<_, SourceRange, u32> =
            LpmTrie::try_from(self.ebpf.map_mut("SOURCE_RANGES").unwrap()).unwrap();
        map.insert(&Key::new(160, SourceRange { service, address: words(to.parse().unwrap()) }), 1, 0).unwrap();
    }

    /// Says that addresses of a range are the cluster's own.
    pub(crate) fn inside(&mut self, address: &str, length: u32) {
        let address: IpAddr = address.parse().unwrap();
        let length = if address.is_ipv4() { 96 + length } else { length };
        self.inside_as(address, length, inside::RANGE);
    }

    /// Says that it is the address of a node.
    pub(crate) fn is_node(&mut self, address: IpAddr) {
        self.inside_as(address, 128, inside::NODE);
    }

    fn inside_as(&mut self, address: IpAddr, length: u32, what: u32) {
        let mut map: LpmTrie<_, [u32; 4], u32> = LpmTrie::try_from(self.ebpf.map_mut("INSIDE").unwrap()).unwrap();
        map.insert(&Key::new(length, words(address)), what, 0).unwrap();
    }

    fn take(&mut self) -> u32 {
        self.next += 1;
        self.next
    }
}

fn object(least_connections: u8) -> Ebpf {
    let mut loader = EbpfLoader::new();
    for map in ["FRONTENDS", "ADDRESSES", "SERVICES", "SLOTS", "BACKENDS", "FLOWS", "REPLIES", "LOADS", "CONNECTED"] {
        loader.map_max_entries(map, 1024);
    }
    loader.override_global("LEAST_CONNECTIONS", &least_connections, true);
    loader.load(OBJECT).unwrap()
}

/// A program, loaded when first asked for: the verifier takes a second for each.
fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    let program: &mut SchedClassifier = ebpf.program_mut(name).unwrap().try_into().unwrap();
    if program.fd().is_err() {
        // The verifier gives up with EAGAIN when a signal comes, as of a child of another test's thread.
        let interrupted = |result: &Result<(), ProgramError>| matches!(result, Err(ProgramError::LoadError { io_error, .. }) if io_error.kind() == ErrorKind::WouldBlock);
        let mut result = program.load();
        for _ in 0..4 {
            if interrupted(&result) {
                result = program.load();
            }
        }
        result.unwrap();
    }
    program
}

/// An address as the maps keep it.
pub(crate) fn words(ip: IpAddr) -> [u32; 4] {
    let ip = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    address(ip.octets())
}

pub(crate) fn ip(command: &str) {
    let output = Command::new("ip").args(command.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Switches an offload (`gro` or `tx`) of a device of this thread's namespace, as `ethtool -K` does (`SIOCETHTOOL`).
pub(crate) fn offload(device: &str, which: &str, on: bool) {
    let switch = if on { "on" } else { "off" };
    let done = Command::new("ethtool").args(["-K", device, which, switch]).output().expect("this test needs ethtool");
    assert!(done.status.success(), "ethtool {device} {which}: {}", String::from_utf8_lossy(&done.stderr));
}

/// The number of a device in this thread's namespace.
fn ifindex(name: &str) -> u32 {
    let output = Command::new("ip").args(["-o", "link", "show", "dev", name]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split(':').next().unwrap().trim().parse().unwrap()
}
