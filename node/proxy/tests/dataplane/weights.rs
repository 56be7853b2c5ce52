//! Backends that stand in several places.

use skep_proxy::Protocol::Tcp;

use crate::ground::{Network, VIP, backend, entry};

#[test]
fn a_backend_gets_the_share_of_its_places_also_after_a_restart_and_keeps_its_number_when_they_change() {
    let mut network = Network::new(3);
    let mut proxy = network.ground.load();
    let (port, mut service) = entry(VIP, Tcp, 0..3);
    service.places = vec![6, 1, 3];
    proxy.programmer().apply(&port, &service).unwrap();
    let ids = |network: &Network| -> Vec<u32> {
        network.ground.reader().services().unwrap()[0].backends.iter().map(|backend| backend.id).collect()
    };
    let before = ids(&network);
    assert_eq!(before.len(), 3, "each is shown once");

    let answer = network.client.tcp(VIP, 2000);
    for (n, wanted) in [(0, 1200.0), (1, 200.0), (2, 600.0_f64)] {
        let got = answer.expect_no_failure().from[&backend(n).to_string()] as f64;
        let deviation = (wanted * (1.0 - wanted / 2000.0)).sqrt();
        assert!((got - wanted).abs() < 6.0 * deviation, "{got} for {wanted}: {answer:?}");
    }

    drop(proxy);
    let mut proxy = network.ground.load();
    assert!(!proxy.programmer().apply(&port, &service).unwrap(), "what is in the maps is known");
    assert_eq!(proxy.programmer().check().unwrap(), 0);
    service.places = vec![1, 1, 2];
    service.maglev = 251;
    assert!(proxy.programmer().apply(&port, &service).unwrap());
    assert_eq!(ids(&network), before);
    drop(proxy);
    let mut proxy = network.ground.load();
    assert!(!proxy.programmer().apply(&port, &service).unwrap(), "nor is a table lost");
    service.places.clear();
    assert!(proxy.programmer().apply(&port, &service).unwrap());
    network.client.tcp(VIP, 10).expect_no_failure();
}
