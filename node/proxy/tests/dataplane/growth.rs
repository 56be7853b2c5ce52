//! Maps that become larger while they serve, and what a death in the middle of that leaves.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
};

use skep_proxy::{
    Config, Error, MapSizes,
    Protocol::{Tcp, Udp},
    Proxy, Service, ServiceTable,
    growth::{Growth, Larger},
    programmer::Writes,
};

use crate::{
    agent::{Agent, Request},
    ground::{Ground, Network, VIP, apply, backend, entry},
    maps::expect_exactly,
};

/// Capacities by map, as the kernel has them.
fn capacities(ground: &Ground) -> BTreeMap<String, usize> {
    ground.reader().status().unwrap().maps.into_iter().map(|map| (map.name, map.capacity)).collect()
}

fn sizes(times: u32) -> MapSizes {
    MapSizes {
        services: 64 * times,
        backends: 256 * times,
        sticky: 512 * times,
        udp_peers: 512 * times,
        tcp_peers: 512 * times,
        flows: 512 * times,
        ..MapSizes::default()
    }
}

fn config(ground: &Ground, times: u32) -> Config {
    Config { maps: sizes(times), ..ground.config() }
}

/// Those that are preallocated come in pages for each CPU, so that the kernel may round them up.
fn expect_times(before: &BTreeMap<String, usize>, after: &BTreeMap<String, usize>) {
    for (map, had) in before {
        assert!(after[map] > *had, "{map} had {had} entries and has {}", after[map]);
    }
}

fn larger() -> Larger {
    [("SERVICES", 256), ("SLOTS", 2048), ("BACKENDS", 1024), ("FRONTENDS", 1024), ("TCP_PEERS", 2048)].into()
}

#[test]
fn a_daemon_with_larger_maps_takes_over_without_a_failure_and_one_with_smaller_ones_keeps_them() {
    let mut network = Network::new(4);
    let mut proxy = Proxy::load(config(&network.ground, 1)).unwrap();
    apply(&mut proxy, VIP, Tcp, 0..4);
    apply(&mut proxy, VIP, Udp, 0..4);
    let before = capacities(&network.ground);
    network.client.ask(&Request::StartTcp { to: VIP.into(), threads: 2 });
    let chosen = network.client.udp_send("kept", VIP).expect_no_failure().clone();

    drop(proxy);
    let mut proxy = Proxy::load(config(&network.ground, 4)).unwrap();
    let after = capacities(&network.ground);
    expect_times(&before, &after);
    let table: ServiceTable = [entry(VIP, Tcp, 0..4), entry(VIP, Udp, 0..4)].into();
    expect_exactly(&network.ground, &table);
    assert!(!apply(&mut proxy, VIP, Tcp, 0..4), "nothing had to be written");
    // A socket that was there keeps its backend, and sees answers come from the Service.
    let again = network.client.udp_send("kept", VIP);
    assert_eq!((&again.from, &again.source), (&chosen.from, &Some(VIP.to_string())));

    // The programs look at the new maps.
    apply(&mut proxy, VIP, Tcp, 2..3);
    let answer = network.client.tcp(VIP, 20);
    assert_eq!(answer.expect_no_failure().from.keys().collect::<Vec<_>>(), [&backend(2).to_string()]);

    drop(proxy);
    drop(Proxy::load(config(&network.ground, 1)).unwrap());
    assert_eq!(capacities(&network.ground), after);
    network.client.ask(&Request::StopTcp).expect_no_failure();
    let root = network.ground.bpf_root();
    assert_eq!(folders(&root), ["links", "maps", "programs"]);
}

