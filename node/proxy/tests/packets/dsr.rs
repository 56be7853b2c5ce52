//! Direct server return, packet by packet: what the node that was asked sends, and what the backend's node makes of it.

use std::net::{IpAddr, SocketAddr};

use skep_ebpf_common::{
    conntrack::{Flow, Node, Reply, Tuple, dsr, state},
    kind,
    packet::Drop,
};

use crate::{
    craft::{ACK, Craft, FIN, SYN, TCP, UDP, error, read, read_ip},
    rig::{IP4, IP6, NEXT, Net, REDIRECT, Rig, SHOT},
};

const BOTH: u16 = Node::DSR_TCP | Node::DSR_UDP;

/// The node that clients ask, with backends on another node.
fn first(dsr: u16) -> Rig {
    let mut rig = Rig::new();
    rig.set_node(Node { dsr, ..Node::default() });
    for net in [IP4, IP6] {
        rig.is_node(ip_of(net.node));
        for protocol in [TCP, UDP] {
            rig.serve(net.node, protocol, kind::NODE_PORT, &[(net.here, false)]);
        }
    }
    rig
}

/// The backends' node.
fn second() -> Rig {
    let mut rig = Rig::new();
    for net in [IP4, IP6] {
        rig.is_node(ip_of(net.node));
        for protocol in [TCP, UDP] {
            rig.serve(&own(net), protocol, kind::NODE_PORT, &[(net.here, true)]);
        }
    }
    rig
}

/// The node port at an address of the backends' node.
fn own(net: Net) -> String {
    net.node.replace("192.0.2.1:", "192.0.2.2:").replace("::1]", "::2]")
}

fn ip_of(at: &str) -> IpAddr {
    at.parse::<SocketAddr>().unwrap().ip()
}

fn all() -> impl Iterator<Item = (Net, u8)> {
    [IP4, IP6].into_iter().flat_map(|net| [TCP, UDP].map(|protocol| (net, protocol)))
}

/// The option that names a frontend; of IPv6 all but the next header.
fn option(front: &str) -> Vec<u8> {
    let front: SocketAddr = front.parse().unwrap();
    let port = front.port().to_be_bytes();
    match front.ip() {
        IpAddr::V4(address) => [&[0x9a, 8], &port[..], &address.octets()].concat(),
        IpAddr::V6(address) => [&[0, 2, 0x1b, 20], &address.octets()[..], &port, &[0, 0]].concat(),
    }
}

/// A packet as the first node sends it on.
fn noted(protocol: u8, net: Net, front: &str) -> Craft {
    Craft { options: option(front), ..Craft::new(protocol, net.client, net.here) }
}

/// The option in a frame; empty if there is none.
fn option_in(frame: &[u8]) -> Vec<u8> {
    let packet = &frame[14..];
    if packet[0] >> 4 == 4 {
        return packet[20..usize::from(packet[0] & 15) * 4].to_vec();
    }
    if packet[6] == 60 { [&[0], &packet[41..64]].concat() } else { Vec::new() }
}

#[test]
fn the_first_node_keeps_the_source_and_says_what_was_asked() {
    let mut rig = first(BOTH);
    for (net, protocol) in all() {
        let (verdict, frame) = rig.run("from_device", &Craft::new(protocol, net.client, net.node).frame());
        assert_eq!(verdict, REDIRECT);
        let seen = read(&frame);
        assert_eq!((seen.from, seen.to), (net.client.parse().unwrap(), net.here.parse().unwrap()));
        assert_eq!((seen.ttl, option_in(&frame)), (63, option(net.node)));
        assert!(seen.body.ends_with(b"payload"));
        // Later segments have nothing to tell; each datagram has.
        let (verdict, frame) = rig.run("from_device", &Craft::new(protocol, net.client, net.node).flags(ACK).frame());
        assert_eq!((verdict, read(&frame).to), (REDIRECT, net.here.parse().unwrap()));
        assert_eq!(option_in(&frame), if protocol == TCP { Vec::new() } else { option(net.node) });
        // A first segment that was lost on the way comes again.
        let (_, frame) = rig.run("from_device", &Craft::new(protocol, net.client, net.node).frame());
        assert_eq!(option_in(&frame), option(net.node));
    }
    assert!(rig.flows().iter().all(|(_, flow)| flow.flags == dsr::SENT && flow.state & state::REPLIED != 0));
}

