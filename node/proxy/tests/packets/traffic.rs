//! Real traffic between network namespaces: client -- node -- pod, and node -- pod of another node.
//!
//! ```text
//! client 192.0.2.9 --- out0 192.0.2.1 [node: the test's thread] pod0 10.1.0.1 --- pod here 10.1.0.5
//!                                                        other0 198.51.100.1 --- pod there 10.2.0.5
//! ```

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread::{self, JoinHandle},
    time::Duration,
};

use aya::programs::{LinkOrder, TcAttachType, tc::TcAttachOptions};
use nix::sched::{CloneFlags, setns};
use skep_ebpf_common::kind;

use crate::{
    craft::{TCP, UDP},
    rig::{Net, Rig, ip},
};

const PATIENCE: Option<Duration> = Some(Duration::from_secs(5));

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A named network namespace, deleted with this value.
pub(crate) struct Namespace(String);

impl Namespace {
    /// Joined to nothing.
    pub(crate) fn empty() -> Self {
        let name = format!("skeptc{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        ip(&format!("netns add {name}"));
        ip(&format!("-n {name} link set lo up"));
        Self(name)
    }

    /// Joined to this thread's namespace by a pair of devices: `host` here with `addresses`, `eth0` there.
    pub(crate) fn new(host: &str, here: [&str; 2], there: [&str; 2]) -> Self {
        Self::with_index(host, None, here, there)
    }

    /// The same; the device here has that number.
    pub(crate) fn with_index(host: &str, index: Option<u32>, here: [&str; 2], there: [&str; 2]) -> Self {
        let name = format!("skeptc{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        ip(&format!("netns add {name}"));
        let this = Self(name);
        let name = &this.0;
        let index = index.map(|index| format!("index {index}")).unwrap_or_default();
        ip(&format!("link add name {host} {index} type veth peer name eth0 netns {name}"));
        ip(&format!("link set {host} up"));
        ip(&format!("-n {name} link set lo up"));
        ip(&format!("-n {name} link set eth0 up"));
        for (at, to) in here.into_iter().zip(there) {
            let nodad = if at.contains(':') { "nodad" } else { "" };
            ip(&format!("address add {at} dev {host} {nodad}"));
            ip(&format!("-n {name} address add {to} dev eth0 {nodad}"));
        }
        this
    }

    /// What `ip` calls it.
    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// Runs something there.
    pub(crate) fn run<T: Send + 'static>(&self, task: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let namespace = File::open(format!("/run/netns/{}", self.0)).unwrap();
        thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            task()
        })
    }

    /// Answers there at that address, over TCP and UDP, with the client's address as seen; ready when this returns.
    pub(crate) fn answer(&self, at: &str) {
        let at: SocketAddr = at.parse().unwrap();
        let (tcp, udp) =
            self.run(move || (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap())).join().unwrap();
        thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                let text = format!("{at} {}", stream.peer_addr().unwrap());
                let _ = stream.write_all(text.as_bytes());
            }
        });
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let (length, from) = udp.recv_from(&mut buffer).unwrap();
                // As long as what came, so that big datagrams are answered with big ones.
                let mut text = format!("{at} {from} {length}").into_bytes();
                text.resize(length.max(text.len()), b' ');
                let _ = udp.send_to(&text, from);
            }
        });
    }

    /// What a connection from there is told.
    pub(crate) fn tcp(&self, to: &str) -> Result<String, ErrorKind> {
        let to: SocketAddr = to.parse().unwrap();
        self.run(move || {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).map_err(|error| error.kind())?;
            stream.set_read_timeout(PATIENCE).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).map_err(|error| error.kind())?;
            Ok(text)
        })
        .join()
        .unwrap()
    }

    /// What a datagram of that length from a connected socket there is told. (Such a socket hears nobody else.)
    pub(crate) fn udp(&self, to: &str, length: usize) -> Result<String, ErrorKind> {
        let to: SocketAddr = to.parse().unwrap();
        self.run(move || {
            let socket = UdpSocket::bind(if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
            socket.set_read_timeout(PATIENCE).unwrap();
            socket.connect(to).unwrap();
            socket.send(&vec![b'x'; length]).unwrap();
            let mut buffer = [0; 4096];
            let length = socket.recv(&mut buffer).map_err(|error| error.kind())?;
            Ok(String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned())
        })
        .join()
        .unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

#[test]
fn clients_reach_pods_here_and_elsewhere_through_a_node_port() {
    let mut rig = Rig::bare();
    let client = Namespace::new("out0", ["192.0.2.1/24", "2001:db8::1/64"], ["192.0.2.9/24", "2001:db8::9/64"]);
    let here = Namespace::new("pod0", ["10.1.0.1/24", "fd01::1/64"], ["10.1.0.5/24", "fd01::5/64"]);
    let there = Namespace::new("other0", ["198.51.100.1/24", "fd09::1/64"], ["198.51.100.2/24", "fd09::2/64"]);
    for (namespace, routes) in [
        (&here, [" route add 192.0.2.0/24 via 10.1.0.1", " -6 route add 2001:db8::/64 via fd01::1"]),
        // The other node knows this one, but not its clients: untranslated packets would find no way back.
        (&there, [" route add 192.0.2.1/32 via 198.51.100.1", " -6 route add 2001:db8::1/128 via fd09::1"]),
    ] {
        for route in routes {
            ip(&format!("-n {}{route}", namespace.0));
        }
    }
    for address in ["10.2.0.5/32", "fd02::5/128"] {
        ip(&format!("-n {} address add {address} dev lo", there.0));
    }
    ip("route add 10.2.0.0/24 via 198.51.100.2");
    ip("-6 route add fd02::/64 via fd09::2");
    for (device, program) in [("out0", "from_device"), ("other0", "from_device"), ("pod0", "from_pod")] {
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        rig.program(program).attach_with_options(device, TcAttachType::Ingress, options).unwrap();
    }
    for net in [crate::rig::IP4, crate::rig::IP6] {
        here.answer(net.here);
        there.answer(net.there);
        exchange(&mut rig, net, &client);
    }
}

fn exchange(rig: &mut Rig, net: Net, client: &Namespace) {
    let client_address = net.client.parse::<SocketAddr>().unwrap().ip();
    let node_address = net.node.parse::<SocketAddr>().unwrap().ip();
    for (backend, local, seen) in [(net.here, true, client_address), (net.there, false, node_address)] {
        for protocol in [TCP, UDP] {
            rig.serve(net.node, protocol, kind::NODE_PORT, &[(backend, local)]);
        }
        let check = |answer: Result<String, ErrorKind>| {
            let answer = answer.unwrap_or_else(|error| panic!("no answer of {backend}: {error}"));
            let mut words = answer.split(' ');
            assert_eq!(words.next(), Some(backend));
            let from: SocketAddr = words.next().unwrap().parse().unwrap();
            assert_eq!(from.ip(), seen, "the client as {backend} sees it");
        };
        for _ in 0..5 {
            check(client.tcp(net.node));
            check(client.udp(net.node, 64));
        }
        // In pieces, both ways.
        check(client.udp(net.node, 3000));
    }
    // Nobody left: refused, by TCP at once and by ICMP to the socket that sent.
    for protocol in [TCP, UDP] {
        rig.serve(net.node, protocol, kind::NODE_PORT, &[]);
    }
    assert_eq!(client.tcp(net.node), Err(ErrorKind::ConnectionRefused));
    assert_eq!(client.udp(net.node, 64), Err(ErrorKind::ConnectionRefused));
}