/// What is pinned for this layout.
fn folders(root: &std::path::Path) -> Vec<String> {
    let version = root.join(format!("v{}", skep_ebpf_common::LAYOUT_VERSION));
    let mut names: Vec<String> =
        fs::read_dir(version).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_death_at_any_step_leaves_what_serves_and_the_next_daemon_goes_on_from_there() {
    type Step = fn(&mut Growth) -> Result<(), Error>;
    let steps: [(&str, &[Step], bool); 4] = [
        ("filling", &[], false),
        ("next", &[Growth::fill], false),
        ("next", &[Growth::fill, Growth::switch], false),
        ("next", &[Growth::fill, Growth::switch], true),
    ];
    let table: ServiceTable = [entry(VIP, Tcp, 0..4)].into();
    for (left, steps, renamed) in steps {
        let mut network = Network::new(4);
        let root = network.ground.bpf_root();
        let mut proxy = Proxy::load(config(&network.ground, 1)).unwrap();
        proxy.sync(&table).unwrap();
        network.client.ask(&Request::StartTcp { to: VIP.into(), threads: 1 });
        let before = capacities(&network.ground);
        let mut growth = Growth::prepare(&root, &larger()).unwrap();
        steps.iter().for_each(|step| step(&mut growth).unwrap());
        // As a death would: what is open goes, what is pinned or attached stays.
        drop(growth);
        drop(proxy);
        assert!(folders(&root).contains(&left.to_owned()), "{:?}", folders(&root));
        if renamed {
            // The first of the pins had taken its place already.
            let version = root.join(format!("v{}", skep_ebpf_common::LAYOUT_VERSION));
            fs::rename(version.join("next/SERVICES"), version.join("maps/SERVICES")).unwrap();
        }
        network.client.tcp(VIP, 50).expect_no_failure();

        let mut proxy = Proxy::load(config(&network.ground, 1)).unwrap();
        assert_eq!(folders(&root), ["links", "maps", "programs"]);
        assert_eq!(capacities(&network.ground) == before, steps.is_empty(), "{left}");
        expect_exactly(&network.ground, &table);
        network.client.tcp(VIP, 50).expect_no_failure();
        apply(&mut proxy, VIP, Tcp, 1..2);
        let answer = network.client.tcp(VIP, 20);
        assert_eq!(answer.expect_no_failure().from.len(), 1, "programs and daemon are on the same maps");
        network.client.ask(&Request::StopTcp).expect_no_failure();
        assert_eq!(
            fs::read_dir(root.join(format!("v{}/links", skep_ebpf_common::LAYOUT_VERSION))).unwrap().count(),
            proxy.attachments().len()
        );
    }
}

#[test]
fn a_daemon_killed_while_maps_are_made_larger_leaves_a_service_that_works() {
    let mut network = Network::new(4);
    let root = network.ground.bpf_root();
    let filling = root.join(format!("v{}/filling", skep_ebpf_common::LAYOUT_VERSION));
    drop(Proxy::load(config(&network.ground, 1)).unwrap());
    let table: ServiceTable = [entry(VIP, Tcp, 0..4)].into();
    Proxy::load(config(&network.ground, 1)).unwrap().sync(&table).unwrap();
    network.client.ask(&Request::StartTcp { to: VIP.into(), threads: 1 });
    let mut daemon = Agent::start(None, None);
    // Its maps have the default sizes, so it begins with making these larger.
    daemon.tell(&Request::Load {
        churn: false,
        bpf_root: root.clone(),
        cgroup: network.ground.cgroup.clone(),
        vip: VIP,
        backends: (0..4).map(backend).collect(),
    });
    let give_up = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !filling.exists() {
        assert!(std::time::Instant::now() < give_up, "the daemon never began");
        std::thread::yield_now();
    }
    daemon.kill();
    assert!(filling.exists(), "killed while the verifier was at work");
    network.client.tcp(VIP, 50).expect_no_failure();
    let proxy = Proxy::load(config(&network.ground, 1)).unwrap();
    assert!(!filling.exists());
    expect_exactly(&network.ground, &table);
    drop(proxy);
    network.client.ask(&Request::StopTcp).expect_no_failure();
}

fn many(services: u16) -> ServiceTable {
    let at = |n: u16| {
        let [high, low] = n.to_be_bytes();
        SocketAddrV4::new(Ipv4Addr::new(10, 98, high, low), 80)
    };
    (0..services).map(|n| entry(at(n), Tcp, [(n % 4) as u8])).collect()
}

#[test]
fn maps_that_start_with_64_services_take_10_000() {
    let mut network = Network::new(4);
    let mut proxy = Proxy::load(config(&network.ground, 1)).unwrap();
    apply(&mut proxy, VIP, Tcp, 0..4);
    network.client.ask(&Request::StartTcp { to: VIP.into(), threads: 1 });
    let mut table = many(10_000);
    table.extend([entry(VIP, Tcp, 0..4)]);
    proxy.sync(&table).unwrap();
    expect_exactly(&network.ground, &table);
    let capacities = capacities(&network.ground);
    for map in
        ["SERVICES", "SERVICE_INFO", "SERVICE_STATS", "FRONTENDS", "ADDRESSES", "SLOTS", "BACKENDS", "BACKEND_STATS"]
    {
        assert!(capacities[map] >= 10_001, "{map} {}", capacities[map]);
    }
    network.client.tcp(SocketAddrV4::new(Ipv4Addr::new(10, 98, 39, 15), 80), 3).expect_no_failure();
    network.client.ask(&Request::StopTcp).expect_no_failure();
}

#[test]
fn at_the_ceiling_the_rest_stays_served_and_the_error_names_the_map() {
    let ground = Ground::new();
    let mut proxy =
        Proxy::load(Config { most: MapSizes { services: 128, ..MapSizes::MOST }, ..config(&ground, 1) }).unwrap();
    let error = proxy.sync(&many(200)).unwrap_err();
    assert!(matches!(error, Error::MapFull { map: "SERVICES", capacity: 128, .. }), "{error}");
    assert_eq!(ground.reader().services().unwrap().len(), 128);
    let table = many(128);
    proxy.sync(&table).unwrap();
    expect_exactly(&ground, &table);
}

#[test]
fn source_ranges_and_counts_come_along() {
    let mut network = Network::new(1);
    let mut proxy = Proxy::load(config(&network.ground, 1)).unwrap();
    let ranged = |at: SocketAddrV4, ranges: u8| {
        let (port, service) = entry(at, Tcp, [0]);
        let source_ranges = (0..ranges).map(|n| (IpAddr::from([172, 16, n, 0]), 24)).collect();
        (port, Service { source_ranges, ..service })
    };
    let other = SocketAddrV4::new(Ipv4Addr::new(10, 98, 0, 1), 80);
    proxy.sync(&[ranged(VIP, 10)].into()).unwrap();
    network.client.tcp(VIP, 7).expect_no_failure();
    let before = capacities(&network.ground)["SOURCE_RANGES"];
    let table: ServiceTable = [ranged(VIP, 10), ranged(other, 100)].into();
    proxy.sync(&table).unwrap();
    let status = network.ground.reader().status().unwrap();
    let ranges = status.maps.iter().find(|map| map.name == "SOURCE_RANGES").unwrap();
    assert!(ranges.entries == 110 && ranges.capacity > before, "{ranges:?}");
    // What was counted before still counts.
    network.client.tcp(VIP, 3).expect_no_failure();
    let services = network.ground.reader().services().unwrap();
    let counts: Vec<u64> = services.iter().map(|service| service.connections).collect();
    assert_eq!(counts.iter().sum::<u64>(), 10, "{services:?}");
    // Maps of one CPU's counts and of prefixes grow with the daemon's numbers, too.
    drop(proxy);
    let mut proxy = Proxy::load(config(&network.ground, 8)).unwrap();
    proxy.sync(&table).unwrap();
    assert_eq!(proxy.programmer().writes(), Writes::default(), "nothing had to be written");
    assert_eq!(network.ground.reader().services().unwrap().iter().map(|service| service.connections).sum::<u64>(), 10);
}