#[test]
fn a_datagram_without_checksum_carries_it_too_and_of_several_in_one_each_must_fit() {
    let mut rig = first(BOTH);
    for net in [IP4, IP6] {
        let craft = Craft { checksum: net.node.starts_with('['), ..Craft::new(UDP, net.client, net.node) };
        let (_, frame) = rig.run("from_device", &craft.frame());
        assert_eq!((read(&frame).to, option_in(&frame)), (net.here.parse().unwrap(), option(net.node)));
        let craft = Craft { payload: vec![7; 2900], ..Craft::new(UDP, net.client, net.node) };
        // Each of them is too long with it.
        let (verdict, frame) = rig.run_merged("from_device", &craft.frame(), 1470);
        assert_eq!((verdict, read(&frame).to.ip()), (REDIRECT, ip_of(net.client)));
    }
}

#[test]
fn what_cannot_be_answered_directly_is_answered_through_the_first_node() {
    let through = |rig: &mut Rig, craft: &Craft, net: Net| {
        let (verdict, frame) = rig.run("from_device", &craft.frame());
        assert_eq!(verdict, REDIRECT);
        assert_eq!((read(&frame).from.ip(), option_in(&frame)), (ip_of(net.node), Vec::new()), "{craft:?}");
    };
    for (net, protocol) in all() {
        let ask = Craft::new(protocol, net.client, net.node);
        // Clients that are nodes or pods.
        let mut rig = first(BOTH);
        rig.is_node(ask.from.ip());
        through(&mut rig, &ask, net);
        // Nobody but this node knows the address that was asked as a node's.
        let other: IpAddr = if net.node.starts_with('[') { "2001:db8::77" } else { "192.0.2.77" }.parse().unwrap();
        let mut rig = first(BOTH);
        rig.is_node(other);
        rig.inside(&ip_of(net.node).to_string(), if other.is_ipv4() { 32 } else { 128 });
        through(&mut rig, &ask, net);
        // Not asked for.
        through(&mut first(if protocol == TCP { Node::DSR_UDP } else { Node::DSR_TCP }), &ask, net);
        through(&mut first(0), &ask, net);
        let mut rig = first(BOTH);
        if protocol == TCP {
            // In the middle of a connection.
            through(&mut rig, &ask.clone().flags(ACK), net);
        } else {
            let big = Craft { payload: vec![1; 64], ..ask.clone() };
            let [head, tail] = big.fragments(16);
            for piece in [head, tail] {
                let (verdict, frame) = rig.run("from_device", &piece);
                assert_eq!((verdict, read_ip(&frame[14..]).0.from.ip()), (REDIRECT, ip_of(net.node)));
            }
        }
        // With other options in the way.
        let options = if net.node.starts_with('[') { vec![0, 0, 1, 4, 0, 0, 0, 0] } else { vec![1, 1, 1, 0] };
        let mut rig = first(BOTH);
        let (_, frame) = rig.run("from_device", &Craft { options: options.clone(), ..ask.clone() }.frame());
        assert_eq!(read(&frame).from.ip(), ip_of(net.node));
        // A backend here needs none of it.
        rig.forget();
        rig.serve(net.node, protocol, kind::NODE_PORT, &[(net.here, true)]);
        let (_, frame) = rig.run("from_device", &ask.frame());
        assert_eq!((read(&frame).from, option_in(&frame)), (ask.from, Vec::new()));
        assert_eq!(rig.flows()[0].1.flags, 0);
    }
}

