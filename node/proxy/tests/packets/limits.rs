//! Tables that fill up: what is established stays, what finds no room is counted, and room comes again.

use skep_ebpf_common::{
    conntrack::{Flow, Node, Reply, Tuple},
    kind,
    packet::Drop,
};

use crate::{
    craft::{ACK, Craft, FIN, RST, SYN, TCP, UDP, read},
    rig::{IP4, IP6, NEXT, Net, REDIRECT, Rig, SHOT},
};

/// How many entries the rig's maps of flows have.
const CAPACITY: usize = 1024;

/// The n-th of many clients.
fn client(net: Net, n: usize) -> String {
    let (host, port) = (n / 50_000 + 10, n % 50_000 + 1024);
    if net.node.starts_with('[') { format!("[2001:db8::{host:x}:1]:{port}") } else { format!("192.0.2.{host}:{port}") }
}

/// All drops, whatever the reason.
fn all_drops(rig: &mut Rig) -> u64 {
    Drop::ALL.into_iter().map(|reason| rig.drops(reason)).sum()
}

#[test]
fn a_flood_of_new_flows_pushes_out_no_connection_that_is_in_use_and_every_loss_is_counted() {
    let mut rig = Rig::new();
    for net in [IP4, IP6] {
        rig.forget();
        let (service, _) = rig.serve(net.node, TCP, kind::NODE_PORT, &[(net.here, true)]);
        let old: Vec<String> = (0..40).map(|n| client(net, n)).collect();
        for from in &old {
            assert_eq!(rig.run("from_device", &Craft::new(TCP, from, net.node).frame()).0, REDIRECT);
            let answer = Craft::new(TCP, net.here, from).flags(SYN | ACK).frame();
            assert_eq!(rig.run("from_pod", &answer).0, REDIRECT);
        }
        // Who is forgotten would now get another backend.
        rig.set_backends(service, 0, &[(net.there, false)]);
        let before = all_drops(&mut rig);
        let (mut sent, mut lost) = (0, 0);
        for n in 0..CAPACITY * 3 {
            let (verdict, _) = rig.run("from_device", &Craft::new(TCP, &client(net, 1000 + n), net.node).frame());
            match verdict {
                REDIRECT => sent += 1,
                SHOT => lost += 1,
                other => panic!("verdict {other}"),
            }
            if n % 64 != 0 {
                continue;
            }
            for from in &old {
                let (verdict, out) = rig.run("from_device", &Craft::new(TCP, from, net.node).flags(ACK).frame());
                assert_eq!((verdict, read(&out).to.to_string()), (REDIRECT, net.here.to_owned()), "after {n} others");
                let answer = Craft::new(TCP, net.here, from).flags(ACK).frame();
                let (verdict, out) = rig.run("from_pod", &answer);
                assert_eq!((verdict, read(&out).from.to_string()), (REDIRECT, net.node.to_owned()), "after {n} others");
            }
        }
        assert_eq!(all_drops(&mut rig) - before, lost);
        assert!(sent > CAPACITY, "{sent} of the new ones got through");
        assert!(rig.flows().len() <= CAPACITY && rig.replies().len() <= CAPACITY);
    }
}

/// Lets every flow have been silent for so long.
fn age(rig: &mut Rig, seconds: u64) {
    for (key, mut flow) in rig.flows() {
        flow.used -= seconds * 1_000_000_000;
        rig.map::<Tuple, Flow>("FLOWS").insert(key, flow, 0).unwrap();
    }
    for (key, mut reply) in rig.replies() {
        reply.used -= seconds * 1_000_000_000;
        rig.map::<Tuple, Reply>("REPLIES").insert(key, reply, 0).unwrap();
    }
}

