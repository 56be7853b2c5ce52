//! The ways to other nodes' pods against the real kernel: every machine here is a network namespace made by the test.
//! Needs root and iproute2.

#[path = "network/harness.rs"]
#[allow(dead_code, reason = "shared with the tests of one node")]
mod harness;

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd as _;
use std::process::Command;

use harness::{Namespace, exchange};
use skep_network::{Applied, Peer, Peers, PeersConfig, Routing, Watch};

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
    machine.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
}

/// A node with one pod, which has the address 10.78.<number>.2.
struct Node {
    namespace: Namespace,
    pod: Namespace,
    number: u8,
    address: Ipv4Addr,
}

impl Node {
    fn new(number: u8, address: Ipv4Addr) -> Self {
        let (namespace, pod) = (Namespace::new(), Namespace::new());
        join(&namespace, "pod", &pod, "eth0");
        forward(&namespace);
        let node = Self { namespace, pod, number, address };
        node.pod.ip(&format!("address add {}/32 dev eth0", node.pod_address()));
        node.pod.ip("link set eth0 mtu 1450");
        node.namespace.ip("link set pod address 0a:00:00:00:00:01");
        node.pod.ip("neigh add 169.254.1.1 lladdr 0a:00:00:00:00:01 dev eth0");
        node.pod.ip("route add 169.254.1.1 dev eth0 scope link");
        node.pod.ip("route add default via 169.254.1.1");
        node.namespace.ip(&format!("route add {} dev pod", node.pod_address()));
        node
    }

    fn pod_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 78, self.number, 2)
    }

    fn cidr(&self) -> String {
        format!("10.78.{}.0/24", self.number)
    }

    fn as_peer(&self) -> Peer {
        Peer {
            name: format!("node-{}", self.number),
            pod_cidrs: vec![self.cidr().parse().unwrap()],
            addresses: vec![self.address.into()],
        }
    }

    fn apply(&self, routing: Routing, peers: &[&Node]) -> Applied {
        let config = PeersConfig {
            routing,
            node_ips: vec![self.address.into()],
            pod_cidrs: vec![self.cidr().parse().unwrap()],
            vxlan_id: 77,
            vxlan_port: 8472,
        };
        let peers: Vec<Peer> = peers.iter().map(|peer| peer.as_peer()).collect();
        self.namespace.run(|| Peers::new(config).unwrap().apply(&peers).unwrap())
    }

    fn routes(&self) -> String {
        self.namespace.ip("route show proto 84")
    }
}

/// Two nodes on one Ethernet, a third behind a router which does not know of pods.
fn three() -> (Node, Node, Node, Namespace) {
    let node = |number: u8, segment| Node::new(number, Ipv4Addr::new(192, 168, segment, number));
    let (a, b, c, router) = (node(1, 1), node(2, 1), node(3, 2), Namespace::new());
    router.ip("link add lan type bridge");
    router.ip("link set lan up");
    router.ip("address add 192.168.1.254/24 dev lan");
    for (node, port) in [(&a, "pa"), (&b, "pb")] {
        join(&node.namespace, "uplink", &router, port);
        router.ip(&format!("link set {port} master lan"));
    }
    join(&c.namespace, "uplink", &router, "pc");
    router.ip("address add 192.168.2.254/24 dev pc");
    forward(&router);
    for (node, other) in [(&a, 2), (&b, 2), (&c, 1)] {
        let [_, _, own, _] = node.address.octets();
        node.namespace.ip(&format!("address add {}/24 dev uplink", node.address));
        node.namespace.ip(&format!("route add 192.168.{other}.0/24 via 192.168.{own}.254"));
    }
    (a, b, c, router)
}

#[test]
fn neighbours_get_plain_routes_and_others_the_vxlan() {
    let (a, b, c, _router) = three();
    assert_eq!(a.apply(Routing::Auto, &[&b, &c]), Applied { direct: 1, vxlan: 1, changed: 6, ..Applied::default() });
    b.apply(Routing::Auto, &[&a, &c]);
    c.apply(Routing::Auto, &[&a, &b]);
    assert!(a.routes().contains("10.78.2.0/24 via 192.168.1.2 dev uplink src 192.168.1.1 onlink"), "{}", a.routes());
    assert!(a.routes().contains("10.78.3.0/24 via 10.78.3.0 dev skep-vxlan src 10.78.1.0 onlink"), "{}", a.routes());
    for (from, to) in [(&a, &b), (&b, &c), (&c, &a), (&c, &b)] {
        assert_eq!(exchange(&from.pod, &to.pod, to.pod_address()), from.pod_address().to_string());
    }
    // A node speaks to pods as itself on its Ethernet, as its end of the VXLAN elsewhere: so the answers find the way.
    assert_eq!(exchange(&a.namespace, &b.pod, b.pod_address()), "192.168.1.1");
    assert_eq!(exchange(&a.namespace, &c.pod, c.pod_address()), "10.78.1.0");
}