#[test]
fn a_client_that_is_done_with_one_frontend_asks_another_from_the_same_port() {
    for (net, protocol) in all() {
        let mut rig = first(BOTH);
        let other: SocketAddr = net.node.parse().unwrap();
        let other = SocketAddr::new(other.ip(), other.port() + 1).to_string();
        rig.serve(&other, protocol, kind::NODE_PORT, &[(net.here, false)]);
        let ask = |rig: &mut Rig, front: &str, flags| {
            rig.run("from_device", &Craft::new(protocol, net.client, front).flags(flags).frame()).1
        };
        ask(&mut rig, net.node, SYN);
        // In the middle of a connection the backend could not tell them apart.
        let open = option_in(&ask(&mut rig, &other, SYN));
        assert_eq!(open, if protocol == TCP { Vec::new() } else { option(&other) });

        let mut rig = first(BOTH);
        rig.serve(&other, protocol, kind::NODE_PORT, &[(net.here, false)]);
        ask(&mut rig, net.node, SYN);
        ask(&mut rig, net.node, FIN | ACK);
        let frame = ask(&mut rig, &other, SYN);
        assert_eq!((read(&frame).from.to_string(), option_in(&frame)), (net.client.into(), option(&other)));
    }
}

#[test]
fn pieces_of_a_flow_that_is_known_go_the_same_way() {
    let mut rig = first(BOTH);
    for net in [IP4, IP6] {
        let ask = Craft::new(UDP, net.client, net.node);
        rig.run("from_device", &ask.frame());
        let big = Craft { payload: vec![1; 64], ..ask };
        for piece in big.fragments(16) {
            let (verdict, frame) = rig.run("from_device", &piece);
            let seen = read_ip(&frame[14..]).0;
            assert_eq!((verdict, seen.from.ip(), seen.to.ip()), (REDIRECT, ip_of(net.client), ip_of(net.here)));
            assert_eq!(frame.len(), piece.len());
        }
    }
}

#[test]
fn what_does_not_fit_with_the_option_is_told_to_the_client() {
    let mut rig = first(BOTH);
    for (net, extra, headers) in [(IP4, 8, 28), (IP6, 24, 48)] {
        let whole = |size: usize| Craft { payload: vec![3; size - headers], ..Craft::new(UDP, net.client, net.node) };
        let (verdict, frame) = rig.run("from_device", &whole(1500 - extra).frame());
        assert_eq!((verdict, frame.len()), (REDIRECT, 1514));
        let (verdict, frame) = rig.run("from_device", &whole(1500 - extra + 1).frame());
        let told = read(&frame);
        assert_eq!((verdict, told.to.ip()), (REDIRECT, ip_of(net.client)));
        let kind = if net.node.starts_with('[') { [2, 0] } else { [3, 4] };
        assert_eq!(told.body[..2], kind);
        assert_eq!(told.body[6..8], ((1500 - extra) as u16).to_be_bytes());
    }
    assert_eq!(rig.drops(Drop::TooBig), 2);
}

#[test]
fn the_backends_node_shows_the_pod_a_plain_packet_and_answers_as_the_frontend() {
    let mut sent = Vec::new();
    let mut rig = first(BOTH);
    for (net, protocol) in all() {
        sent.push(rig.run("from_device", &Craft::new(protocol, net.client, net.node).frame()).1);
    }
    let mut rig = second();
    for ((net, protocol), frame) in all().zip(sent) {
        rig.forget();
        let (verdict, frame) = rig.run("from_device", &frame);
        assert_eq!(verdict, REDIRECT);
        assert_eq!(frame, Craft { ttl: 62, ..Craft::new(protocol, net.client, net.here) }.frame());
        assert_eq!(rig.flows()[0].1.flags, dsr::RECEIVED);
        // The next one has no option, if it is a segment.
        let next = Craft::new(protocol, net.client, net.here).flags(ACK);
        let (verdict, frame) = rig.run("from_device", &next.frame());
        assert_eq!((verdict, read(&frame).from), (REDIRECT, net.client.parse().unwrap()));

        let answer = Craft::new(protocol, net.here, net.client).flags(SYN | ACK);
        let (verdict, frame) = rig.run("from_pod", &answer.frame());
        assert_eq!(verdict, REDIRECT);
        let seen = read(&frame);
        assert_eq!((seen.from, seen.to), (net.node.parse().unwrap(), net.client.parse().unwrap()));
        assert_eq!(option_in(&frame), Vec::<u8>::new());
        let (states, uses): (Vec<u32>, Vec<u64>) =
            (vec![rig.flows()[0].1.state, rig.replies()[0].1.state], vec![rig.flows()[0].1.used]);
        assert!(states.iter().all(|bits| bits & state::REPLIED != 0) && uses[0] > 0, "{states:?}");
    }
}

