//! Source ports of translated flows: how many connections one backend elsewhere gets, and which ports are left alone.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use skep_ebpf_common::{
    conntrack::{Flow, Node, Reply, Tuple},
    kind,
    packet::Drop,
};

use crate::{
    craft::{ACK, Craft, FIN, SYN, TCP, UDP, read},
    rig::{IP4, IP6, Net, REDIRECT, Rig, SHOT},
};

/// Ports of the small range of these tests.
const PORTS: u16 = 64;
const SECOND: u64 = 1_000_000_000;

fn small(net: Net, protocol: u8) -> Rig {
    let mut rig = Rig::new();
    rig.set_node(Node { first_port: 2000, last_port: 2000 + PORTS - 1, ..Node::default() });
    rig.serve(net.node, protocol, kind::NODE_PORT, &[(net.there, false)]);
    rig
}

/// A client of its own for each number.
fn client(net: Net, number: u16) -> String {
    let host: SocketAddr = net.client.parse().unwrap();
    SocketAddr::new(host.ip(), 1024 + number).to_string()
}

/// Opens a connection and closes it, by the client or by the backend. False if it got no port.
fn connection(rig: &mut Rig, net: Net, number: u16, by_backend: bool) -> bool {
    let from = client(net, number);
    let ask = |rig: &mut Rig, flags| rig.run("from_device", &Craft::new(TCP, &from, net.node).flags(flags).frame());
    let (verdict, frame) = ask(rig, SYN);
    if verdict == SHOT {
        return false;
    }
    let source = read(&frame).from.to_string();
    let answer = |rig: &mut Rig, flags| {
        let (verdict, frame) = rig.run("from_device", &Craft::new(TCP, net.there, &source).flags(flags).frame());
        assert_eq!((verdict, read(&frame).to.to_string()), (REDIRECT, from.clone()));
    };
    answer(rig, SYN | ACK);
    ask(rig, ACK);
    if by_backend {
        answer(rig, FIN | ACK);
    }
    ask(rig, FIN | ACK);
    if !by_backend {
        answer(rig, FIN | ACK);
    }
    true
}

/// Lets time pass: everything that is known was last heard of so much earlier.
fn pass(rig: &mut Rig, time: u64) {
    for (key, flow) in rig.flows() {
        rig.map::<Tuple, Flow>("FLOWS").insert(key, Flow { used: flow.used - time, ..flow }, 0).unwrap();
    }
    for (key, reply) in rig.replies() {
        rig.map::<Tuple, Reply>("REPLIES").insert(key, Reply { used: reply.used - time, ..reply }, 0).unwrap();
    }
}

#[test]
fn a_range_of_ports_serves_six_times_as_many_connections_as_it_has_ports_within_eleven_seconds() {
    for (net, by_backend) in [(IP4, false), (IP6, true)] {
        let mut rig = small(net, TCP);
        let mut served = 0;
        for round in 0..10 {
            // Three of four ports within a good second, so that mostly another connection has to give one up.
            let count = PORTS * 3 / 8;
            served += (0..count).filter(|one| connection(&mut rig, net, round * count + one, by_backend)).count();
            pass(&mut rig, SECOND / 2 + 50_000_000);
            served +=
                (0..count).filter(|one| connection(&mut rig, net, 5000 + round * count + one, by_backend)).count();
            pass(&mut rig, SECOND / 2 + 50_000_000);
        }
        // Where a port was kept for ten seconds there was one connection for each.
        let least = 6 * usize::from(PORTS);
        assert!(served >= least, "{served}, and {} found no port", rig.drops(Drop::NoPort));
    }
}

#[test]
fn a_client_that_comes_again_from_its_port_keeps_the_one_it_had_and_nobody_else_gets_it() {
    for (net, by_backend) in [(IP4, true), (IP6, false), (IP4, false), (IP6, true)] {
        let mut rig = Rig::new();
        rig.set_node(Node { first_port: 2000, last_port: 2999, ..Node::default() });
        rig.serve(net.node, TCP, kind::NODE_PORT, &[(net.there, false)]);
        let source = |rig: &mut Rig, number| {
            let from = client(net, number);
            read(&rig.run("from_device", &Craft::new(TCP, &from, net.node).frame()).1).from.port()
        };
        let mut ports = std::collections::BTreeSet::new();
        for number in 0..20 {
            assert!(connection(&mut rig, net, number, by_backend));
            let flow = rig.flows().into_iter().find(|(key, _)| key.source_port == (1024 + number).to_be()).unwrap().1;
            assert_eq!(source(&mut rig, number), u16::from_be(flow.from_port));
            assert!(ports.insert(flow.from_port), "one for each");
        }
    }
}

#[test]
fn connections_that_are_open_keep_their_ports() {
    for net in [IP4, IP6] {
        let mut rig = small(net, TCP);
        let mut sources = Vec::new();
        for number in 0..PORTS * 2 {
            let from = client(net, number);
            let (verdict, frame) = rig.run("from_device", &Craft::new(TCP, &from, net.node).frame());
            if verdict == SHOT {
                continue;
            }
            let source = read(&frame).from.to_string();
            rig.run("from_device", &Craft::new(TCP, net.there, &source).flags(SYN | ACK).frame());
            pass(&mut rig, SECOND);
            sources.push((source, from));
        }
        // Nearly all ports are found, none of them twice, and what finds none is counted.
        assert!(sources.len() > usize::from(PORTS) * 8 / 10, "{}", sources.len());
        assert_eq!(rig.drops(Drop::NoPort), u64::from(PORTS) * 2 - sources.len() as u64);
        for (source, from) in &sources {
            let (_, frame) = rig.run("from_device", &Craft::new(TCP, net.there, source).flags(ACK).frame());
            assert_eq!(read(&frame).to.to_string(), *from);
        }
    }
}

