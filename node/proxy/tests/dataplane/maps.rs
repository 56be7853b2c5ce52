use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use aya::maps::{HashMap, Map, MapData};
use proptest::{prelude::*, test_runner::TestRunner};
use skep_ebpf_common::{
    Address, AddressValue, BackendValue, FrontendKey, FrontendValue, ServiceValue, SlotKey, SlotValue, address_bits,
    kind, mapped, port,
};
use skep_proxy::{
    Error, Family, Frontend, Kind, MapSizes, Protocol, Proxy, Service, ServicePort, ServiceTable,
    maps::reader::{FrontendRecord, ServiceRecord},
    programmer::Writes,
};

use crate::ground::{Ground, entry, port_of};

fn place(n: u8) -> (SocketAddrV4, Protocol) {
    let at = SocketAddrV4::new(Ipv4Addr::new(10, 97, 0, n / 4), u16::from(80 + n % 2));
    (at, if n % 4 < 2 { Protocol::Tcp } else { Protocol::Udp })
}

fn at(n: u8) -> ServicePort {
    let (at, protocol) = place(n);
    port_of(at, protocol)
}

fn service(n: u8, backends: impl IntoIterator<Item = u8>) -> Service {
    let (at, protocol) = place(n);
    entry(at, protocol, backends).1
}

/// What programs see: names and backends, whatever their numbers.
fn seen(ground: &Ground) -> ServiceTable {
    let records = ground.reader().services().unwrap();
    records.into_iter().map(read).collect()
}

fn read(record: ServiceRecord) -> (ServicePort, Service) {
    let name = format!("{}/{}:{}", record.namespace, record.name, record.port_name).parse().unwrap();
    let [FrontendRecord { kind: Kind::ClusterIP, address, port, protocol }] = record.frontends[..] else {
        panic!("{record:?}")
    };
    let backends = record.backends.iter().map(|backend| backend.address);
    let port_name = ServicePort { name, family: Family::of(address) };
    (port_name, Service::new(Frontend { address, port, protocol }, backends))
}

/// Entries by map, as the kernel counts them.
fn entries(ground: &Ground) -> BTreeMap<String, usize> {
    ground.reader().status().unwrap().maps.into_iter().map(|map| (map.name, map.entries)).collect()
}

