//! The ways to other nodes' pods of both families against the real kernel: every machine here is a network namespace made by
//! the test. Needs root and iproute2.

#[path = "network/harness.rs"]
#[allow(dead_code, reason = "shared with the tests of one node")]
mod harness;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::process::Command;

use harness::{Namespace, PATIENCE, exchange};
use ipnet::IpNet;
use skep_network::{Applied, Peer, Peers, PeersConfig, Routing};

/// Moves one end of a new pair of devices from `near` to `far`.
fn join(near: &Namespace, device: &str, far: &Namespace, peer: &str) {
    near.ip(&format!("link add {device} type veth peer name {peer}"));
    let target = File::open(&far.path).unwrap();
    near.run(|| {
        let path = format!("/proc/{}/fd/{}", std::process::id(), target.as_raw_fd());
        let status = Command::new("ip").args(["link", "set", peer, "netns", &path]).status().unwrap();
        assert!(status.success());
    });
    near.ip(&format!("link set {device} up"));
    far.ip(&format!("link set {peer} up"));
}

fn forward(machine: &Namespace) {
    machine.run(|| {
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{setting}"), "1").unwrap();
        }
    });
}

/// A node with the addresses 192.168.<segment>.<number> and fd01:<segment>::<number>, and one pod with 10.78.<number>.2 and
/// fd00:78:<number>::2.
struct Node {
    namespace: Namespace,
    pod: Namespace,
    segment: u8,
    number: u8,
}

impl Node {
    fn new(segment: u8, number: u8) -> Self {
        let node = Self { namespace: Namespace::new(), pod: Namespace::new(), segment, number };
        join(&node.namespace, "pod", &node.pod, "eth0");
        forward(&node.namespace);
        node.namespace.ip("link set pod address 0a:00:00:00:00:01");
        let [v4, v6] = node.pod_addresses();
        node.pod.ip(&format!("address add {v4}/32 dev eth0"));
        node.pod.ip(&format!("address add {v6}/128 dev eth0 nodad"));
        for (family, gateway) in [("-4", "169.254.1.1"), ("-6", "fe80::1")] {
            node.pod.ip(&format!("neigh add {gateway} lladdr 0a:00:00:00:00:01 dev eth0"));
            node.pod.ip(&format!("{family} route add default via {gateway} dev eth0 onlink"));
        }
        node.namespace.ip(&format!("route add {v4} dev pod"));
        node.namespace.ip(&format!("-6 route add {v6} dev pod"));
        node
    }

    fn addresses(&self) -> [IpAddr; 2] {
        let v4 = Ipv4Addr::new(192, 168, self.segment, self.number);
        [v4.into(), Ipv6Addr::new(0xfd01, self.segment.into(), 0, 0, 0, 0, 0, self.number.into()).into()]
    }

    fn pod_addresses(&self) -> [IpAddr; 2] {
        let v4 = Ipv4Addr::new(10, 78, self.number, 2);
        [v4.into(), Ipv6Addr::new(0xfd00, 0x78, self.number.into(), 0, 0, 0, 0, 2).into()]
    }

    fn pod_cidrs(&self) -> Vec<IpNet> {
        let cidr = |(address, length): (IpAddr, u8)| IpNet::new_assert(address, length).trunc();
        self.pod_addresses().into_iter().zip([24, 64]).map(cidr).collect()
    }

    /// With the addresses of the node in the order of `order`.
    fn apply(&self, routing: Routing, order: [usize; 2], peers: &[&Node]) -> (Applied, u32) {
        let as_peer = |peer: &&Node| Peer {
            name: format!("node-{}", peer.number),
            pod_cidrs: peer.pod_cidrs(),
            addresses: peer.addresses().to_vec(),
        };
        let peers: Vec<Peer> = peers.iter().map(as_peer).collect();
        let config = PeersConfig {
            routing,
            node_ips: order.map(|index| self.addresses()[index]).to_vec(),
            pod_cidrs: self.pod_cidrs(),
            vxlan_id: 77,
            vxlan_port: 8472,
        };
        self.namespace.run(|| {
            let ways = Peers::new(config).unwrap();
            let applied = ways.apply(&peers).unwrap();
            (applied, ways.overhead(&applied))
        })
    }
}