#[test]
fn a_process_of_the_backends_node_answers_as_the_frontend() {
    for (net, protocol) in all() {
        let mut rig = second();
        let here = own(net).replace("30080", "8080");
        let (ours, theirs) = (own(net), net.node);
        let family = if net.node.starts_with('[') { "-6 " } else { "" };
        let length = if family.is_empty() { 24 } else { 64 };
        crate::rig::ip(&format!(
            "{family}address add {}/{length} dev out0 {}",
            ip_of(&ours),
            if family.is_empty() { "" } else { "nodad" }
        ));
        rig.serve(&ours, protocol, kind::NODE_PORT, &[(&here, true)]);
        let craft = Craft { options: option(theirs), ..Craft::new(protocol, net.client, &here) };
        let (verdict, frame) = rig.run("from_device", &craft.frame());
        assert_eq!((verdict, frame), (NEXT, Craft::new(protocol, net.client, &here).frame()), "up the stack");
        let (verdict, frame) = rig.run("to_device", &Craft::new(protocol, &here, net.client).frame());
        assert_eq!((verdict, read(&frame).from), (NEXT, theirs.parse().unwrap()));
    }
}

#[test]
fn an_option_that_cannot_be_true_changes_nothing() {
    for (net, protocol) in all() {
        let mut rig = second();
        let is_ip6 = net.node.starts_with('[');
        let elsewhere = if is_ip6 { "[fd01::6]:8080" } else { "10.1.0.6:8080" };
        // Another Service, with another pod of this node.
        let balanced = if is_ip6 { "[2001:db8:5::1]:443" } else { "198.51.100.1:443" };
        rig.serve(balanced, protocol, kind::LOAD_BALANCER, &[(elsewhere, true)]);
        let cluster_ip = if is_ip6 { "[fd10::1]:80" } else { "10.96.0.1:80" };
        rig.serve(cluster_ip, protocol, kind::CLUSTER_IP, &[(net.here, true)]);
        let stranger = if is_ip6 { "[2001:db8::99]:30080" } else { "8.8.8.8:30080" };
        let no_port = net.node.replace("30080", "30081");
        for front in [stranger, &no_port, balanced, cluster_ip, net.client] {
            let frame = noted(protocol, net, front).frame();
            assert_eq!(rig.run("from_device", &frame), (NEXT, frame.clone()), "{front}");
        }
        // For a port that is no endpoint's, for a pod that is another Service's.
        let port = net.here.replace("8080", "22");
        for to in [port.as_str(), elsewhere] {
            let frame = Craft { options: option(net.node), ..Craft::new(protocol, net.client, to) }.frame();
            assert_eq!(rig.run("from_device", &frame), (NEXT, frame.clone()), "{to}");
        }
        // From a pod.
        let frame = noted(protocol, net, net.node).frame();
        assert_eq!(rig.run("from_pod", &frame), (NEXT, frame.clone()));
        // Cut short at every length, and with another length or type.
        for length in net.shortest()..frame.len() {
            let cut = &frame[..length];
            assert_eq!(rig.run("from_device", cut), (NEXT, cut.to_vec()), "{length} bytes");
        }
        for at in if is_ip6 { 1..4 } else { 0..2 } {
            let mut options = option(net.node);
            options[at] ^= 0x40;
            if is_ip6 && at == 1 {
                continue;
            }
            let frame = Craft { options, ..Craft::new(protocol, net.client, net.here) }.frame();
            assert_eq!(rig.run("from_device", &frame), (NEXT, frame.clone()), "byte {at}");
        }
        assert_eq!((rig.flows().len(), rig.replies().len()), (0, 0));
        // The pod answers as itself.
        let answer = Craft::new(protocol, net.here, net.client).flags(SYN | ACK).frame();
        assert_eq!(rig.run("from_pod", &answer), (NEXT, answer.clone()));
        // What is true is taken: of an address of a load balancer too, for its own endpoint.
        let frame = Craft { options: option(balanced), ..Craft::new(protocol, net.client, elsewhere) }.frame();
        assert_eq!(rig.run("from_device", &frame).0, REDIRECT);
    }
}