/// The maps hold `table` and nothing else.
pub(crate) fn expect_exactly(ground: &Ground, table: &ServiceTable) {
    assert_eq!(seen(ground), *table);
    let backends: usize = table.values().map(|service| service.cluster.len()).sum();
    let frontends = table.values().flat_map(|service| service.frontends.keys());
    let addresses: std::collections::BTreeSet<IpAddr> = frontends.map(|frontend| frontend.address).collect();
    let entries = entries(ground);
    for (map, wanted) in [
        ("SERVICES", table.len()),
        ("FRONTENDS", table.len()),
        ("SERVICE_INFO", table.len()),
        ("SLOTS", backends),
        ("BACKENDS", backends),
        ("ADDRESSES", addresses.len()),
    ] {
        assert_eq!(entries[map], wanted, "{map}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Apply(u8, Vec<u8>),
    Remove(u8),
    Sync(BTreeMap<u8, Vec<u8>>),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let backends = || prop::collection::vec(0..8_u8, 0..6);
    let step = prop_oneof![
        6 => (0..24_u8, backends()).prop_map(|(n, backends)| Step::Apply(n, backends)),
        3 => (0..24_u8).prop_map(Step::Remove),
        1 => prop::collection::btree_map(0..24_u8, backends(), 0..12).prop_map(Step::Sync),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..60)
}

#[test]
fn any_sequence_of_changes_leaves_what_a_rebuild_would() {
    let ground = Ground::new();
    let mut runner = TestRunner::new(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() });
    runner
        .run(&steps(), |steps| {
            let mut proxy = ground.load();
            proxy.sync(&ServiceTable::new()).unwrap();
            let mut table = ServiceTable::new();
            for step in steps {
                match step {
                    Step::Apply(n, backends) => {
                        let service = service(n, backends);
                        let changed = proxy.programmer().apply(&at(n), &service).unwrap();
                        assert_eq!(changed, table.insert(at(n), service.clone()) != Some(service));
                    }
                    Step::Remove(n) => {
                        assert_eq!(proxy.programmer().remove(&at(n)).unwrap(), table.remove(&at(n)).is_some());
                    }
                    Step::Sync(new) => {
                        table = new.into_iter().map(|(n, backends)| (at(n), service(n, backends))).collect();
                        proxy.sync(&table).unwrap();
                    }
                    Step::Restart => {
                        drop(proxy);
                        proxy = ground.load();
                        assert_eq!(proxy.programmer().writes(), Writes::default());
                    }
                }
            }
            expect_exactly(&ground, &table);
            assert_eq!(proxy.programmer().check().unwrap(), 0, "the self-check has nothing to mend");
            drop(proxy);
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_reader_sees_whole_services_while_they_change() {
    let ground = Ground::new();
    let mut proxy = ground.load();
    let sets = |n: u8| [service(n, 0..4), service(n, 4..8)];
    (0..24).for_each(|n| assert!(proxy.programmer().apply(&at(n), &sets(n)[0]).unwrap()));
    let reader = ground.reader();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in (0..24_u8).cycle().take(20_000) {
                proxy.programmer().apply(&at(n), &sets(n)[1]).unwrap();
                proxy.programmer().apply(&at(n), &sets(n)[0]).unwrap();
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        for _ in 0..50 {
            for record in reader.services().unwrap() {
                let (port, service) = read(record);
                let n = (0..24).find(|n| at(*n) == port).unwrap();
                assert!(sets(n).contains(&service), "{port} {service:?}");
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_restart_writes_nothing_when_nothing_changed_and_only_the_difference_else() {
    let ground = Ground::new();
    let mut table: ServiceTable = (0..24).map(|n| (at(n), service(n, 0..n % 8))).collect();
    let mut proxy = ground.load();
    proxy.sync(&table).unwrap();
    let numbers = |ground: &Ground| -> Vec<_> {
        let records = ground.reader().services().unwrap();
        records.iter().map(|record| (record.frontends[0].clone(), record.id, record.generation)).collect()
    };
    let before = numbers(&ground);
    drop(proxy);

    let mut proxy = ground.load();
    proxy.sync(&table).unwrap();
    assert_eq!(proxy.programmer().writes(), Writes::default());
    assert_eq!(numbers(&ground), before);
    drop(proxy);

    // One endpoint more: one backend, three slots and the flip; the two old slots go.
    table.insert(at(2), service(2, 0..3));
    let mut proxy = ground.load();
    proxy.sync(&table).unwrap();
    assert_eq!(proxy.programmer().writes(), Writes { updates: 5, deletes: 2 });
    expect_exactly(&ground, &table);
}

#[test]
fn leftovers_of_a_change_that_was_cut_short_are_removed_and_holes_are_filled() {
    let ground = Ground::new();
    let table: ServiceTable = (0..4).map(|n| (at(n), service(n, 0..4))).collect();
    let mut proxy = ground.load();
    proxy.sync(&table).unwrap();
    drop(proxy);
    let whole = entries(&ground);

    let mut slots: HashMap<MapData, SlotKey, SlotValue> = open(&ground.bpf_root(), "SLOTS");
    let mut backends: HashMap<MapData, u32, BackendValue> = open(&ground.bpf_root(), "BACKENDS");
    let mut addresses: HashMap<MapData, Address, AddressValue> = open(&ground.bpf_root(), "ADDRESSES");
    let mut frontends: HashMap<MapData, FrontendKey, FrontendValue> = open(&ground.bpf_root(), "FRONTENDS");
    // Written before a flip that never came.
    let key = SlotKey { service: 1, generation: 7, slot: 0 };
    slots.insert(key, SlotValue::sealed(&key, 900), 0).unwrap();
    let nowhere = mapped(u32::from_ne_bytes([10, 97, 9, 9]));
    backends.insert(900, BackendValue::sealed(900, 1, nowhere, port(80), 0), 0).unwrap();
    addresses.insert(nowhere, AddressValue { bits: address_bits::WHOLE, ..AddressValue::default() }, 0).unwrap();
    let key = FrontendKey::new(nowhere, port(80), skep_ebpf_common::TCP);
    frontends.insert(key, FrontendValue::sealed(&key, 900, kind::CLUSTER_IP), 0).unwrap();
    drop(ground.load());
    assert_eq!(entries(&ground), whole);

    // And damage: a slot is gone.
    let victim = slots.keys().next().unwrap().unwrap();
    slots.remove(&victim).unwrap();
    let mut proxy = ground.load();
    proxy.sync(&table).unwrap();
    assert!(proxy.programmer().writes().updates > 0);
    expect_exactly(&ground, &table);
}

#[test]
fn what_somebody_else_changed_in_the_maps_is_mended() {
    let ground = Ground::new();
    let table: ServiceTable = (0..4).map(|n| (at(n), service(n, 0..4))).collect();
    let mut proxy = ground.load();
    proxy.sync(&table).unwrap();
    let whole = entries(&ground);
    let root = ground.bpf_root();
    let mut frontends: HashMap<MapData, FrontendKey, FrontendValue> = open(&root, "FRONTENDS");
    let mut slots: HashMap<MapData, SlotKey, SlotValue> = open(&root, "SLOTS");
    let mut backends: HashMap<MapData, u32, BackendValue> = open(&root, "BACKENDS");
    let mut addresses: HashMap<MapData, Address, AddressValue> = open(&root, "ADDRESSES");
    let mut services: HashMap<MapData, u32, ServiceValue> = open(&root, "SERVICES");
    // One entry gone, one changed and one too many, in five maps.
    frontends.remove(&frontends.keys().next().unwrap().unwrap()).unwrap();
    let slot = slots.keys().next().unwrap().unwrap();
    slots.insert(slot, SlotValue::sealed(&slot, 77), 0).unwrap();
    backends.insert(900, BackendValue::sealed(900, 1, mapped(1), port(80), 0), 0).unwrap();
    addresses.remove(&addresses.keys().next().unwrap().unwrap()).unwrap();
    let id = services.keys().next().unwrap().unwrap();
    services.insert(id, ServiceValue::default().sealed(id), 0).unwrap();
    assert_eq!(proxy.programmer().check().unwrap(), 5);
    expect_exactly(&ground, &table);
    assert_eq!(entries(&ground), whole);
    assert_eq!(proxy.programmer().check().unwrap(), 0);
}

#[test]
fn a_full_map_is_an_error_that_says_so_and_what_was_served_stays() {
    let ground = Ground::new();
    let mut config = ground.config();
    config.maps = MapSizes { services: 3, backends: 8, ..config.maps };
    let mut proxy = Proxy::load(config).unwrap();
    let programmer = proxy.programmer();
    programmer.apply(&at(0), &service(0, 0..5)).unwrap();
    programmer.apply(&at(1), &service(1, 0..1)).unwrap();
    let error = programmer.apply(&at(2), &service(2, 0..4)).unwrap_err();
    assert!(matches!(error, Error::MapFull { map: "SLOTS", used: 6, capacity: 8, wanted: 4 }), "{error}");
    let error = programmer.apply(&at(0), &service(0, 0..4)).unwrap_err();
    assert!(error.to_string().contains("SLOTS is full: 6 of 8 entries, 4 more"), "{error}");
    programmer.apply(&at(2), &service(2, [])).unwrap();
    let error = programmer.apply(&at(4), &service(4, [])).unwrap_err();
    assert!(matches!(error, Error::MapFull { map: "SERVICES", .. }), "{error}");
    let table = [(at(0), service(0, 0..5)), (at(1), service(1, 0..1)), (at(2), service(2, []))].into();
    expect_exactly(&ground, &table);
    // A removal makes room again.
    programmer.remove(&at(0)).unwrap();
    programmer.apply(&at(4), &service(4, 0..4)).unwrap();
}

#[test]
fn names_of_any_legal_length_are_kept() {
    let ground = Ground::new();
    let mut proxy = ground.load();
    let name = format!("{}/{}:{}", "n".repeat(63), "s".repeat(63), "p".repeat(63));
    let port = ServicePort { name: name.parse().unwrap(), family: Family::IPv4 };
    let table: ServiceTable = [(port, service(0, []))].into();
    proxy.sync(&table).unwrap();
    expect_exactly(&ground, &table);
}

#[test]
fn the_measurement_runs_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("bpf");
    let report = skep_proxy::bench::run(&root, 100, 10).unwrap();
    // 100 each of frontend, address, name and flip, 1000 each of backend and slot.
    assert_eq!(report.bulk_writes, 100 * 4 + 1000 * 2);
    assert_eq!(report.resync_writes, 0);
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
}

fn open<K: aya::Pod, V: aya::Pod>(bpf_root: &Path, name: &str) -> HashMap<MapData, K, V> {
    let data = MapData::from_pin(bpf_root.join("v3/maps").join(name)).unwrap();
    Map::from_map_data(data).unwrap().try_into().unwrap()
}