#[test]
fn a_question_gives_its_port_away_and_a_conversation_does_not() {
    for net in [IP4, IP6] {
        let mut rig = small(net, UDP);
        let ask =
            |rig: &mut Rig, number| rig.run("from_device", &Craft::new(UDP, &client(net, number), net.node).frame());
        let talk = |rig: &mut Rig, number| {
            let (verdict, frame) = ask(rig, number);
            assert_eq!(verdict, REDIRECT);
            let source = read(&frame).from.to_string();
            let (verdict, _) = rig.run("from_device", &Craft::new(UDP, net.there, &source).frame());
            assert_eq!(verdict, REDIRECT);
            source
        };
        let source = talk(&mut rig, 0);
        ask(&mut rig, 0);
        for number in 1..PORTS * 4 {
            // Ports are asked for before questions are forgotten, and few are too young to be given away.
            pass(&mut rig, SECOND / 3);
            talk(&mut rig, number);
        }
        pass(&mut rig, 60 * SECOND);
        let (verdict, frame) = rig.run("from_device", &Craft::new(UDP, net.there, &source).frame());
        assert_eq!((verdict, read(&frame).to.to_string()), (REDIRECT, client(net, 0)));
    }
}

#[test]
fn a_flow_whose_port_was_given_away_leaves_it_to_the_other() {
    for net in [IP4, IP6] {
        let mut rig = Rig::new();
        rig.set_node(Node { first_port: 2000, last_port: 2000, ..Node::default() });
        rig.serve(net.node, UDP, kind::NODE_PORT, &[(net.there, false)]);
        let ask =
            |rig: &mut Rig, number| rig.run("from_device", &Craft::new(UDP, &client(net, number), net.node).frame());
        let (_, frame) = ask(&mut rig, 1);
        let source = read(&frame).from.to_string();
        pass(&mut rig, 2 * SECOND);
        assert_eq!(ask(&mut rig, 2).0, REDIRECT);
        // The first comes back and finds no port.
        assert_eq!(ask(&mut rig, 1).0, SHOT);
        let (_, frame) = rig.run("from_device", &Craft::new(UDP, net.there, &source).frame());
        assert_eq!(read(&frame).to.to_string(), client(net, 2));
    }
}

#[test]
fn ports_of_the_nodes_own_sockets_are_not_taken() {
    for (net, protocol) in [(IP4, TCP), (IP4, UDP), (IP6, TCP), (IP6, UDP)] {
        let mut rig = Rig::new();
        rig.set_node(Node { first_port: 2000, last_port: 2001, ..Node::default() });
        rig.serve(net.node, protocol, kind::NODE_PORT, &[(net.there, false)]);
        let any = if net.node.starts_with('[') { "[::]:2000" } else { "0.0.0.0:2000" };
        let _held: Box<dyn std::any::Any> = if protocol == TCP {
            Box::new(TcpListener::bind(any).unwrap())
        } else {
            Box::new(UdpSocket::bind(any).unwrap())
        };
        let (verdict, frame) = rig.run("from_device", &Craft::new(protocol, &client(net, 1), net.node).frame());
        assert_eq!((verdict, read(&frame).from.port()), (REDIRECT, 2001));
        let (verdict, _) = rig.run("from_device", &Craft::new(protocol, &client(net, 2), net.node).frame());
        assert_eq!((verdict, rig.drops(Drop::NoPort)), (SHOT, 1));
    }
}

#[test]
fn who_is_not_translated_gets_the_answers_that_a_flow_waits_for() {
    // Processes of this node, whose packets leave it; and clients that ask this node's backend itself.
    for (net, protocol) in [(IP4, UDP), (IP6, UDP), (IP4, TCP)] {
        for (program, at_home) in [("to_device", false), ("from_device", true)] {
            let mut rig = Rig::new();
            let backend = if at_home { net.here } else { net.there };
            rig.serve(net.node, protocol, kind::NODE_PORT, &[(backend, at_home)]);
            let ask = |rig: &mut Rig| {
                let (verdict, frame) =
                    rig.run("from_device", &Craft::new(protocol, net.client, net.node).flags(SYN).frame());
                assert_ne!(verdict, SHOT);
                read(&frame).from.to_string()
            };
            let source = ask(&mut rig);
            let address: SocketAddr = source.parse().unwrap();
            // Others' ports and peers are nobody's business, nor is what is in the middle of a connection.
            let elsewhere = SocketAddr::new(address.ip(), address.port() ^ 1).to_string();
            let mut harmless = vec![Craft::new(protocol, &elsewhere, backend).flags(SYN)];
            if protocol == TCP {
                harmless.push(Craft::new(protocol, &source, backend).flags(ACK));
            }
            for craft in harmless {
                rig.run(program, &craft.frame());
                assert_eq!((rig.flows().len(), rig.replies().len()), (1, 1));
            }

            rig.run(program, &Craft::new(protocol, &source, backend).flags(SYN).frame());
            assert_eq!((rig.flows().len(), rig.replies().len()), (0, 0), "{program}");
            let answered = if at_home { "from_pod" } else { "from_device" };
            let (_, frame) = rig.run(answered, &Craft::new(protocol, backend, &source).flags(SYN | ACK).frame());
            assert_eq!(read(&frame).from.to_string(), backend, "the answer comes from whom was asked");
            // The client of the flow is served all the same.
            ask(&mut rig);
            assert_eq!((rig.flows().len(), rig.replies().len()), (1, 1));
        }
    }
}
