//! The kinds of frontends, and who may use which backend there.

use std::{collections::HashMap, net::SocketAddr};

use skep_proxy::{Backend, Family, Frontend, Kind, Protocol, Protocol::Tcp, Protocol::Udp, Service};

use crate::{
    agent::Request,
    ground::{Network, VIP, VIP6, apply, backend, backend6, entry, port_of},
    tcp::expect_even,
};

fn frontend(at: &str, protocol: Protocol) -> Frontend {
    let at: SocketAddr = at.parse().unwrap();
    Frontend { address: at.ip(), port: at.port(), protocol }
}

#[test]
fn ipv6_services_are_served_over_tcp_and_udp() {
    let mut network = Network::new(2);
    let mut proxy = network.ground.load();
    apply(&mut proxy, VIP6, Tcp, 0..2);
    apply(&mut proxy, VIP6, Udp, 0..2);
    let vip = Some(VIP6.to_string());
    let answer = network.client.tcp(VIP6, 200);
    assert_eq!(answer.expect_no_failure().from.len(), 2, "{answer:?}");
    assert!(answer.from.contains_key(&backend6(0).to_string()), "{answer:?}");
    let answer = network.client.ask(&Request::TcpPeer { to: VIP6.into(), mapped: false });
    assert_eq!(answer.expect_no_failure().peer, vip);
    let answer = network.client.udp_send("a", VIP6);
    assert_eq!(answer.expect_no_failure().source, vip);
    let answer = network.client.ask(&Request::UdpConnected { to: VIP6.into(), mapped: false });
    assert_eq!((&answer.expect_no_failure().source, &answer.peer), (&vip, &vip));
    // Without backends, and where there is no such port.
    apply(&mut proxy, VIP6, Udp, []);
    network.client.udp_send("a", VIP6).expect_failures("ECONNREFUSED", 1);
    let mut other = VIP6;
    other.set_port(81);
    network.client.tcp(other, 1).expect_failures("ECONNREFUSED", 1);
}

#[test]
fn node_ports_are_served_at_the_nodes_addresses_and_loopback_only_in_its_own_namespace() {
    let mut network = Network::new(2);
    let mut proxy = network.ground.load();
    let port = port_of(VIP, Tcp);
    let mut service = entry(VIP, Tcp, 0..2).1;
    service.frontends.insert(frontend("0.0.0.0:30080", Tcp), Kind::NodePort);
    proxy.programmer().apply(&port, &service).unwrap();
    let node = "10.231.0.1:30080".parse::<SocketAddr>().unwrap();
    // Nobody has said yet that this address is the node's.
    network.client.tcp(node, 1).expect_failures("ECONNREFUSED", 1);
    let mut addresses = HashMap::from([(node.ip(), 0)]);
    assert!(proxy.programmer().set_node_addresses(&addresses).unwrap());
    assert!(!proxy.programmer().set_node_addresses(&addresses).unwrap());
    expect_even(network.client.tcp(node, 400).expect_no_failure(), 2);

    // Loopback, bound to the wrong namespace and then to the right one.
    let loopback = "127.0.0.1:30080".parse::<SocketAddr>().unwrap();
    addresses.insert(loopback.ip(), 1);
    proxy.programmer().set_node_addresses(&addresses).unwrap();
    network.client.tcp(loopback, 1).expect_failures("ECONNREFUSED", 1);
    let cookie = network.client.ask(&Request::NetnsCookie).number;
    addresses.insert(loopback.ip(), cookie);
    proxy.programmer().set_node_addresses(&addresses).unwrap();
    network.client.tcp(loopback, 10).expect_no_failure();
    // What is no node port passes: the namespace itself refuses it, and the node's address stays the node's.
    network.client.tcp("10.231.0.1:30081".parse::<SocketAddr>().unwrap(), 1).expect_failures("ECONNREFUSED", 1);
    let refused = network.ground.reader().services().unwrap()[0].refused;
    assert_eq!(refused, 0);

    // They survive a restart of the daemon without a write, and go when they are taken away.
    drop(proxy);
    let mut proxy = network.ground.load();
    assert!(!proxy.programmer().apply(&port, &service).unwrap());
    assert!(!proxy.programmer().set_node_addresses(&addresses).unwrap());
    service.frontends.remove(&frontend("0.0.0.0:30080", Tcp));
    proxy.programmer().apply(&port, &service).unwrap();
    network.client.tcp(node, 1).expect_failures("ECONNREFUSED", 1);
    expect_even(network.client.tcp(VIP, 400).expect_no_failure(), 2);
}

