//! Direct server return with real traffic: a client, the node it asks, and the node of the pod, on one Ethernet.
//!
//! ```text
//! client 192.0.2.9 ---+--- 192.0.2.1 [first node: the test's thread]
//!                     +--- 192.0.2.2 [second node] pod0 10.1.0.1 --- pod 10.1.0.5
//! ```

use std::{fs::File, io::ErrorKind, net::UdpSocket, os::fd::AsRawFd, process::Command, time::Duration};

use aya::programs::{LinkOrder, TcAttachType, tc::TcAttachOptions};
use nix::sched::{CloneFlags, setns};
use skep_ebpf_common::{
    conntrack::{Node, dsr},
    kind,
    pod::{PodValue, pod_flags},
};

use crate::{
    craft::{TCP, UDP},
    rig::{IP4, IP6, Net, Rig, ip, words},
    short_way::{link, sent},
    traffic::Namespace,
};

/// The two nodes, and who is around them.
struct Ground {
    first: Rig,
    second: Rig,
    /// The second node's namespace, which no thread is in.
    namespace: File,
    client: Namespace,
    /// What the second node knows of its pod.
    known: PodValue,
    _lan: Namespace,
    _pod: Namespace,
}

fn attach(rig: &mut Rig, device: &str, program: &str) {
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    rig.program(program).attach_with_options(device, TcAttachType::Ingress, options).unwrap();
}

/// From now on what the socket sends is cut into datagrams of that length, as late as possible.
fn cut(socket: &UdpSocket, length: i32) {
    let size = size_of_val(&length) as u32;
    // SAFETY: the option takes an integer, which the kernel copies.
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, (&raw const length).cast(), size)
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// Joins this thread's namespace, or a named one, to the Ethernet.
fn join(lan: &Namespace, device: &str, port: &str, inside: Option<&Namespace>, host: u8) {
    let lan = lan.name();
    let (of, there) = match inside {
        Some(namespace) => (format!("netns {}", namespace.name()), format!("-n {} ", namespace.name())),
        None => Default::default(),
    };
    ip(&format!("link add name {device} {of} type veth peer name {port} netns {lan}"));
    ip(&format!("-n {lan} link set {port} master bridge up"));
    ip(&format!("{there}link set {device} up"));
    ip(&format!("{there}address add 192.0.2.{host}/24 dev {device}"));
    ip(&format!("{there}address add 2001:db8::{host}/64 dev {device} nodad"));
}

impl Ground {
    fn new() -> Self {
        let lan = Namespace::empty();
        ip(&format!("-n {} link add bridge type bridge", lan.name()));
        ip(&format!("-n {} link set bridge up", lan.name()));
        let client = Namespace::empty();
        join(&lan, "eth0", "lan9", Some(&client), 9);

        let mut second = Rig::bare();
        join(&lan, "out0", "lan2", None, 2);
        let pod = Namespace::new("pod0", ["10.1.0.1/24", "fd01::1/64"], ["10.1.0.5/24", "fd01::5/64"]);
        ip(&format!("-n {} route add default via 10.1.0.1", pod.name()));
        ip(&format!("-n {} -6 route add default via fd01::1", pod.name()));
        attach(&mut second, "out0", "from_device");
        attach(&mut second, "pod0", "from_pod");

        let (index, mac) = link("", "pod0");
        let (_, pod_mac) = link(&format!("-n {} ", pod.name()), "eth0");
        let known = PodValue { index, mtu: 1500, macs: [pod_mac, mac], ..PodValue::default() };
        let namespace = File::open("/proc/thread-self/ns/net").unwrap();

        let mut first = Rig::bare();
        join(&lan, "out0", "lan1", None, 1);
        ip("route add 10.1.0.0/24 via 192.0.2.2");
        ip("-6 route add fd01::/64 via 2001:db8::2");
        attach(&mut first, "out0", "from_device");
        // What it sends to the client goes nowhere, so the client must know where it is without asking it.
        ip("link set out0 address 02:00:00:00:00:01");
        let neighbour = "neigh add 2001:db8::1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent";
        ip(&format!("-n {} -6 {neighbour}", client.name()));
        for address in ["192.0.2.9", "2001:db8::9"] {
            ip(&format!("neigh add {address} lladdr 02:00:00:00:00:77 dev out0 nud permanent"));
        }
        first.set_node(Node { dsr: Node::DSR_TCP | Node::DSR_UDP, ..Node::default() });
        for net in [IP4, IP6] {
            pod.answer(net.here);
            for rig in [&mut first, &mut second] {
                rig.is_node(net.node.parse::<std::net::SocketAddr>().unwrap().ip());
            }
            let own = net.node.replace("192.0.2.1:", "192.0.2.2:").replace("::1]", "::2]");
            for protocol in [TCP, UDP] {
                first.serve(net.node, protocol, kind::NODE_PORT, &[(net.here, false)]);
                second.serve(&own, protocol, kind::NODE_PORT, &[(net.here, true)]);
            }
        }
        Self { first, second, namespace, client, known, _lan: lan, _pod: pod }
    }