#[test]
fn a_backend_that_has_gone_gets_nothing_new_and_ends_what_it_has() {
    for (net, protocol) in all() {
        let mut rig = second();
        let (service, _) = rig.serve(&own(net), protocol, kind::NODE_PORT, &[(net.here, true)]);
        let frame = noted(protocol, net, net.node).frame();
        assert_eq!(rig.run("from_device", &frame).0, REDIRECT);
        rig.set_backends(service, 0, &[]);
        let later = Craft::new(protocol, net.client, net.here).flags(ACK).frame();
        let (verdict, _) = rig.run("from_device", &later);
        assert_eq!(verdict, if protocol == TCP { REDIRECT } else { NEXT }, "connections drain");
        assert_eq!(rig.run("from_device", &frame), (NEXT, frame.clone()), "not believed any more");
    }
}

#[test]
fn one_port_of_a_client_talks_to_one_frontend_of_a_pod() {
    for (net, protocol) in all() {
        let mut rig = second();
        let third = own(net).replace("::2]", "::3]").replace("192.0.2.2", "192.0.2.3");
        rig.is_node(ip_of(&third));
        rig.run("from_device", &noted(protocol, net, net.node).frame());
        let answered = |rig: &mut Rig| {
            let frame = rig.run("from_pod", &Craft::new(protocol, net.here, net.client).flags(ACK).frame()).1;
            read(&frame).from.to_string()
        };
        let (verdict, _) = rig.run("from_device", &noted(protocol, net, &third).frame());
        if protocol == UDP {
            // Who asked last is answered.
            assert_eq!((verdict, answered(&mut rig)), (REDIRECT, third));
            continue;
        }
        assert_eq!((verdict, rig.drops(Drop::NoPort)), (SHOT, 1));
        assert_eq!(answered(&mut rig), net.node);
        // Once it is over the port is free.
        rig.run("from_device", &Craft::new(TCP, net.client, net.here).flags(FIN | ACK).frame());
        assert_eq!(rig.run("from_device", &noted(TCP, net, &third).frame()).0, REDIRECT);
        assert_eq!(answered(&mut rig), third);
    }
}

#[test]
fn both_nodes_learn_how_a_connection_ends() {
    let bits = |rig: &mut Rig| rig.flows()[0].1.state;
    for net in [IP4, IP6] {
        let mut rig = first(BOTH);
        let ask =
            |rig: &mut Rig, flags| rig.run("from_device", &Craft::new(TCP, net.client, net.node).flags(flags).frame());
        ask(&mut rig, SYN);
        assert_eq!(bits(&mut rig), 0);
        ask(&mut rig, ACK);
        assert_eq!(bits(&mut rig), state::REPLIED, "who acknowledges was answered");
        ask(&mut rig, FIN | ACK);
        assert_eq!(bits(&mut rig), state::REPLIED | state::CLIENT_FIN);

        let mut rig = second();
        rig.run("from_device", &noted(TCP, net, net.node).frame());
        let ask =
            |rig: &mut Rig, flags| rig.run("from_device", &Craft::new(TCP, net.client, net.here).flags(flags).frame());
        let answer =
            |rig: &mut Rig, flags| rig.run("from_pod", &Craft::new(TCP, net.here, net.client).flags(flags).frame());
        answer(&mut rig, SYN | ACK);
        ask(&mut rig, ACK);
        answer(&mut rig, FIN | ACK);
        ask(&mut rig, FIN | ACK);
        let all = state::REPLIED | state::CLIENT_FIN | state::BACKEND_FIN | state::BACKEND_FIRST;
        assert_eq!((bits(&mut rig), rig.replies()[0].1.state), (all, all));
    }
}

