//! The choice of the backend with fewer open connections, and the counts behind it.

use std::collections::BTreeMap;

use aya::maps::{HashMap, Map, MapData};
use skep_ebpf_common::{LAYOUT_VERSION, load::LoadKey, octets};
use skep_proxy::{
    Attachment, Config,
    Protocol::{Tcp, Udp},
    Proxy,
};

use crate::{
    agent::Request,
    ground::{Ground, Network, VIP, apply, backend},
};

fn counting(ground: &Ground) -> Config {
    let mut config = ground.config();
    config.maps.connections = 4096;
    config
}

fn load(network: &Network) -> Proxy {
    Proxy::load(counting(&network.ground)).unwrap()
}

fn map<K: aya::Pod, V: aya::Pod>(ground: &Ground, name: &str) -> HashMap<MapData, K, V> {
    let pin = ground.bpf_root().join(format!("v{LAYOUT_VERSION}/maps")).join(name);
    Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap().try_into().unwrap()
}

/// Open connections by the last byte of the backend's address, without those that have none.
fn counts(network: &Network) -> BTreeMap<u8, u64> {
    let loads = map::<LoadKey, u64>(&network.ground, "LOADS");
    let all = loads.iter().map(|entry| entry.unwrap());
    all.filter(|(_, count)| *count != 0).map(|(key, count)| (octets(key.address)[15] - 10, count)).collect()
}

fn hold(network: &mut Network, times: usize) -> BTreeMap<u8, u64> {
    let answer = network.client.ask(&Request::Hold { to: VIP.into(), times });
    let answer = answer.expect_no_failure();
    (0..8).filter_map(|n| Some((n, *answer.from.get(&backend(n).to_string())? as u64))).collect()
}

#[test]
fn new_connections_go_where_fewer_are_open() {
    let mut network = Network::new(3);
    let mut proxy = load(&network);
    apply(&mut proxy, VIP, Tcp, [0]);
    assert_eq!(hold(&mut network, 60), [(0, 60)].into());
    assert_eq!(counts(&network), [(0, 60)].into());

    apply(&mut proxy, VIP, Tcp, 0..3);
    let got = hold(&mut network, 120);
    assert!(got.get(&0).copied().unwrap_or(0) <= 6, "the busy one got new ones: {got:?}");
    assert!(got[&1].abs_diff(got[&2]) <= 6, "{got:?}");
    let open = counts(&network);
    assert_eq!(open.values().sum::<u64>(), 180, "{open:?}");
    assert_eq!((open[&1], open[&2]), (got[&1], got[&2]));

    // From even, it stays even; by chance alone backends would be a dozen apart.
    let got = hold(&mut network, 600);
    let open = counts(&network);
    let (least, most) = (open.values().min().unwrap(), open.values().max().unwrap());
    assert!(most - least <= 12, "{open:?}, of which {got:?} are new");
}

#[test]
fn counts_end_with_their_sockets_whatever_becomes_of_daemon_backend_and_client() {
    let mut network = Network::new(3);
    let mut proxy = load(&network);
    apply(&mut proxy, VIP, Tcp, 0..3);
    apply(&mut proxy, VIP, Udp, 0..3);
    let none = BTreeMap::new();
    network.client.tcp(VIP, 50).expect_no_failure();
    assert_eq!(counts(&network), none, "each was closed");

    hold(&mut network, 30);
    let kept = Request::UdpKept { socket: "a".into(), to: VIP.into(), mapped: false };
    network.client.ask(&kept).expect_no_failure();
    network.client.udp_send("b", VIP).expect_no_failure();
    assert_eq!(counts(&network).values().sum::<u64>(), 31, "a socket that does not connect is none");

    // A daemon that comes and goes, a backend that goes.
    drop(proxy);
    let mut proxy = load(&network);
    assert!(proxy.attachments().iter().all(|(_, attachment)| *attachment == Attachment::Kept));
    assert_eq!(proxy.check_loads().unwrap(), 0);
    apply(&mut proxy, VIP, Tcp, [0, 1]);
    assert_eq!(counts(&network).values().sum::<u64>(), 31, "connections to a backend that is gone go on");
    network.client.ask(&Request::Release);
    assert_eq!(counts(&network).values().sum::<u64>(), 1);

    apply(&mut proxy, VIP, Tcp, []);
    network.client.tcp(VIP, 3).expect_failures("ECONNREFUSED", 3);
    apply(&mut proxy, VIP, Tcp, [0, 1]);
    hold(&mut network, 30);
    assert_eq!(counts(&network).values().sum::<u64>(), 31);
    let other = network.outsider();
    std::mem::replace(&mut network.client, other).kill();
    assert_eq!(counts(&network), none, "a process that is killed closes its sockets");
    assert_eq!(proxy.check_loads().unwrap(), 0);
}

