//! Which endpoints of this node the programs find when another node hands them a client's packet.

use std::{collections::BTreeSet, net::SocketAddr};

use aya::maps::{HashMap, Map, MapData};
use skep_ebpf_common::{LAYOUT_VERSION, dsr::LocalKey, host_port};
use skep_proxy::{Protocol, Service, ServicePort};

use crate::ground::{Ground, backend, entry};

const AT: &str = "10.97.0.1:80";

fn at() -> SocketAddr {
    AT.parse().unwrap()
}

/// A service port with four backends, of which these are on this node.
fn service(local: &[u8]) -> (ServicePort, Service) {
    let (port, mut service) = entry(at(), Protocol::Tcp, 0..4);
    for one in &mut service.cluster {
        one.local = local.iter().any(|n| SocketAddr::from(backend(*n)) == one.address);
    }
    (port, service)
}

fn map(ground: &Ground) -> HashMap<MapData, LocalKey, u32> {
    let pin = ground.bpf_root().join(format!("v{LAYOUT_VERSION}/maps/LOCALS"));
    Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap().try_into().unwrap()
}

/// Ports and last octets of the endpoints in the map, each of which leads to the backend it names.
fn found(ground: &Ground) -> BTreeSet<(u8, u16)> {
    let services = ground.reader().services().unwrap();
    map(ground)
        .iter()
        .map(Result::unwrap)
        .map(|(key, id)| {
            let service = services.iter().find(|service| service.id == key.service).unwrap();
            let named = service.backends.iter().find(|backend| backend.id == id).unwrap();
            assert_eq!(named.address.port(), host_port(key.port));
            (key.address[3].to_ne_bytes()[3], host_port(key.port))
        })
        .collect()
}

fn expected(local: &[u8]) -> BTreeSet<(u8, u16)> {
    local.iter().map(|n| (backend(*n).ip().octets()[3], backend(*n).port())).collect()
}

#[test]
fn endpoints_of_this_node_are_found_through_changes_restarts_and_damage() {
    let ground = Ground::new();
    let mut proxy = ground.load();
    for local in [&[0, 2][..], &[1, 2, 3], &[], &[0]] {
        let (port, service) = service(local);
        proxy.programmer().apply(&port, &service).unwrap();
        assert_eq!(found(&ground), expected(local));
    }
    // Somebody else's hand, which the daemon finds while it runs,
    let key = map(&ground).keys().next().unwrap().unwrap();
    map(&ground).remove(&key).unwrap();
    map(&ground).insert(LocalKey { port: 9, ..key }, 7, 0).unwrap();
    assert_eq!(proxy.programmer().check().unwrap(), 2);
    assert_eq!(found(&ground), expected(&[0]));
    // and when it comes back.
    map(&ground).remove(&key).unwrap();
    map(&ground).insert(LocalKey { service: 99, ..key }, 7, 0).unwrap();
    drop(proxy);
    let mut proxy = ground.load();
    assert_eq!(found(&ground), expected(&[0]));
    let (port, _) = service(&[]);
    proxy.programmer().remove(&port).unwrap();
    assert_eq!(found(&ground), BTreeSet::new());
}