#[test]
fn an_entry_that_was_pushed_out_comes_back_with_the_clients_next_packet() {
    for (net, protocol) in all() {
        let mut rig = second();
        rig.run("from_device", &noted(protocol, net, net.node).frame());
        let (key, mut flow) = rig.flows()[0];
        flow.used -= 2_000_000_000;
        rig.map::<Tuple, Flow>("FLOWS").insert(key, flow, 0).unwrap();
        let (reply_key, reply) = rig.replies()[0];
        rig.map::<Tuple, Reply>("REPLIES").remove(&reply_key).unwrap();
        let (verdict, _) = rig.run("from_device", &Craft::new(protocol, net.client, net.here).flags(ACK).frame());
        assert_eq!(verdict, REDIRECT);
        let (again, back) = rig.replies()[0];
        assert_eq!((again, back.frontend, back.flags), (reply_key, reply.frontend, dsr::RECEIVED));
        assert!(back.is_sealed_for(&again));
    }
}

#[test]
fn icmp_errors_find_the_pod_and_the_client() {
    for (net, protocol) in all() {
        let is_ip6 = net.node.starts_with('[');
        let (too_big, unreachable) = if is_ip6 { ((2, 0), (1, 4)) } else { ((3, 4), (3, 3)) };
        let router: IpAddr = if is_ip6 { "2001:db8::fe" } else { "192.0.2.254" }.parse().unwrap();
        // About an answer: it comes to the node whose address the answer bears.
        let mut rig = first(BOTH);
        rig.run("from_device", &Craft::new(protocol, net.client, net.node).frame());
        let answer = Craft::new(protocol, net.node, net.client).flags(ACK).frame();
        let told = error(router, ip_of(net.node), too_big.0, too_big.1, &answer, 8);
        let (verdict, on) = rig.run("from_device", &told);
        assert_eq!(verdict, REDIRECT);
        let (outer, at) = read_ip(&on[14..]);
        assert_eq!((outer.from.ip(), outer.to.ip()), (router, ip_of(net.here)));
        let quoted = read_ip(&on[14 + at + 8..]).0;
        assert_eq!((quoted.from, quoted.to), (net.here.parse().unwrap(), net.client.parse().unwrap()));

        let mut rig = second();
        rig.run("from_device", &noted(protocol, net, net.node).frame());
        let (verdict, told) = rig.run("from_device", &on);
        assert_eq!((verdict, &told[34..]), (REDIRECT, &on[34..]), "the pod knows what it sent");
        // About the client's packet, by the pod: the client knows the frontend only.
        let asked = Craft::new(protocol, net.client, net.here).flags(ACK).frame();
        let told = error(ip_of(net.here), ip_of(net.client), unreachable.0, unreachable.1, &asked, 8);
        let (verdict, on) = rig.run("from_pod", &told);
        assert_eq!(verdict, REDIRECT);
        let (outer, at) = read_ip(&on[14..]);
        assert_eq!((outer.from.ip(), outer.to.ip()), (ip_of(net.node), ip_of(net.client)));
        let quoted = read_ip(&on[14 + at + 8..]).0;
        assert_eq!((quoted.from, quoted.to), (net.client.parse().unwrap(), net.node.parse().unwrap()));
    }
}
