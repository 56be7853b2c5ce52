use std::net::SocketAddr;

use skep_proxy::{Protocol::Udp, ServiceTable};

use crate::{
    agent::Request,
    ground::{Network, VIP, apply, backend},
    tcp::expect_even,
};

#[test]
fn a_connected_socket_is_translated_once_and_sees_the_virtual_address() {
    let mut network = Network::new(2);
    let mut proxy = network.ground.load();
    apply(&mut proxy, VIP, Udp, 0..2);
    for _ in 0..10 {
        let answer = network.client.ask(&Request::UdpConnected { to: VIP.into(), mapped: false });
        answer.expect_no_failure();
        assert_eq!(answer.peer, Some(VIP.to_string()));
        assert_eq!(answer.source, Some(VIP.to_string()));
    }
}

#[test]
fn datagrams_of_an_unconnected_socket_come_back_from_the_virtual_address() {
    let mut network = Network::new(2);
    let mut proxy = network.ground.load();
    apply(&mut proxy, VIP, Udp, 0..2);
    let answer = network.client.udp_send("a", VIP);
    assert_eq!(answer.expect_no_failure().source, Some(VIP.to_string()));
    // The same socket may speak to a backend by its own name, and is then shown that.
    let other = backend(if answer.from.contains_key(&backend(0).to_string()) { 1 } else { 0 });
    let answer = network.client.udp_send("a", other);
    assert_eq!(answer.expect_no_failure().source, Some(other.to_string()));
}

#[test]
fn new_sockets_spread_evenly_over_the_backends() {
    let mut network = Network::new(4);
    let mut proxy = network.ground.load();
    apply(&mut proxy, VIP, Udp, 0..4);
    let answer = network.client.ask(&Request::UdpFresh { to: VIP.into(), times: 1000 });
    expect_even(answer.expect_no_failure(), 4);
}

#[test]
fn a_socket_keeps_its_backend_while_that_lives_and_gets_another_when_it_goes() {
    let mut network = Network::new(4);
    let mut proxy = network.ground.load();
    apply(&mut proxy, VIP, Udp, 0..4);
    let first = network.client.udp_send("a", VIP);
    for _ in 0..20 {
        assert_eq!(network.client.udp_send("a", VIP), first);
    }
    let name = first.from.keys().next().unwrap();
    let chosen = (0..4).find(|n| backend(*n).to_string() == *name).unwrap();

    // The others may change as they like.
    apply(&mut proxy, VIP, Udp, [chosen, 5, 6]);
    assert_eq!(network.client.udp_send("a", VIP), first);

    // When it goes, the very next datagram goes elsewhere, though it still answers there.
    let other = (chosen + 1) % 4;
    apply(&mut proxy, VIP, Udp, [other]);
    let answer = network.client.udp_send("a", VIP);
    assert_eq!(answer.expect_no_failure().from.keys().next(), Some(&backend(other).to_string()));
    assert_eq!(answer.source, Some(VIP.to_string()));
}

#[test]
fn a_backend_that_left_one_service_is_not_used_for_it_because_another_has_it() {
    let mut network = Network::new(2);
    let mut proxy = network.ground.load();
    let mut second = VIP;
    second.set_port(81);
    apply(&mut proxy, VIP, Udp, [0]);
    apply(&mut proxy, second, Udp, [0]);
    network.client.udp_send("a", VIP).expect_no_failure();
    apply(&mut proxy, VIP, Udp, [1]);
    let answer = network.client.udp_send("a", VIP);
    assert_eq!(answer.from.keys().next(), Some(&backend(1).to_string()));
}

#[test]
fn a_service_without_backends_refuses_datagrams_at_once() {
    let mut network = Network::new(1);
    let mut proxy = network.ground.load();
    apply(&mut proxy, VIP, Udp, [0]);
    network.client.udp_send("a", VIP).expect_no_failure();
    apply(&mut proxy, VIP, Udp, []);
    network.client.udp_send("a", VIP).expect_failures("ECONNREFUSED", 1);
    network.client.udp_send("b", VIP).expect_failures("ECONNREFUSED", 1);
    network.client.ask(&Request::UdpConnected { to: VIP.into(), mapped: false }).expect_failures("ECONNREFUSED", 1);
    let mut other = VIP;
    other.set_port(81);
    network.client.udp_send("a", other).expect_failures("ECONNREFUSED", 1);
}

#[test]
fn ipv6_sockets_exchange_datagrams_by_mapped_addresses() {
    let mut network = Network::new(1);
    let mut proxy = network.ground.load();
    apply(&mut proxy, VIP, Udp, [0]);
    let mapped = Some(format!("[::ffff:{}]:{}", VIP.ip(), VIP.port()));
    let answer = network.client.ask(&Request::UdpSend { socket: "a".into(), to: VIP.into(), mapped: true });
    assert_eq!(answer.expect_no_failure().source, mapped);
    let answer = network.client.ask(&Request::UdpConnected { to: VIP.into(), mapped: true });
    assert_eq!((&answer.expect_no_failure().source, &answer.peer), (&mapped, &mapped));
}

#[test]
fn connected_sockets_of_a_backend_that_went_are_destroyed_and_no_others() {
    let mut network = Network::new(2);
    let mut proxy = network.ground.load();
    let mut other = VIP;
    other.set_port(81);
    apply(&mut proxy, VIP, Udp, [0]);
    apply(&mut proxy, other, Udp, [0]);
    let kept = |socket: &str, to, mapped| Request::UdpKept { socket: socket.into(), to, mapped };
    // By IPv4, by a mapped address, through another Service, and straight to the backend.
    let sockets: [(&str, SocketAddr, bool); 4] = [
        ("four", VIP.into(), false),
        ("mapped", VIP.into(), true),
        ("other", other.into(), false),
        ("straight", backend(0).into(), false),
    ];
    for (name, to, mapped) in sockets {
        let answer = network.client.ask(&kept(name, to, mapped));
        assert_eq!(answer.expect_no_failure().from.keys().next(), Some(&backend(0).to_string()), "{name}");
    }
    assert_eq!(proxy.cut_sockets().unwrap(), 0, "nothing went");

    // A backend that comes cuts nothing; one that goes does.
    apply(&mut proxy, VIP, Udp, [0, 1]);
    assert_eq!(proxy.cut_sockets().unwrap(), 0);
    apply(&mut proxy, VIP, Udp, [1]);
    assert_eq!(proxy.cut_sockets().unwrap(), 2);
    for (name, to, mapped) in &sockets[..2] {
        network.client.ask(&kept(name, *to, *mapped)).expect_failures("ECONNABORTED", 1);
        let answer = network.client.ask(&kept(name, *to, *mapped));
        assert_eq!(answer.expect_no_failure().from.keys().next(), Some(&backend(1).to_string()), "{name}");
    }
    for (name, to, mapped) in &sockets[2..] {
        let answer = network.client.ask(&kept(name, *to, *mapped));
        assert_eq!(answer.expect_no_failure().from.keys().next(), Some(&backend(0).to_string()), "{name}");
    }
    assert_eq!(proxy.cut_sockets().unwrap(), 0, "what was cut is done");

    // A Service that goes takes its sockets along.
    proxy.sync(&ServiceTable::new()).unwrap();
    assert_eq!(proxy.cut_sockets().unwrap(), 3);
}
