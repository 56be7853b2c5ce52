//! Open connections past the sockets, counted and chosen by.

use skep_ebpf_common::{
    conntrack::{Node, dsr},
    kind,
};

use crate::{
    craft::{ACK, Craft, FIN, RST, SYN, TCP, UDP, read},
    rig::{IP4, IP6, REDIRECT, Rig},
};

#[test]
fn new_flows_go_where_fewer_are_open_and_are_counted_once() {
    let mut rig = Rig::new().counting();
    for net in [IP4, IP6] {
        for protocol in [TCP, UDP] {
            rig.forget();
            rig.serve(net.node, protocol, kind::NODE_PORT, &[(net.here, true), (net.there, false)]);
            rig.set_load(net.here, 40);
            rig.set_load(net.there, 0);
            for client in 0..40_u16 {
                let from = net.client.replace("4321", &(5000 + client).to_string());
                for _ in 0..2 {
                    let (verdict, frame) = rig.run("from_device", &Craft::new(protocol, &from, net.node).frame());
                    assert_eq!((verdict, read(&frame).to), (REDIRECT, net.there.parse().unwrap()), "{client}");
                }
            }
            assert_eq!((rig.load(net.here), rig.load(net.there)), (40, 40));
            // From even, it stays even.
            for client in 0..60_u16 {
                let from = net.client.replace("4321", &(6000 + client).to_string());
                rig.run("from_device", &Craft::new(protocol, &from, net.node).frame());
            }
            let (here, there) = (rig.load(net.here), rig.load(net.there));
            assert_eq!(here + there, 140);
            assert!(here.abs_diff(there) <= 1, "of two backends both are looked at: {here} {there}");
        }
    }
}

#[test]
fn a_connection_ends_once_with_both_fins_or_a_reset_or_a_choice_made_anew() {
    let mut rig = Rig::new().counting();
    for net in [IP4, IP6] {
        rig.forget();
        let (service, _) = rig.serve(net.node, TCP, kind::NODE_PORT, &[(net.here, true)]);
        rig.set_load(net.here, 0);
        let answer = |flags, port: u16| {
            Craft::new(TCP, net.here, &net.client.replace("4321", &port.to_string())).flags(flags).frame()
        };
        let ask = |flags, port: u16| {
            Craft::new(TCP, &net.client.replace("4321", &port.to_string()), net.node).flags(flags).frame()
        };
        for port in 1..=4 {
            rig.run("from_device", &ask(SYN, port));
            rig.run("from_pod", &answer(SYN | ACK, port));
        }
        assert_eq!(rig.load(net.here), 4);
        // The first ends by FIN, the backend last; the second by FIN, the client last.
        rig.run("from_device", &ask(FIN | ACK, 1));
        rig.run("from_pod", &answer(FIN | ACK, 2));
        assert_eq!(rig.load(net.here), 4, "half open is open");
        rig.run("from_pod", &answer(FIN | ACK, 1));
        rig.run("from_device", &ask(FIN | ACK, 2));
        assert_eq!(rig.load(net.here), 2);
        // The third by a reset, said twice and by both.
        rig.run("from_device", &ask(RST, 3));
        rig.run("from_device", &ask(RST, 3));
        rig.run("from_pod", &answer(RST | ACK, 3));
        assert_eq!(rig.load(net.here), 1);
        // A new one from the first's port.
        rig.run("from_device", &ask(SYN, 1));
        assert_eq!(rig.load(net.here), 2);
        // The backend of the fourth goes, and its client opens a new one from that port.
        rig.set_backends(service, 0, &[(net.there, false)]);
        rig.set_load(net.there, 0);
        rig.run("from_device", &ask(SYN, 4));
        assert_eq!((rig.load(net.here), rig.load(net.there)), (1, 1));
    }
}

#[test]
fn a_connection_that_is_answered_elsewhere_ends_with_its_client() {
    let mut rig = Rig::new().counting();
    rig.set_node(Node { dsr: Node::DSR_TCP, ..Node::default() });
    for net in [IP4, IP6] {
        rig.forget();
        rig.is_node(net.node.parse::<std::net::SocketAddr>().unwrap().ip());
        rig.serve(net.node, TCP, kind::NODE_PORT, &[(net.there, false)]);
        rig.set_load(net.there, 0);
        let ask = |flags| Craft::new(TCP, net.client, net.node).flags(flags).frame();
        for flags in [SYN, ACK] {
            assert_eq!(rig.run("from_device", &ask(flags)).0, REDIRECT);
        }
        assert!(rig.flows().iter().all(|(_, flow)| flow.flags & dsr::SENT != 0));
        assert_eq!(rig.load(net.there), 1);
        for _ in 0..2 {
            rig.run("from_device", &ask(FIN | ACK));
            assert_eq!(rig.load(net.there), 0);
        }
    }
}

#[test]
fn without_the_option_nothing_is_counted() {
    let mut rig = Rig::new();
    rig.serve(IP4.node, TCP, kind::NODE_PORT, &[(IP4.here, true)]);
    assert_eq!(rig.run("from_device", &Craft::new(TCP, IP4.client, IP4.node).frame()).0, REDIRECT);
    assert_eq!(rig.map::<skep_ebpf_common::load::LoadKey, u64>("LOADS").iter().count(), 0);
}