#[test]
fn host_ports_count_at_the_nodes_own_addresses_only_and_after_node_ports() {
    let mut network = Network::new(4);
    let mut proxy = network.ground.load();
    let cookie = network.client.ask(&Request::NetnsCookie).number;
    let [node, loopback, any] = ["10.231.0.1:54323", "127.0.0.1:54323", "0.0.0.0:54324"];
    for (n, at) in (0..).zip([node, loopback, any]) {
        let port = port_of(at.parse::<SocketAddr>().unwrap(), Tcp);
        let cluster = vec![Backend { address: backend(n).into(), local: true }];
        let frontends = [(frontend(at, Tcp), Kind::HostPort)].into();
        proxy.programmer().apply(&port, &Service { frontends, cluster, ..Service::default() }).unwrap();
    }
    let mut ask = |at: &str| {
        let answer = network.client.tcp(at.parse::<SocketAddr>().unwrap(), 5);
        let heard: Vec<&String> = answer.from.keys().chain(answer.failed.keys()).collect();
        let [heard] = heard[..] else { panic!("{answer:?}") };
        heard.clone()
    };
    let refused = "ECONNREFUSED";
    // Nobody has said yet which addresses are the node's; then loopback is another namespace's.
    assert_eq!([ask(node), ask(loopback)], [refused, refused]);
    let mut addresses = HashMap::from([(node.parse::<SocketAddr>().unwrap().ip(), 0), ([127, 0, 0, 1].into(), 1)]);
    proxy.programmer().set_node_addresses(&addresses).unwrap();
    assert_eq!([ask(node), ask(loopback)], [backend(0).to_string(), refused.to_owned()]);
    addresses.insert([127, 0, 0, 1].into(), cookie);
    proxy.programmer().set_node_addresses(&addresses).unwrap();
    let places = ["10.231.0.1:54323", "127.0.0.1:54323", "10.231.0.1:54324", "127.0.0.1:54324"];
    assert_eq!(places.map(&mut ask), [0, 1, 2, 2].map(|n| backend(n).to_string()));
    // A Service with the same node port has it at every address.
    let at = "0.0.0.0:54323".parse::<SocketAddr>().unwrap();
    let mut service = entry(at, Tcp, [3]).1;
    service.frontends = [(frontend("0.0.0.0:54323", Tcp), Kind::NodePort)].into();
    proxy.programmer().apply(&port_of(at, Tcp), &service).unwrap();
    assert_eq!(places.map(&mut ask), [3, 3, 2, 2].map(|n| backend(n).to_string()));
    proxy.programmer().remove(&port_of(at, Tcp)).unwrap();
    assert_eq!(places.map(&mut ask), [0, 1, 2, 2].map(|n| backend(n).to_string()));
}