    /// Opens or closes the pod to what its node could hand over.
    fn set_open(&mut self, is_open: bool) {
        let flags = if is_open { pod_flags::DIRECT } else { 0 };
        for net in [IP4, IP6] {
            let key = words(net.here.parse::<std::net::SocketAddr>().unwrap().ip());
            let value = PodValue { flags, ..self.known }.sealed_for(&key);
            self.second.map::<[u32; 4], PodValue>("PODS").insert(key, value, 0).unwrap();
        }
    }

    /// How many packets the second node's end of the pod's device has sent.
    fn sent(&self) -> usize {
        let namespace = self.namespace.try_clone().unwrap();
        let there = move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            sent("pod0")
        };
        std::thread::spawn(there).join().unwrap()
    }

    /// Lets the client finish its packets itself.
    fn finish_checksums(&self) {
        let namespace = format!("--net=/run/netns/{}", self.client.name());
        let done = Command::new("nsenter").args([&namespace, "ethtool", "-K", "eth0", "tx", "off"]).output();
        let done = done.expect("this test needs nsenter and ethtool");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// Sends datagrams of these lengths from one socket of the client, each up to five times, and hears an answer as long as
    /// each. `segment`: cut into pieces of that length on the way.
    fn talk(&self, net: Net, lengths: &'static [usize], segment: Option<i32>) {
        let task = move || {
            let socket = UdpSocket::bind(if net.node.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            socket.connect(net.node).unwrap();
            for length in lengths {
                if let Some(segment) = segment {
                    cut(&socket, segment);
                }
                let expected = segment.map_or(*length, |segment| segment as usize);
                let heard = (0..5).any(|_| {
                    // Too long for the way: the client has been told, and cuts the next one.
                    let is_told = |error: std::io::Error| error.raw_os_error() == Some(libc::EMSGSIZE);
                    let sent = socket.send(&vec![b'x'; *length]);
                    assert!(sent.is_ok() || sent.is_err_and(is_told));
                    let mut buffer = [0; 8192];
                    let pieces = length / expected;
                    (0..pieces).all(|_| match socket.recv(&mut buffer) {
                        Ok(answer) => answer == expected,
                        Err(error) => {
                            let is_late = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                            assert!(is_late || is_told(error));
                            false
                        }
                    })
                });
                assert!(heard, "{net:?}: no answer to {length} bytes");
            }
        };
        self.client.run(task).join().unwrap();
    }
}

#[test]
fn real_clients_are_answered_past_the_node_they_ask() {
    let mut ground = Ground::new();
    for net in [IP4, IP6] {
        let client = net.client.parse::<std::net::SocketAddr>().unwrap().ip().to_string();
        for answer in [ground.client.tcp(net.node), ground.client.udp(net.node, 64)] {
            let answer = answer.unwrap();
            assert!(answer.starts_with(net.here) && answer.contains(&client), "{answer}");
        }
        // Whole, and in pieces both ways.
        ground.talk(net, &[64, 3000, 1400], None);
        // One packet until the device, several behind it.
        ground.talk(net, &[3000], Some(1000));
    }
    // Of packets that wait for their checksum nobody is told that they are too long: a neighbour on the same machine sends
    // those, a network does not.
    ground.finish_checksums();
    for net in [IP4, IP6] {
        // Just too long for the way with what is put in.
        ground.talk(net, &[64, 1430, 1440, 1450, 1460, 1470], None);
    }
    let flows = ground.first.flows();
    assert!(flows.len() >= 8 && flows.iter().all(|(_, flow)| flow.flags == dsr::SENT), "{flows:?}");
}

#[test]
fn the_backends_node_hands_an_open_pod_what_it_is_told_of() {
    const MANY: [usize; 40] = [64; 40];
    let mut ground = Ground::new();
    for net in [IP4, IP6] {
        for is_open in [true, false] {
            ground.set_open(is_open);
            let before = ground.sent();
            ground.talk(net, &MANY, None);
            let sent = ground.sent() - before;
            // Neighbours are asked for by the way.
            assert!(if is_open { sent < MANY.len() / 2 } else { sent >= MANY.len() }, "{net:?} {is_open} {sent}");
            assert!(ground.client.tcp(net.node).unwrap().starts_with(net.here));
            ground.talk(net, &[64, 3000, 1400], None);
            ground.talk(net, &[3000], Some(1000));
        }
    }
}
