//! What `TcpWatch` counts of the connections to Services.

use skep_ebpf_common::LAYOUT_VERSION;
use skep_proxy::Protocol::Tcp;

use crate::ground::{Network, VIP, apply, backend};

#[test]
fn connections_to_services_are_counted_while_somebody_looks_and_no_others() {
    let mut network = Network::new(2);
    let mut proxy = network.ground.load();
    apply(&mut proxy, VIP, Tcp, 0..2);
    let reader = network.ground.reader();
    network.client.tcp(VIP, 10).expect_no_failure();

    let watch = reader.watch_tcp().unwrap();
    assert!(watch.totals().unwrap().is_empty());
    network.client.tcp(VIP, 100).expect_no_failure();
    network.client.tcp(backend(0), 10).expect_no_failure();
    let totals = watch.totals().unwrap();
    let service = reader.services().unwrap()[0].id;
    assert_eq!(totals.keys().collect::<Vec<_>>(), [&service]);
    let total = totals[&service];
    // A backend answers with its address and hangs up, which counts as a byte; the client's end is all it sends.
    let answer = backend(0).to_string().len() as u64 + 1;
    assert_eq!((total.opened, total.received, total.retransmits), (100, 100 * answer, 0));
    // The kernel may still be closing the last ones.
    assert!(total.closed <= 100 && total.sent <= 100, "{total:?}");

    drop(watch);
    let again = reader.watch_tcp().unwrap();
    assert!(again.totals().unwrap().is_empty());
}

#[test]
fn a_cgroup_that_is_gone_is_said() {
    let network = Network::new(0);
    let proxy = network.ground.load();
    let reader = network.ground.reader();
    for link in std::fs::read_dir(network.ground.bpf_root().join(format!("v{}/links", LAYOUT_VERSION))).unwrap() {
        std::fs::remove_file(link.unwrap().path()).unwrap();
    }
    let error = reader.watch_tcp().unwrap_err().to_string();
    assert!(error.contains("attached to no cgroup"), "{error}");
    drop(proxy);
}