#[test]
fn wrong_counts_and_sockets_that_are_not_there_are_put_right() {
    let mut network = Network::new(2);
    let mut proxy = load(&network);
    apply(&mut proxy, VIP, Tcp, 0..2);
    hold(&mut network, 20);
    let right = counts(&network);
    let mut loads = map::<LoadKey, u64>(&network.ground, "LOADS");
    let keys: Vec<LoadKey> = loads.keys().map(Result::unwrap).collect();
    assert_eq!(keys.len(), 2);
    loads.insert(keys[0], 77, 0).unwrap();
    loads.insert(keys[1], u64::MAX, 0).unwrap();
    let nobody = LoadKey::new([0, 0, 0, 9], 80);
    loads.insert(nobody, 5, 0).unwrap();
    assert_eq!(proxy.check_loads().unwrap(), 2);
    assert_eq!(counts(&network), right);
    assert!(loads.get(&nobody, 0).is_err(), "no backend, no connection: no entry");

    // A socket that nobody has counts until it was missed twice.
    let mut connected = map::<u64, LoadKey>(&network.ground, "CONNECTED");
    connected.insert(u64::MAX, keys[0], 0).unwrap();
    assert_eq!(proxy.check_loads().unwrap(), 1, "counted");
    assert_eq!(proxy.check_loads().unwrap(), 2, "forgotten, and not counted");
    assert_eq!(counts(&network), right);
    assert_eq!(proxy.check_loads().unwrap(), 0);
    network.client.ask(&Request::Release);
    assert_eq!(counts(&network), BTreeMap::new());
}

#[test]
fn the_option_comes_and_goes_with_a_restart() {
    let ground = Ground::new();
    let pin = |name: &str| ground.bpf_root().join(format!("v{LAYOUT_VERSION}/maps")).join(name).exists();
    let attached = |proxy: &Proxy, wanted: Attachment| {
        proxy.attachments().iter().filter(|(_, attachment)| *attachment == wanted).count()
    };
    let off = ground.load();
    assert_eq!((attached(&off, Attachment::Attached), pin("LOADS"), pin("CONNECTED")), (8, false, false));
    drop(off);
    let on = Proxy::load(counting(&ground)).unwrap();
    assert!(pin("LOADS") && pin("CONNECTED"));
    let status = ground.reader().status().unwrap();
    assert!(status.programs.iter().any(|program| program.name == "sock_release"), "{:?}", status.programs);
    assert!(status.maps.iter().any(|map| map.name == "CONNECTED" && map.capacity == 4096), "{:?}", status.maps);
    // Programs that choose no backend need not be exchanged.
    assert!(attached(&on, Attachment::Attached) >= 5, "{:?}", on.attachments());
    assert_eq!(on.attachments().len(), 9);
    drop(on);
    let off = ground.load();
    assert!(!pin("LOADS") && !pin("CONNECTED"));
    assert!(attached(&off, Attachment::Attached) >= 4, "{:?}", off.attachments());
    assert_eq!(off.attachments().len(), 8);
    let links = ground.bpf_root().join(format!("v{LAYOUT_VERSION}/links"));
    let on_close = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("sock_release");
    assert!(!std::fs::read_dir(links).unwrap().map(Result::unwrap).any(|entry| on_close(&entry)));
}

#[test]
fn counts_come_along_when_maps_become_larger() {
    let mut network = Network::new(2);
    let mut proxy = load(&network);
    apply(&mut proxy, VIP, Tcp, 0..2);
    hold(&mut network, 40);
    let open = counts(&network);
    drop(proxy);
    let mut config = counting(&network.ground);
    (config.maps.connections, config.maps.backends) = (8192, 65_536);
    let _proxy = Proxy::load(config).unwrap();
    assert_eq!(counts(&network), open);
    // The programs count in the new maps, up and down.
    hold(&mut network, 20);
    assert_eq!(counts(&network).values().sum::<u64>(), 60);
    network.client.ask(&Request::Release);
    assert_eq!(counts(&network), BTreeMap::new());
}