#[test]
fn one_write_changes_all_frontends_and_policies_decide_who_uses_which_backend() {
    let mut network = Network::new(4);
    let mut proxy = network.ground.load();
    let place = |n: u8, local| Backend { address: backend(n).into(), local };
    let at = |at: SocketAddr| Frontend { address: at.ip(), port: at.port(), protocol: Tcp };
    let balancer = "10.98.0.1:80".parse::<SocketAddr>().unwrap();
    let external = "10.98.0.2:80".parse::<SocketAddr>().unwrap();
    let mut service = Service {
        frontends: [
            (at(VIP.into()), Kind::ClusterIP),
            (at(balancer), Kind::LoadBalancer),
            (at(external), Kind::ExternalIP),
        ]
        .into(),
        cluster: vec![place(0, true), place(1, false), place(2, false)],
        local: vec![place(0, true)],
        internal_local: true,
        external_local: true,
        ..Service::default()
    };
    let port = port_of(VIP, Tcp);
    proxy.programmer().apply(&port, &service).unwrap();
    let mut ask = |to: SocketAddr| network.client.tcp(to, 300).expect_no_failure().from.len();
    // Inside the cluster a ClusterIP keeps to this node, while its other addresses are as wide as the cluster.
    assert_eq!((ask(VIP.into()), ask(balancer), ask(external)), (1, 3, 3));

    let before = proxy.programmer().writes();
    service.cluster = vec![place(3, false)];
    service.local = Vec::new();
    assert!(proxy.programmer().apply(&port, &service).unwrap());
    // A backend, a slot and the flip; four old slots, three old backends, and the one here as other nodes name it.
    let after = proxy.programmer().writes();
    assert_eq!((after.updates - before.updates, after.deletes - before.deletes), (3, 8));
    assert_eq!((ask(balancer), ask(external)), (1, 1));
    // There are backends, but none here.
    network.client.tcp(VIP, 1).expect_failures("ECONNREFUSED", 1);
    // Other ports of an address that is shared with others pass: the namespace has no route there.
    let mut other = balancer;
    other.set_port(81);
    network.client.tcp(other, 1).expect_failures("ENETUNREACH", 1);

    // A restart finds it as it is.
    drop(proxy);
    let mut proxy = network.ground.load();
    assert!(!proxy.programmer().apply(&port, &service).unwrap());
}

#[test]
fn a_client_keeps_its_backend_while_that_lives_even_over_a_restart() {
    let mut network = Network::new(4);
    let mut proxy = network.ground.load();
    let (port, mut service) = entry(VIP, Tcp, 0..4);
    service.affinity = Some(3600);
    proxy.programmer().apply(&port, &service).unwrap();
    let first = network.client.tcp(VIP, 50).expect_no_failure().clone();
    assert_eq!(first.from.len(), 1, "{first:?}");
    drop(proxy);
    let mut proxy = network.ground.load();
    assert!(!proxy.programmer().apply(&port, &service).unwrap());
    assert_eq!(network.client.tcp(VIP, 50), first);
    assert_eq!(network.ground.reader().services().unwrap()[0].affinity_seconds, Some(3600));

    // Another port of the same Service is a choice of its own; and a dead backend is given up.
    let name = first.from.keys().next().unwrap();
    let chosen = (0..4).find(|n| backend(*n).to_string() == *name).unwrap();
    let mut fewer = entry(VIP, Tcp, (0..4).filter(|n| *n != chosen)).1;
    fewer.affinity = Some(3600);
    proxy.programmer().apply(&port, &fewer).unwrap();
    let second = network.client.tcp(VIP, 50).expect_no_failure().clone();
    assert_eq!(second.from.len(), 1);
    assert!(!second.from.contains_key(name));
    // It comes back, and is a stranger.
    proxy.programmer().apply(&port, &service).unwrap();
    assert_eq!(network.client.tcp(VIP, 50), second);

    // Without affinity every connection chooses for itself, at once.
    service.affinity = None;
    proxy.programmer().apply(&port, &service).unwrap();
    expect_even(network.client.tcp(VIP, 1000).expect_no_failure(), 4);
}

#[test]
fn a_frontend_that_changes_hands_is_served_throughout() {
    let mut network = Network::new(2);
    let mut proxy = network.ground.load();
    let (a, b) = (port_of(VIP, Tcp), port_of(VIP, Udp));
    let (first, second) = (entry(VIP, Tcp, [0]).1, entry(VIP, Tcp, [1]).1);
    proxy.programmer().apply(&a, &first).unwrap();
    proxy.programmer().apply(&b, &second).unwrap();
    assert!(proxy.programmer().remove(&a).unwrap());
    let answer = network.client.tcp(VIP, 10);
    assert_eq!(answer.expect_no_failure().from.keys().next(), Some(&backend(1).to_string()));
    assert_eq!(proxy.programmer().check().unwrap(), 0);
    assert_eq!(b.family, Family::IPv4);
}