#[test]
fn what_is_whole_is_left_alone_and_what_is_not_is_mended() {
    let (a, b, c, _router) = three();
    a.apply(Routing::Auto, &[&b, &c]);
    b.apply(Routing::Auto, &[&a, &c]);
    c.apply(Routing::Auto, &[&a, &b]);
    let whole = Applied { direct: 1, vxlan: 1, ..Applied::default() };
    assert_eq!(a.apply(Routing::Auto, &[&b, &c]), whole);

    a.namespace.ip("route del 10.78.2.0/24");
    a.namespace.ip("route replace 10.78.3.0/24 via 192.168.1.254 proto 84");
    a.namespace.ip("neigh del 10.78.3.0 dev skep-vxlan");
    // The wrong route is replaced.
    assert_eq!(a.apply(Routing::Auto, &[&b, &c]), Applied { changed: 3, ..whole });
    assert_eq!(exchange(&a.pod, &c.pod, c.pod_address()), a.pod_address().to_string());

    a.namespace.ip("link set skep-vxlan mtu 1300");
    a.namespace.ip("route add 10.79.0.0/24 via 192.168.1.9 proto 84");
    // The device, its address, neighbour, forwarding entry and route anew; the stray route goes.
    assert_eq!(a.apply(Routing::Auto, &[&b, &c]), Applied { changed: 5, removed: 1, ..whole });
    assert_eq!(exchange(&a.pod, &c.pod, c.pod_address()), a.pod_address().to_string());
    assert_eq!(a.apply(Routing::Auto, &[&b, &c]), whole);
}

#[test]
fn nodes_that_leave_take_everything_of_theirs_along() {
    let (a, b, c, _router) = three();
    let bare = (a.namespace.ip("route show table all"), a.namespace.ip("-brief link show"));
    a.apply(Routing::Vxlan, &[&b, &c]);
    assert_eq!(a.apply(Routing::Vxlan, &[&c]), Applied { vxlan: 1, removed: 3, ..Applied::default() });
    assert!(!a.routes().contains("10.78.2.0"), "{}", a.routes());
    assert_eq!(a.apply(Routing::Vxlan, &[]), Applied { removed: 1, ..Applied::default() });
    assert_eq!((a.namespace.ip("route show table all"), a.namespace.ip("-brief link show")), bare);
    // From tunnels to routes of others: nothing of ours stays.
    a.apply(Routing::Auto, &[&b, &c]);
    a.apply(Routing::Routes, &[&b, &c]);
    assert_eq!((a.namespace.ip("route show table all"), a.namespace.ip("-brief link show")), bare);
}

#[test]
fn ways_that_cannot_be_are_counted_and_do_not_keep_others_from_being_made() {
    let (a, b, c, _router) = three();
    assert_eq!(a.apply(Routing::Direct, &[&b, &c]), Applied { direct: 1, failed: 1, changed: 1, ..Applied::default() });
    let twin = Node { number: 1, ..Node::new(9, Ipv4Addr::new(192, 168, 1, 9)) };
    assert_eq!(a.apply(Routing::Auto, &[&b, &twin]).failed, 1, "a pod CIDR that is this node's own");
}

#[test]
fn large_packets_pass_the_vxlan_whole() {
    let (a, _b, c, _router) = three();
    a.apply(Routing::Auto, &[&c]);
    c.apply(Routing::Auto, &[&a]);
    let payload = vec![7; 1450 - 28];
    let server = c.pod.run(|| std::net::UdpSocket::bind((c.pod_address(), 0)).unwrap());
    server.set_read_timeout(Some(harness::PATIENCE)).unwrap();
    let target = server.local_addr().unwrap();
    a.pod.run(|| {
        let client = std::net::UdpSocket::bind((IpAddr::from(a.pod_address()), 0)).unwrap();
        assert_eq!(client.send_to(&payload, target).unwrap(), payload.len());
    });
    let mut buffer = vec![0; 2000];
    let (length, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!((length, from.ip()), (payload.len(), a.pod_address().into()));
    // Nothing had to be cut: the outer packet fits the machine's device exactly.
    let counters = a.namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
    let mut lines = counters.lines().filter(|line| line.starts_with("Ip:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let cut = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "FragCreates").unwrap().1;
    assert_eq!(cut, "0");
}

#[test]
fn a_change_of_routes_is_heard() {
    let machine = Namespace::new();
    let watch = machine.run(|| Watch::open().unwrap());
    machine.ip("route add unreachable 10.80.0.0/24");
    watch.wait().unwrap();
}
