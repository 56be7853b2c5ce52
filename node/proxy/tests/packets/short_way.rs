//! Real traffic between pods of one node, past its stack or through it as they are open or closed.
//!
//! ```text
//! pod a 10.1.1.5 --- poda 10.1.1.1 [node: the test's thread] podb 10.1.2.1 --- pod b 10.1.2.5
//! ```

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{FromRawFd as _, OwnedFd},
    process::Command,
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, unshare};
use skep_proxy::{
    MapSizes, Proxy,
    devices::{Devices, Settings},
    direct::{HostRouting, Open, PodDevice},
};
use tempfile::TempDir;

use crate::{
    craft::{UDP, read_ip},
    rig::ip,
    traffic::Namespace,
};

/// How many packets an exchange has at least, each way.
const MANY: usize = 200;

/// A pod's device of another name is nobody's.
fn is_pod(name: &str) -> bool {
    name.starts_with("pod")
}

struct Node {
    dir: TempDir,
    devices: Devices,
    routing: HostRouting,
}

impl Node {
    fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test loads programs into the kernel: run it as root");
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("bpf");
        let devices = Devices::open(&root, &MapSizes::default(), Settings { is_pod, ..Settings::default() }).unwrap();
        Self { dir, devices, routing: HostRouting::new(&root, true) }
    }

    /// Attaches the programs, and tells of the pods behind these devices.
    fn tell(&mut self, pods: &[&Pod]) {
        self.devices.reconcile(&[], false).unwrap();
        self.routing.set_pods(pods.iter().map(|pod| pod.device()).collect(), true).unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = Proxy::cleanup(&self.dir.path().join("bpf")) {
            eprintln!("cannot clean up {}: {error}", self.dir.path().display());
        }
    }
}

pub(crate) struct Pod {
    pub(crate) namespace: Namespace,
    host: String,
    pub(crate) addresses: [IpAddr; 2],
}

impl Pod {
    /// With the addresses `10.1.N.5` and `fd01:N::5`. What it sends must come from them.
    pub(crate) fn new(host: &str, number: u8) -> Self {
        Self::with_index(host, number, None)
    }

    /// With that number of the node's end.
    fn with_index(host: &str, number: u8, index: Option<u32>) -> Self {
        let here = [format!("10.1.{number}.1/24"), format!("fd01:{number}::1/64")];
        let there = [format!("10.1.{number}.5/24"), format!("fd01:{number}::5/64")];
        let namespace =
            Namespace::with_index(host, index, here.each_ref().map(|s| &**s), there.each_ref().map(|s| &**s));
        for (family, gateway) in [("-4", &here[0]), ("-6", &here[1])] {
            let gateway = gateway.split('/').next().unwrap();
            ip(&format!("-n {} {family} route add default via {gateway}", namespace.name()));
        }
        fs::write(format!("/proc/sys/net/ipv4/conf/{host}/rp_filter"), "1").unwrap();
        let addresses = there.map(|address| address.split('/').next().unwrap().parse().unwrap());
        Self { namespace, host: host.to_owned(), addresses }
    }

    pub(crate) fn device(&self) -> PodDevice {
        let (index, mac) = link("", &self.host);
        let (_, pod_mac) = link(&format!("-n {} ", self.namespace.name()), "eth0");
        PodDevice { index, addresses: self.addresses.to_vec(), mtu: 1500, pod_mac, mac, is_limited: false }
    }

    fn places(&self) -> BTreeSet<(u32, IpAddr)> {
        let index = self.device().index;
        self.addresses.iter().map(|address| (index, *address)).collect()
    }

    /// How many packets the node's end has sent to the pod, by its own count.
    pub(crate) fn sent(&self) -> usize {
        sent(&self.host)
    }
}

/// How many packets a device of this thread's namespace has sent.
pub(crate) fn sent(device: &str) -> usize {
    let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = text.lines().find_map(|line| line.trim().strip_prefix(&format!("{device}:"))).unwrap();
    line.split_whitespace().nth(9).unwrap().parse().unwrap()
}