/// Two nodes on one Ethernet, a third behind a router which does not know of pods.
fn three() -> (Node, Node, Node, Namespace) {
    let (a, b, c, router) = (Node::new(1, 1), Node::new(1, 2), Node::new(2, 3), Namespace::new());
    router.ip("link add lan type bridge");
    router.ip("link set lan up");
    for (node, port) in [(&a, "pa"), (&b, "pb"), (&c, "pc")] {
        join(&node.namespace, "uplink", &router, port);
        for (address, length) in node.addresses().into_iter().zip([24, 64]) {
            let detection = if address.is_ipv6() { " nodad" } else { "" };
            node.namespace.ip(&format!("address add {address}/{length} dev uplink{detection}"));
        }
        node.namespace.ip(&format!("route add default via 192.168.{}.254", node.segment));
        node.namespace.ip(&format!("-6 route add default via fd01:{}::fe", node.segment));
    }
    router.ip("link set pa master lan");
    router.ip("link set pb master lan");
    for (segment, device) in [(1, "lan"), (2, "pc")] {
        router.ip(&format!("address add 192.168.{segment}.254/24 dev {device}"));
        router.ip(&format!("address add fd01:{segment}::fe/64 dev {device} nodad"));
    }
    forward(&router);
    (a, b, c, router)
}

/// Every pod reaches every other at both of its addresses, under its own.
fn all_reach(nodes: &[&Node]) {
    for from in nodes {
        for to in nodes.iter().filter(|to| to.number != from.number) {
            for (own, other) in from.pod_addresses().into_iter().zip(to.pod_addresses()) {
                assert_eq!(exchange(&from.pod, &to.pod, other), own.to_string());
            }
        }
    }
}

#[test]
fn both_families_take_plain_routes_to_neighbours_and_one_vxlan_to_others() {
    for (order, outer) in [([0, 1], "local 192.168.1.1"), ([1, 0], "local fd01:1::1")] {
        let (a, b, c, _router) = three();
        let (applied, overhead) = a.apply(Routing::Auto, order, &[&b, &c]);
        assert_eq!((applied.direct, applied.vxlan, applied.failed), (2, 2, 0));
        assert_eq!(overhead, if order[0] == 0 { 50 } else { 70 });
        b.apply(Routing::Auto, order, &[&a, &c]);
        c.apply(Routing::Auto, order, &[&a, &b]);
        all_reach(&[&a, &b, &c]);
        assert!(a.namespace.ip("-details link show skep-vxlan").contains(outer));
        let routes = a.namespace.ip("-6 route show proto 84");
        assert!(routes.contains("fd00:78:2::/64 via fd01:1::2 dev uplink src fd01:1::1"), "{routes}");
        assert!(routes.contains("fd00:78:3::/64 via fd00:78:3:: dev skep-vxlan src fd00:78:1::"), "{routes}");
        // Nothing to do a second time, and nothing left in the end.
        let whole = Applied { direct: 2, vxlan: 2, ..Applied::default() };
        assert_eq!(a.apply(Routing::Auto, order, &[&b, &c]).0, whole);
        // Without the far node nothing is inside anything.
        assert_eq!(a.apply(Routing::Auto, order, &[&b]).1, 0);
        assert_eq!(a.apply(Routing::Auto, order, &[]), (Applied { removed: 2, ..Applied::default() }, 0));
        assert_eq!(a.namespace.ip("-6 route show proto 84"), "");
    }
}

#[test]
fn who_had_large_packets_before_a_node_on_another_network_came_learns_to_send_smaller_ones() {
    let (a, _b, c, _router) = three();
    a.apply(Routing::Auto, [0, 1], &[&c]);
    c.apply(Routing::Auto, [0, 1], &[&a]);
    assert!(a.pod.ip("link show eth0").contains("mtu 1500"), "more than the VXLAN takes");
    const MUCH: usize = 4 << 20;
    for address in c.pod_addresses() {
        let server = c.pod.run(|| TcpListener::bind((address, 0)).unwrap());
        let target: SocketAddr = server.local_addr().unwrap();
        std::thread::scope(|scope| {
            let heard = scope.spawn(move || {
                let (mut stream, _) = server.accept().unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut all = Vec::new();
                stream.read_to_end(&mut all).unwrap();
                all.len()
            });
            a.pod.run(|| {
                let mut stream = TcpStream::connect_timeout(&target, PATIENCE).unwrap();
                stream.set_write_timeout(Some(PATIENCE)).unwrap();
                stream.write_all(&vec![7; MUCH]).unwrap();
            });
            assert_eq!(heard.join().unwrap(), MUCH, "{address}");
        });
        let learnt = a.pod.ip(&format!("route get {address}"));
        assert!(learnt.contains("mtu 1450"), "{learnt}");
    }
}