#[test]
fn ports_that_ran_out_are_free_again_when_their_flows_are_over_and_not_before() {
    let mut rig = Rig::new();
    for net in [IP4, IP6] {
        rig.forget();
        rig.serve(net.node, TCP, kind::NODE_PORT, &[(net.there, false)]);
        rig.set_node(Node { first_port: 62_000, last_port: 62_007, ..Node::default() });
        let open = |rig: &mut Rig, n: usize| {
            let (verdict, out) = rig.run("from_device", &Craft::new(TCP, &client(net, n), net.node).frame());
            (verdict == REDIRECT).then(|| read(&out).from)
        };
        let mut held = Vec::new();
        for n in 0..200 {
            held.extend(open(&mut rig, n).map(|at| (n, at)));
        }
        assert_eq!(held.len(), 8, "one for each port");
        for (_, at) in &held {
            let answer = Craft::new(TCP, net.there, &at.to_string()).flags(SYN | ACK).frame();
            assert_eq!(rig.run("from_device", &answer).0, REDIRECT);
        }
        // Established, they keep theirs, also when nothing is said for an hour.
        age(&mut rig, 3600);
        let before = rig.drops(Drop::NoPort);
        assert!((200..300).all(|n| open(&mut rig, n).is_none()));
        assert_eq!(rig.drops(Drop::NoPort), before + 100);

        // One ends in order, another is broken off.
        let end = |rig: &mut Rig, n: usize, at: std::net::SocketAddr, flags: u8| {
            let (from, at) = (client(net, n), at.to_string());
            assert_eq!(
                rig.run("from_device", &Craft::new(TCP, &from, net.node).flags(flags | ACK).frame()).0,
                REDIRECT
            );
            if flags == FIN {
                let answer = Craft::new(TCP, net.there, &at).flags(FIN | ACK).frame();
                assert_eq!(rig.run("from_device", &answer).0, REDIRECT);
            }
        };
        end(&mut rig, held[0].0, held[0].1, FIN);
        end(&mut rig, held[1].0, held[1].1, RST);
        for (n, at) in &held[2..] {
            let answer = Craft::new(TCP, net.there, &at.to_string()).flags(ACK).frame();
            assert_eq!(rig.run("from_device", &answer).0, REDIRECT, "{n}");
        }
        age(&mut rig, 60);
        let mut again: Vec<_> = (300..500).filter_map(|n| open(&mut rig, n)).collect();
        again.sort();
        let mut freed = vec![held[0].1, held[1].1];
        freed.sort();
        assert_eq!(again, freed);
        rig.set_node(Node::default());
    }
}

#[test]
fn no_flow_begins_while_the_maps_of_flows_are_exchanged_and_those_that_are_there_go_on() {
    let mut rig = Rig::new();
    for protocol in [TCP, UDP] {
        rig.forget();
        rig.serve(IP4.node, protocol, kind::NODE_PORT, &[(IP4.here, true)]);
        let packet = |from: &str| Craft::new(protocol, from, IP4.node).frame();
        assert_eq!(rig.run("from_device", &packet(IP4.client)).0, REDIRECT);
        let before = rig.drops(Drop::Conntrack);
        rig.set_tracking(u32::MAX);
        assert_eq!(rig.run("from_device", &packet("192.0.2.77:7")).0, SHOT);
        assert_eq!(rig.drops(Drop::Conntrack), before + 1);
        assert_eq!(rig.run("from_device", &packet(IP4.client)).0, REDIRECT);
        assert_eq!(
            rig.run("from_pod", &Craft::new(protocol, IP4.here, IP4.client).flags(SYN | ACK).frame()).0,
            REDIRECT
        );
        // What no Service has to do with passes as ever.
        let other = Craft::new(protocol, "192.0.2.77:7", "192.0.2.1:22").frame();
        assert_eq!(rig.run("from_device", &other), (NEXT, other.clone()));
        // The time is over, though nobody said so.
        rig.set_tracking(2);
        assert_eq!(rig.run("from_device", &packet("192.0.2.77:7")).0, REDIRECT);
        assert_eq!(rig.flows().len(), 2);
    }
}