/// Number and hardware address of a device.
pub(crate) fn link(netns: &str, name: &str) -> (u32, [u8; 6]) {
    let command = format!("{netns}-o link show dev {name}");
    let output = Command::new("ip").args(command.split_whitespace()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mac = text.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
    let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    (text.split(':').next().unwrap().parse().unwrap(), bytes.try_into().unwrap())
}

/// Many datagrams there and back, and a lot of bytes over TCP one way.
fn exchange(from: &Pod, to: &Pod) {
    for place in 0..2 {
        let at = SocketAddr::from((to.addresses[place], 0));
        let (tcp, udp) =
            to.namespace.run(move || (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap())).join().unwrap();
        let (tcp_at, udp_at) = (tcp.local_addr().unwrap(), udp.local_addr().unwrap());
        udp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let echo = thread::spawn(move || {
            let mut buffer = [0; 2048];
            for _ in 0..MANY {
                let (length, from) = udp.recv_from(&mut buffer).unwrap();
                udp.send_to(&buffer[..length], from).unwrap();
            }
        });
        let bytes: Vec<u8> = (0..4 << 20).map(|place: u32| (place % 251) as u8).collect();
        let sent = bytes.clone();
        from.namespace
            .run(move || {
                let socket = UdpSocket::bind(if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
                socket.connect(udp_at).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                for number in 0..MANY {
                    let text = number.to_string();
                    socket.send(text.as_bytes()).unwrap();
                    let mut buffer = [0; 2048];
                    let length = socket.recv(&mut buffer).unwrap();
                    assert_eq!(&buffer[..length], text.as_bytes());
                }
                TcpStream::connect_timeout(&tcp_at, Duration::from_secs(5)).unwrap()
            })
            .join()
            .map(|mut stream| thread::spawn(move || stream.write_all(&sent).unwrap()))
            .unwrap();
        let mut received = Vec::new();
        let (mut stream, peer) = tcp.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.read_to_end(&mut received).unwrap();
        assert_eq!(peer.ip(), from.addresses[place]);
        assert!(received == bytes, "{} bytes came, not those that were sent", received.len());
        echo.join().unwrap();
    }
}

/// How many packets the ends of a pod's device saw of an exchange with it.
fn seen(from: &Pod, to: &Pod) -> [usize; 2] {
    let before = [from.sent(), to.sent()];
    exchange(from, to);
    [from.sent() - before[0], to.sent() - before[1]]
}

/// Neighbours are asked for by the way.
const FEW: usize = MANY / 4;

#[test]
fn open_pods_are_reached_past_the_nodes_stack_and_closed_ones_through_it() {
    let mut node = Node::new();
    let (a, b) = (Pod::new("poda", 1), Pod::new("podb", 2));
    node.tell(&[&a, &b]);
    let through = seen(&a, &b);
    assert!(through.iter().all(|count| *count >= 2 * MANY), "nobody has said that they are open: {through:?}");

    node.routing.open(Open::All).unwrap();
    let past = seen(&a, &b);
    assert!(past.iter().all(|count| *count < FEW), "{past:?}");

    // One of them is to be isolated: what is for it passes the egress of its device again, at once.
    node.routing.close_all_but(&a.places()).unwrap();
    let [to_a, to_b] = seen(&a, &b);
    assert!(to_a < FEW && to_b >= 2 * MANY, "{to_a} {to_b}");

    // A daemon that comes back leaves it so until it is told.
    node.routing = HostRouting::new(&node.dir.path().join("bpf"), true);
    node.tell(&[&a, &b]);
    let [to_a, to_b] = seen(&a, &b);
    assert!(to_a < FEW && to_b >= 2 * MANY, "{to_a} {to_b}");
    node.routing.open(Open::Only(b.places())).unwrap();
    let [to_a, to_b] = seen(&a, &b);
    assert!(to_a >= 2 * MANY && to_b < FEW, "{to_a} {to_b}");

    // A queue that limits what b receives.
    let limited = PodDevice { is_limited: true, ..b.device() };
    node.routing.set_pods(vec![a.device(), limited], true).unwrap();
    node.routing.open(Open::All).unwrap();
    let [to_a, to_b] = seen(&a, &b);
    assert!(to_a < FEW && to_b >= 2 * MANY, "{to_a} {to_b}");

    // Switched off.
    node.routing = HostRouting::new(&node.dir.path().join("bpf"), false);
    node.tell(&[&a, &b]);
    node.routing.open(Open::All).unwrap();
    let through = seen(&a, &b);
    assert!(through.iter().all(|count| *count >= 2 * MANY), "{through:?}");
}

/// A socket that gets every frame of this thread's namespace. (Receiving works as with UDP.)
fn every_frame() -> UdpSocket {
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: the call has no pointers, and the descriptor is nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_PACKET, libc::SOCK_RAW, protocol.into())) };
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

