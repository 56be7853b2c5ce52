use aya::maps::{HashMap, Map, MapData, RingBuf};
use skep_ebpf_common::{Segment, ServiceValue};
use skep_proxy::Protocol::Tcp;

use crate::{
    agent::{Answer, Request},
    ground::{Network, VIP, apply, backend, port_of},
};

/// Every backend of `backends` got its share of the answers: within six standard deviations of even.
pub(crate) fn expect_even(answer: &Answer, backends: u8) {
    let total: usize = answer.from.values().sum();
    let share = total as f64 / f64::from(backends);
    let deviation = (share * (1.0 - 1.0 / f64::from(backends))).sqrt();
    assert_eq!(answer.from.len(), usize::from(backends), "{answer:?}");
    for n in 0..backends {
        let got = answer.from[&backend(n).to_string()] as f64;
        assert!((got - share).abs() < 6.0 * deviation, "{got} of {total} went to backend {n}: {answer:?}");
    }
}

#[test]
fn connects_to_a_virtual_address_spread_evenly_over_the_backends() {
    let mut network = Network::new(4);
    let mut proxy = network.ground.load();
    apply(&mut proxy, VIP, Tcp, 0..4);
    let answer = network.client.tcp(VIP, 2000);
    expect_even(answer.expect_no_failure(), 4);

    let records = network.ground.reader().services().unwrap();
    assert_eq!(records[0].connections, 2000);
    assert_eq!(records[0].backends.iter().map(|backend| backend.connections).sum::<u64>(), 2000);
}

#[test]
fn getpeername_shows_the_virtual_address() {
    let mut network = Network::new(2);
    let mut proxy = network.ground.load();
    apply(&mut proxy, VIP, Tcp, 0..2);
    let answer = network.client.ask(&Request::TcpPeer { to: VIP.into(), mapped: false });
    assert_eq!(answer.expect_no_failure().peer, Some(VIP.to_string()));
    // A backend asked by its own name keeps it.
    let answer = network.client.ask(&Request::TcpPeer { to: backend(1).into(), mapped: false });
    assert_eq!(answer.expect_no_failure().peer, Some(backend(1).to_string()));
}

#[test]
fn ipv6_sockets_reach_ipv4_services_by_mapped_addresses() {
    let mut network = Network::new(2);
    let mut proxy = network.ground.load();
    apply(&mut proxy, VIP, Tcp, 0..2);
    let answer = network.client.ask(&Request::Tcp { to: VIP.into(), times: 200, mapped: true });
    expect_even(answer.expect_no_failure(), 2);
    let answer = network.client.ask(&Request::TcpPeer { to: VIP.into(), mapped: true });
    assert_eq!(answer.expect_no_failure().peer, Some(format!("[::ffff:{}]:{}", VIP.ip(), VIP.port())));
}

#[test]
fn a_service_without_backends_refuses_at_once() {
    let mut network = Network::new(1);
    let mut proxy = network.ground.load();
    apply(&mut proxy, VIP, Tcp, []);
    network.client.tcp(VIP, 3).expect_failures("ECONNREFUSED", 3);
    network.client.ask(&Request::Tcp { to: VIP.into(), times: 1, mapped: true }).expect_failures("ECONNREFUSED", 1);
    assert_eq!(network.ground.reader().services().unwrap()[0].refused, 4);

    // It answers as soon as there is a backend, and refuses again when that is gone.
    apply(&mut proxy, VIP, Tcp, [0]);
    network.client.tcp(VIP, 3).expect_no_failure();
    apply(&mut proxy, VIP, Tcp, []);
    network.client.tcp(VIP, 3).expect_failures("ECONNREFUSED", 3);
}

#[test]
fn a_port_that_is_no_port_of_the_service_is_refused_and_an_unknown_address_is_left_alone() {
    let mut network = Network::new(1);
    let mut proxy = network.ground.load();
    apply(&mut proxy, VIP, Tcp, [0]);
    let mut other = VIP;
    other.set_port(81);
    network.client.tcp(other, 1).expect_failures("ECONNREFUSED", 1);
    // The namespace has no route to it.
    other.set_ip([10, 97, 0, 2].into());
    network.client.tcp(other, 1).expect_failures("ENETUNREACH", 1);
    proxy.programmer().remove(&port_of(VIP, Tcp)).unwrap();
    network.client.tcp(VIP, 1).expect_failures("ENETUNREACH", 1);
}

#[test]
fn processes_outside_the_cgroup_are_left_alone() {
    let mut network = Network::new(1);
    let mut proxy = network.ground.load();
    apply(&mut proxy, VIP, Tcp, [0]);
    network.client.tcp(VIP, 1).expect_no_failure();
    network.outsider().tcp(VIP, 1).expect_failures("ENETUNREACH", 1);
}

#[test]
fn no_connect_fails_while_a_service_changes_thousands_of_times() {
    let mut network = Network::new(8);
    let mut proxy = network.ground.load();
    apply(&mut proxy, VIP, Tcp, 0..4);
    network.client.ask(&Request::StartTcp { to: VIP.into(), threads: 2 });
    for n in 0..5000_u32 {
        // Sets of one to four backends, all of which answer, that have nothing in common from one to the next.
        let start = if n % 2 == 0 { 0 } else { 4 };
        let backends = start..=start + (n / 2 % 4) as u8;
        assert!(apply(&mut proxy, VIP, Tcp, backends.clone()));
        // A neighbour in the same maps comes and goes.
        let mut other = VIP;
        other.set_port(1000 + (n % 64) as u16);
        apply(&mut proxy, other, Tcp, backends);
        if n % 3 == 0 {
            proxy.programmer().remove(&port_of(other, Tcp)).unwrap();
        }
        if n % 50 == 0 {
            std::thread::yield_now();
        }
    }
    let answer = network.client.ask(&Request::StopTcp);
    let connects: usize = answer.expect_no_failure().from.values().sum();
    assert!(connects > 100, "only {connects} connects met the changes");
}

#[test]
fn a_damaged_service_is_refused_and_the_kernels_log_says_so_to_a_later_daemon() {
    let mut network = Network::new(1);
    let mut proxy = network.ground.load();
    apply(&mut proxy, VIP, Tcp, [0]);
    let maps = network.ground.bpf_root().join("v3/maps");
    let open = |name: &str| Map::from_map_data(MapData::from_pin(maps.join(name)).unwrap()).unwrap();
    let mut services: HashMap<MapData, u32, ServiceValue> = open("SERVICES").try_into().unwrap();
    let three = Segment { start: 0, count: 3 };
    let value = ServiceValue { generation: 99, internal: three, ..ServiceValue::default() };
    services.insert(1, value.sealed(1), 0).unwrap();
    network.client.tcp(VIP, 1).expect_failures("ECONNREFUSED", 1);

    drop(proxy);
    let _proxy = network.ground.load();
    let mut ring: RingBuf<MapData> = RingBuf::try_from(open("AYA_LOGS")).unwrap();
    let record = ring.next().unwrap();
    let text = String::from_utf8_lossy(&record);
    assert!(text.contains("no consistent view of service"), "{text}");
}
