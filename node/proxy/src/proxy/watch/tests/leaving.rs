//! UDP sockets of backends that terminate and still serve.

use std::net::SocketAddr;

use skep_ebpf_common::{PeerKey, PeerValue, port};

use super::*;
use crate::{maps::Table, service::to_map};

fn udp_service() -> Service {
    let mut service = service("a", "10.97.0.1", &[80]);
    service.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].protocol = Some("UDP".into());
    service
}

/// The first endpoint is ready, the second one on its way, serving or not, and the third one is ready.
fn leaving_slice(serves: bool) -> EndpointSlice {
    let mut slice = slice("a", &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    slice.ports.as_mut().unwrap()[0].protocol = Some("UDP".into());
    let conditions = json!({ "ready": false, "serving": serves, "terminating": true });
    slice.endpoints[1].conditions = Some(serde_json::from_value(conditions).unwrap());
    slice
}

/// Notes in the maps that a socket which asked for 10.97.0.1:80 was sent to that backend.
fn socket(ground: &Ground, cookie: u64, backend: &str) {
    let words = |ip: &str| to_map(ip.parse().unwrap());
    let key = PeerKey { cookie, address: words(backend), port: port(8080), pad: [0; 3] };
    let value = PeerValue::sealed(&key, words("10.97.0.1"), port(80));
    let maps = bpffs::Paths::new(&ground.dir.path().join("bpf")).maps;
    Table::open(&maps, "UDP_PEERS").unwrap().insert(&key, &value).unwrap();
}

/// The backends whose sockets nobody has cut off yet.
fn left(keeper: &mut Keeper) -> Vec<SocketAddr> {
    let mut left: Vec<SocketAddr> = keeper.programmer.take_gone(|_, _| false).iter().map(|gone| gone.backend).collect();
    left.sort();
    left
}

#[tokio::test]
async fn a_backend_that_serves_while_it_terminates_keeps_its_sockets_over_a_restart() {
    let ground = Ground::new();
    let mut keeper = ground.keeper();
    list_services(&mut keeper, [udp_service()]).await;
    list_slices(&mut keeper, [leaving_slice(true)]).await;
    assert_eq!(ground.served(), ["a 10.97.0.1:80 10.0.0.1,10.0.0.3"]);
    drop(keeper);
    for (cookie, backend) in [(1, "10.0.0.1"), (2, "10.0.0.2"), (3, "10.0.0.2"), (4, "10.0.0.9")] {
        socket(&ground, cookie, backend);
    }

    // The one that is nobody's endpoint any more was told at once; the one that still serves is kept in mind.
    let mut keeper = ground.keeper();
    list_services(&mut keeper, [udp_service()]).await;
    list_slices(&mut keeper, [leaving_slice(true)]).await;
    assert_eq!(left(&mut keeper), ["10.0.0.2:8080".parse().unwrap()]);
    drop(keeper);

    let mut keeper = ground.keeper();
    list_services(&mut keeper, [udp_service()]).await;
    list_slices(&mut keeper, [leaving_slice(true)]).await;
    keeper.slice_event(Event::Apply(leaving_slice(false))).await;
    assert_eq!(left(&mut keeper), [], "it serves no more: its sockets were cut off");
}