#[test]
fn a_pod_sees_frames_for_itself_with_one_hop_less() {
    let mut node = Node::new();
    let (a, b) = (Pod::new("poda", 1), Pod::new("podb", 2));
    node.tell(&[&a, &b]);
    node.routing.open(Open::All).unwrap();
    let (ready, is_ready) = mpsc::channel();
    let listener = b.namespace.run(move || {
        let all = every_frame();
        ready.send(()).unwrap();
        let mut frames = Vec::new();
        while frames.len() < 2 {
            let mut buffer = [0; 2048];
            let length = all.recv(&mut buffer).unwrap();
            let frame = &buffer[..length];
            if matches!(frame[12..14], [8, 0] | [0x86, 0xdd]) && read_ip(&frame[14..]).0.protocol == UDP {
                frames.push(frame.to_vec());
            }
        }
        frames
    });
    is_ready.recv().unwrap();
    for address in b.addresses {
        let to = SocketAddr::from((address, 9));
        a.namespace
            .run(move || {
                let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
                socket.send_to(b"here", to).unwrap();
            })
            .join()
            .unwrap();
    }
    let device = b.device();
    for frame in listener.join().unwrap() {
        assert_eq!((&frame[..6], &frame[6..12]), (&device.pod_mac[..], &device.mac[..]));
        assert_eq!(read_ip(&frame[14..]).0.ttl, 63);
    }
}

/// What a socket in the pod hears of a datagram that `from` sends to that address, from a source of its choice.
fn heard(from: &Pod, source: SocketAddr, by: &Pod, to: IpAddr) -> bool {
    let socket = by.namespace.run(|| UdpSocket::bind("[::]:0").unwrap()).join().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let to = SocketAddr::from((to, socket.local_addr().unwrap().port()));
    from.namespace.run(move || UdpSocket::bind(source).unwrap().send_to(b"hear", to)).join().unwrap().unwrap();
    socket.recv(&mut [0; 16]).is_ok()
}

#[test]
fn a_pod_cannot_speak_as_another_one() {
    let mut node = Node::new();
    let (a, b, c) = (Pod::new("poda", 1), Pod::new("podb", 2), Pod::new("podc", 3));
    node.tell(&[&a, &b, &c]);
    node.routing.open(Open::All).unwrap();
    for address in ["10.1.3.5/32", "fd01:3::5/128", "10.1.77.5/32"] {
        ip(&format!("-n {} address add {address} dev lo", a.namespace.name()));
    }
    let any = |address: IpAddr| SocketAddr::from((address, 0));
    let before = b.sent();
    for place in 0..2 {
        assert!(heard(&a, any(a.addresses[place]), &b, b.addresses[place]));
        assert!(heard(&c, any(c.addresses[place]), &b, b.addresses[place]));
    }
    assert!(b.sent() - before < 4, "past the node's stack");
    // The stack's reverse path filter has its word. (IPv6 has none: there the packet only must not go past the stack.)
    assert!(!heard(&a, any(c.addresses[0]), &b, b.addresses[0]));
    assert!(!heard(&a, any("10.1.77.5".parse().unwrap()), &b, b.addresses[0]));
    let before = b.sent();
    let got_through = heard(&a, any(c.addresses[1]), &b, b.addresses[1]);
    assert!(!got_through || b.sent() > before, "it went past the node's stack");
}

#[test]
fn a_device_that_takes_the_number_of_another_gets_nothing_for_it() {
    let mut node = Node::new();
    let (a, b) = (Pod::new("poda", 1), Pod::new("podb", 2));
    node.tell(&[&a, &b]);
    node.routing.open(Open::All).unwrap();
    let any = |address: IpAddr| SocketAddr::from((address, 0));
    assert!(heard(&a, any(a.addresses[0]), &b, b.addresses[0]));

    // The pod goes, another one gets its device's number, and nobody has noticed yet.
    let (index, old) = (b.device().index, b.addresses);
    ip("link delete podb");
    drop(b);
    let c = Pod::with_index("podc", 3, Some(index));
    assert_eq!(c.device().index, index);
    for (own, gone) in a.addresses.into_iter().zip(old) {
        assert!(!heard(&a, any(own), &c, gone));
    }
    node.tell(&[&a, &c]);
    node.routing.open(Open::All).unwrap();
    let before = c.sent();
    for place in 0..2 {
        assert!(heard(&a, any(a.addresses[place]), &c, c.addresses[place]));
    }
    assert!(c.sent() - before < 4, "past the node's stack");
}
