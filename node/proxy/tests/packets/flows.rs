//! TCP and UDP packets, there and back.

use skep_ebpf_common::{
    conntrack::{Flow, Node, Tuple, state},
    kind,
    packet::Drop,
    service_flags,
};

use crate::{
    craft::{ACK, Craft, FIN, RST, SYN, TCP, UDP, read, read_ip},
    rig::{IP4, IP6, NEXT, Net, REDIRECT, Rig, SHOT, ip, words},
};

fn each(test: impl Fn(&mut Rig, Net, u8)) {
    let mut rig = Rig::new();
    for net in [IP4, IP6] {
        for protocol in [TCP, UDP] {
            rig.forget();
            test(&mut rig, net, protocol);
        }
    }
}

#[test]
fn a_local_backend_sees_the_client_and_answers_as_the_node_port() {
    each(|rig, net, protocol| {
        rig.serve(net.node, protocol, kind::NODE_PORT, &[(net.here, true)]);
        let (verdict, frame) = rig.run("from_device", &Craft::new(protocol, net.client, net.node).frame());
        assert_eq!(verdict, REDIRECT);
        let seen = read(&frame);
        assert_eq!((seen.from, seen.to), (net.client.parse().unwrap(), net.here.parse().unwrap()));
        assert_eq!(seen.ttl, 63);
        assert!(seen.body.ends_with(b"payload"));

        let answer = Craft::new(protocol, net.here, net.client).flags(SYN | ACK);
        let (verdict, frame) = rig.run("from_pod", &answer.frame());
        assert_eq!(verdict, REDIRECT);
        let seen = read(&frame);
        assert_eq!((seen.from, seen.to), (net.node.parse().unwrap(), net.client.parse().unwrap()));
        assert_eq!(rig.flows()[0].1.state & state::REPLIED, state::REPLIED);
    });
}

#[test]
fn a_remote_backend_sees_the_node_and_the_client_the_node_port() {
    each(|rig, net, protocol| {
        rig.serve(net.node, protocol, kind::NODE_PORT, &[(net.there, false)]);
        let (verdict, frame) = rig.run("from_device", &Craft::new(protocol, net.client, net.node).frame());
        assert_eq!(verdict, REDIRECT);
        let seen = read(&frame);
        assert_eq!(seen.to, net.there.parse().unwrap());
        assert_eq!(seen.from.ip(), net.node.parse::<std::net::SocketAddr>().unwrap().ip());
        assert!(seen.from.port() >= Node::FIRST_PORT);

        let answer = Craft::new(protocol, net.there, &seen.from.to_string()).flags(SYN | ACK);
        let (verdict, frame) = rig.run("from_device", &answer.frame());
        assert_eq!(verdict, REDIRECT);
        let back = read(&frame);
        assert_eq!((back.from, back.to), (net.node.parse().unwrap(), net.client.parse().unwrap()));

        // The next packet of the flow goes the same way, from the same port.
        let (_, frame) = rig.run("from_device", &Craft::new(protocol, net.client, net.node).flags(ACK).frame());
        assert_eq!(read(&frame).from, seen.from);
        assert_eq!(rig.flows().len(), 1);
    });
}

#[test]
fn the_nodes_own_processes_answer_as_the_node_port() {
    each(|rig, net, protocol| {
        let own = net.node.replace("30080", "8080");
        rig.serve(net.node, protocol, kind::NODE_PORT, &[(&own, true)]);
        let (verdict, frame) = rig.run("from_device", &Craft::new(protocol, net.client, net.node).frame());
        assert_eq!(verdict, NEXT, "up the stack");
        assert_eq!(read(&frame).to, own.parse().unwrap());
        let (verdict, frame) = rig.run("to_device", &Craft::new(protocol, &own, net.client).frame());
        assert_eq!(verdict, NEXT);
        let seen = read(&frame);
        assert_eq!((seen.from, seen.to), (net.node.parse().unwrap(), net.client.parse().unwrap()));
    });
}

#[test]
fn what_is_nobodys_passes_untouched() {
    each(|rig, net, protocol| {
        rig.serve(net.node, protocol, kind::NODE_PORT, &[(net.here, true)]);
        for (from, to) in
            [(net.client, net.here), (net.here, net.client), (net.client, net.node.replace("30080", "22").as_str())]
        {
            let frame = Craft::new(protocol, from, to).frame();
            for program in ["from_device", "from_pod", "to_device"] {
                assert_eq!(rig.run(program, &frame), (NEXT, frame.clone()), "{program} {from} {to}");
            }
        }
        // For another host: a bridge or a tap shows those.
        let mut frame = Craft::new(protocol, net.client, net.node).frame();
        frame[5] = 0x77;
        assert_eq!(rig.run("from_device", &frame), (NEXT, frame.clone()));
        // From where nobody can be.
        let nobody: &[&str] = if net.node.starts_with('[') {
            &["[ff02::1]:4321"]
        } else {
            &["127.0.0.1:4321", "0.0.0.0:4321", "224.0.0.1:4321"]
        };
        for from in nobody {
            let frame = Craft::new(protocol, from, net.node).frame();
            assert_eq!(rig.run("from_device", &frame), (NEXT, frame.clone()), "{from}");
        }
        // Another protocol, another EtherType.
        let mut frame = Craft::new(protocol, net.client, net.node).frame();
        frame[12..14].copy_from_slice(&[8, 6]);
        assert_eq!(rig.run("from_device", &frame), (NEXT, frame.clone()));
        assert_eq!(rig.flows(), []);
    });
}

#[test]
fn packets_cut_anywhere_and_damaged_anywhere_are_never_misread() {
    each(|rig, net, protocol| {
        rig.serve(net.node, protocol, kind::NODE_PORT, &[(net.here, true)]);
        let whole = Craft::new(protocol, net.client, net.node).frame();
        // (Newer kernels refuse to run a program on less than a whole IP header.)
        for length in net.shortest()..whole.len() {
            let cut = &whole[..length];
            for program in ["from_device", "from_pod", "to_device"] {
                assert_eq!(rig.run(program, cut), (NEXT, cut.to_vec()), "{program}, {length} bytes");
            }
        }
        assert_eq!(rig.flows(), []);
        // Any byte of the headers set to any of a few values: whatever comes of it, the kernel's checks hold and
        // nothing but the whole packet is ever sent on (at the end of its life: an error about it).
        let ttl = if net.node.starts_with('[') { 21 } else { 22 };
        for at in 12..whole.len() {
            for value in [0, 1, 0x0f, 0x45, 0x46, 0x4f, 0x60, 0x80, 0xff] {
                let mut frame = whole.clone();
                frame[at] = value;
                let (verdict, out) = rig.run("from_device", &frame);
                match verdict {
                    NEXT => assert_eq!(out, frame, "byte {at} = {value}"),
                    REDIRECT if at == ttl && value <= 1 => assert!(out.len() > frame.len()),
                    REDIRECT => assert_eq!(out.len(), frame.len()),
                    SHOT => {}
                    other => panic!("verdict {other} for byte {at} = {value}"),
                }
            }
        }
    });
}

#[test]
fn options_and_extension_headers_are_stepped_over() {
    each(|rig, net, protocol| {
        rig.serve(net.node, protocol, kind::NODE_PORT, &[(net.here, true)]);
        let mut craft = Craft::new(protocol, net.client, net.node);
        // Four no-ops, or a destination options header of padding.
        craft.options = if craft.to.is_ipv4() { vec![1, 1, 1, 1] } else { vec![0, 0, 1, 4, 0, 0, 0, 0] };
        let (verdict, frame) = rig.run("from_device", &craft.frame());
        assert_eq!(verdict, REDIRECT);
        assert_eq!(read(&frame).to, net.here.parse().unwrap());
    });
}

#[test]
fn a_datagram_without_a_checksum_stays_without() {
    let mut rig = Rig::new();
    rig.serve(IP4.node, UDP, kind::NODE_PORT, &[(IP4.here, true)]);
    let mut craft = Craft::new(UDP, IP4.client, IP4.node);
    craft.checksum = false;
    let (verdict, frame) = rig.run("from_device", &craft.frame());
    assert_eq!(verdict, REDIRECT);
    assert_eq!(read(&frame).body[6..8], [0, 0]);
}

#[test]
fn later_fragments_follow_the_first() {
    let mut rig = Rig::new();
    for (net, there) in [(IP4, false), (IP4, true), (IP6, false), (IP6, true)] {
        rig.forget();
        let backend = if there { net.there } else { net.here };
        rig.serve(net.node, UDP, kind::NODE_PORT, &[(backend, !there)]);
        let mut craft = Craft::new(UDP, net.client, net.node);
        craft.payload = (0..100).collect();
        let [first, second] = craft.fragments(48);
        let (verdict, a) = rig.run("from_device", &first);
        assert_eq!(verdict, REDIRECT);
        let (verdict, b) = rig.run("from_device", &second);
        assert_eq!(verdict, REDIRECT, "{net:?} {there}");
        let (seen, l4) = read_ip(&a[14..]);
        assert_eq!(seen.to, backend.parse().unwrap());
        let (later, _) = read_ip(&b[14..]);
        assert_eq!((later.from.ip(), later.to.ip()), (seen.from.ip(), seen.to.ip()));
        // Put together again, the datagram's checksum is right.
        let whole = [&a[14 + l4..], &b[14 + l4..]].concat();
        let mut expected = craft.clone();
        (expected.from, expected.to) = (seen.from, seen.to);
        assert_eq!(whole, expected.segment());
        // A piece of a datagram whose first one was never seen passes.
        let mut other = second.clone();
        let id = if net.node.starts_with('[') { 14 + 44 } else { 14 + 4 };
        other[id] ^= 0x40;
        assert_eq!(rig.run("from_device", &other), (NEXT, other.clone()));
    }
}

#[test]
fn a_flow_keeps_its_backend_until_it_is_over() {
    each(|rig, net, protocol| {
        let (service, _) = rig.serve(net.node, protocol, kind::NODE_PORT, &[(net.here, true)]);
        let to = |rig: &mut Rig, flags| {
            let (verdict, frame) =
                rig.run("from_device", &Craft::new(protocol, net.client, net.node).flags(flags).frame());
            assert_eq!(verdict, REDIRECT);
            read(&frame).to.to_string()
        };
        assert_eq!(to(rig, SYN), net.here);
        let answer = Craft::new(protocol, net.here, net.client).flags(SYN | ACK).frame();
        assert_eq!(rig.run("from_pod", &answer).0, REDIRECT);
        rig.set_backends(service, 0, &[(net.there, false)]);
        if protocol == UDP {
            assert_eq!(to(rig, 0), net.there, "datagrams move at once");
            return;
        }
        assert_eq!(to(rig, ACK), net.here, "an established connection drains");
        assert_eq!(to(rig, FIN | ACK), net.here);
        assert_eq!(to(rig, SYN), net.there, "a new one from the same port goes where somebody is");
    });
}

#[test]
fn a_service_without_backends_is_refused_at_once() {
    each(|rig, net, protocol| {
        rig.serve(net.node, protocol, kind::NODE_PORT, &[]);
        let craft = Craft::new(protocol, net.client, net.node);
        let before = rig.drops(Drop::Refused);
        let (verdict, frame) = rig.run("from_device", &craft.frame());
        assert_eq!(verdict, REDIRECT);
        assert_eq!(rig.drops(Drop::Refused), before + 1);
        let seen = read(&frame);
        assert_eq!(seen.to.ip(), craft.from.ip());
        assert_eq!(seen.from.ip(), craft.to.ip());
        assert_eq!(frame[..12], [crate::craft::NEIGHBOUR, crate::craft::MAC].concat());
        if protocol == TCP {
            assert_eq!((seen.from, seen.to), (craft.to, craft.from));
            assert_eq!(seen.body.len(), 20);
            assert_eq!(seen.body[13], RST | ACK);
            // Acknowledges SYN and payload.
            assert_eq!(seen.body[8..12], (1000_u32 + 1 + 7).to_be_bytes());
            let (_, frame) = rig.run("from_device", &craft.clone().flags(ACK).frame());
            let seen = read(&frame);
            assert_eq!((seen.body[13], &seen.body[4..8]), (RST, &2000_u32.to_be_bytes()[..]));
            // A reset is not answered with a reset.
            assert_eq!(rig.run("from_device", &craft.flags(RST).frame()).0, SHOT);
        } else {
            let (kind, code) = if craft.to.is_ipv6() { (1, 4) } else { (3, 3) };
            assert_eq!(seen.body[..2], [kind, code]);
            let original = craft.frame();
            assert_eq!(seen.body[8..], original[14..14 + seen.body.len() - 8], "quotes what was sent");
        }
        assert_eq!(rig.flows(), []);
    });
}

#[test]
fn local_policy_drops_without_local_backends_and_source_ranges_keep_others_out() {
    each(|rig, net, protocol| {
        let (service, _) = rig.serve(net.node, protocol, kind::NODE_PORT, &[]);
        rig.set_backends(service, service_flags::EXTERNAL_LOCAL, &[(net.there, false)]);
        let frame = Craft::new(protocol, net.client, net.node).frame();
        let before = rig.drops(Drop::NoLocalEndpoints);
        assert_eq!(rig.run("from_device", &frame).0, SHOT);
        assert_eq!(rig.drops(Drop::NoLocalEndpoints), before + 1);
        // A pod of this node gets the cluster-wide choice.
        let inside = Craft::new(protocol, &net.here.replace("8080", "5555"), net.node);
        let (verdict, out) = rig.run("from_pod", &inside.frame());
        assert_eq!(verdict, REDIRECT);
        assert_eq!(read(&out).from, inside.from, "it keeps its address");
        rig.set_backends(service, service_flags::EXTERNAL_LOCAL, &[(net.here, true), (net.there, false)]);
        for _ in 0..20 {
            rig.forget();
            let (verdict, out) = rig.run("from_device", &frame);
            assert_eq!((verdict, read(&out).to), (REDIRECT, net.here.parse().unwrap()));
        }

        let balancer = if net.node.starts_with('[') { "[2001:db8:7::7]:80" } else { "203.0.113.7:80" };
        let (service, _) = rig.serve(balancer, protocol, kind::LOAD_BALANCER, &[]);
        rig.set_backends(service, service_flags::SOURCE_RANGES, &[(net.here, true)]);
        let frame = Craft::new(protocol, net.client, balancer).frame();
        let before = rig.drops(Drop::SourceDenied);
        assert_eq!(rig.run("from_device", &frame).0, SHOT);
        assert_eq!(rig.drops(Drop::SourceDenied), before + 1);
        let client: std::net::SocketAddr = net.client.parse().unwrap();
        rig.restrict(service, &client.ip().to_string());
        assert_eq!(rig.run("from_device", &frame).0, REDIRECT);

        // Where ranges deny, it is the other way round.
        rig.forget();
        rig.set_backends(service, service_flags::SOURCE_RANGES | service_flags::DENY_RANGES, &[(net.here, true)]);
        let before = rig.drops(Drop::SourceDenied);
        assert_eq!(rig.run("from_device", &frame).0, SHOT);
        assert_eq!(rig.drops(Drop::SourceDenied), before + 1);
        let other = client.to_string().replace("::9", "::8").replace(".9:", ".8:");
        assert_eq!(rig.run("from_device", &Craft::new(protocol, &other, balancer).frame()).0, REDIRECT);
        let pod = net.here.replace(".5:", ".6:").replace("::5", "::6");
        assert_eq!(rig.run("from_pod", &Craft::new(protocol, &pod, balancer).frame()).0, REDIRECT);
    });
}

#[test]
fn source_ports_are_never_shared_and_running_out_is_counted() {
    each(|rig, net, protocol| {
        rig.serve(net.node, protocol, kind::NODE_PORT, &[(net.there, false)]);
        rig.set_node(Node { first_port: 62_000, last_port: 62_003, ..Node::default() });
        let before = rig.drops(Drop::NoPort);
        let mut ports = std::collections::BTreeSet::new();
        for client in 0..200_u16 {
            let from = net.client.replace("4321", &(5000 + client).to_string());
            let (verdict, frame) = rig.run("from_device", &Craft::new(protocol, &from, net.node).frame());
            if verdict == REDIRECT {
                assert!(ports.insert(read(&frame).from.port()), "a port was given twice");
            } else {
                assert_eq!(verdict, SHOT);
            }
        }
        assert_eq!(ports, (62_000..=62_003).collect());
        assert_eq!(rig.drops(Drop::NoPort), before + 196);
        rig.set_node(Node::default());
    });
}

#[test]
fn a_load_balancer_with_a_remote_backend_needs_the_nodes_address() {
    each(|rig, net, protocol| {
        let balancer = if net.node.starts_with('[') { "[2001:db8:7::8]:80" } else { "203.0.113.8:80" };
        rig.serve(balancer, protocol, kind::LOAD_BALANCER, &[(net.there, false)]);
        let frame = Craft::new(protocol, net.client, balancer).frame();
        let before = rig.drops(Drop::NoNodeAddress);
        assert_eq!(rig.run("from_device", &frame).0, SHOT);
        assert_eq!(rig.drops(Drop::NoNodeAddress), before + 1);
        let ip = |net: Net| net.node.parse::<std::net::SocketAddr>().unwrap().ip();
        rig.set_node(Node { ip4: words(ip(IP4)), ip6: words(ip(IP6)), ..Node::default() });
        let (verdict, out) = rig.run("from_device", &frame);
        assert_eq!((verdict, read(&out).from.ip()), (REDIRECT, ip(net)));
        rig.set_node(Node::default());
    });
}

#[test]
fn a_packet_at_the_end_of_its_life_is_dropped_before_it_is_changed() {
    each(|rig, net, protocol| {
        rig.serve(net.node, protocol, kind::NODE_PORT, &[(net.here, true)]);
        let mut craft = Craft::new(protocol, net.client, net.node);
        craft.ttl = 1;
        let before = rig.drops(Drop::TimeToLive);
        let (verdict, out) = rig.run("from_device", &craft.frame());
        assert_eq!(rig.drops(Drop::TimeToLive), before + 1);
        let kind = if net.node.starts_with('[') { [3, 0] } else { [11, 0] };
        assert_eq!((verdict, told(&craft, &out)), (REDIRECT, (kind, [0; 4])));
    });
}

/// Type and code, and the second word, of an error about a packet that came from outside.
fn told(craft: &Craft, out: &[u8]) -> ([u8; 2], [u8; 4]) {
    let outer = read(out);
    assert_eq!((outer.from.ip(), outer.to.ip()), (craft.to.ip(), craft.from.ip()));
    let original = craft.frame();
    assert_eq!(outer.body[8..], original[14..14 + outer.body.len() - 8], "quotes what was sent");
    (outer.body[..2].try_into().unwrap(), outer.body[4..8].try_into().unwrap())
}

#[test]
fn a_packet_that_does_not_fit_is_answered_with_the_size_that_does() {
    each(|rig, net, protocol| {
        // The kernel looks at the size only where it knows the neighbour, as it does of every pod.
        let pod: std::net::SocketAddr = net.here.parse().unwrap();
        ip(&format!("neigh replace {} lladdr 02:00:00:00:00:05 dev pod0", pod.ip()));
        ip("link set pod0 mtu 1400");
        rig.serve(net.node, protocol, kind::NODE_PORT, &[(net.here, true)]);
        let mut craft = Craft::new(protocol, net.client, net.node);
        craft.payload = vec![b'x'; 1300];
        assert_eq!(rig.run("from_device", &craft.frame()).0, REDIRECT, "it fits");
        craft.payload = vec![b'x'; 1400];
        let before = rig.drops(Drop::TooBig);
        let (verdict, out) = rig.run("from_device", &craft.frame());
        assert_eq!(rig.drops(Drop::TooBig), before + 1);
        let kind = if net.node.starts_with('[') { [2, 0] } else { [3, 4] };
        assert_eq!((verdict, told(&craft, &out)), (REDIRECT, (kind, [0, 0, 5, 0x78])));
    });
}

#[test]
fn a_client_that_is_its_own_backend_gets_through() {
    each(|rig, net, protocol| {
        rig.serve(net.node, protocol, kind::NODE_PORT, &[(net.here, true)]);
        let craft = Craft::new(protocol, &net.here.replace("8080", "5555"), net.node);
        let (verdict, frame) = rig.run("from_pod", &craft.frame());
        assert_eq!(verdict, REDIRECT);
        let seen = read(&frame);
        assert_eq!(seen.to, net.here.parse().unwrap());
        assert_eq!(seen.from.ip(), craft.to.ip());
        let (_, frame) = rig.run("from_pod", &Craft::new(protocol, net.here, &seen.from.to_string()).frame());
        let seen = read(&frame);
        assert_eq!((seen.from, seen.to), (craft.to, craft.from));
    });
}

#[test]
fn a_reply_entry_that_was_pushed_out_comes_back() {
    each(|rig, net, protocol| {
        rig.serve(net.node, protocol, kind::NODE_PORT, &[(net.there, false)]);
        let frame = Craft::new(protocol, net.client, net.node).frame();
        assert_eq!(rig.run("from_device", &frame).0, REDIRECT);
        let (key, _) = rig.replies()[0];
        rig.map::<Tuple, skep_ebpf_common::conntrack::Reply>("REPLIES").remove(&key).unwrap();
        // As if a little time had passed.
        let (flow_key, mut flow) = rig.flows()[0];
        flow.used -= 2_000_000_000;
        rig.map::<Tuple, Flow>("FLOWS").insert(flow_key, flow, 0).unwrap();
        assert_eq!(rig.run("from_device", &frame).0, REDIRECT);
        assert_eq!(rig.replies()[0].0, key);
    });
}

/// A pod or node that reached a backend through a node port, and asks it directly from the same port soon after.
#[test]
fn a_backend_that_accepts_anew_after_its_end_answers_as_itself() {
    let mut rig = Rig::new();
    for net in [IP4, IP6] {
        rig.forget();
        rig.serve(net.node, TCP, kind::NODE_PORT, &[(net.here, true)]);
        let ask =
            |rig: &mut Rig, flags| rig.run("from_device", &Craft::new(TCP, net.client, net.node).flags(flags).frame());
        let answer =
            |rig: &mut Rig, flags| rig.run("from_pod", &Craft::new(TCP, net.here, net.client).flags(flags).frame());
        ask(&mut rig, SYN);
        assert_eq!(answer(&mut rig, SYN | ACK).0, REDIRECT);
        ask(&mut rig, FIN | ACK);
        // The client's end may have been lost on its last way: that is the old connection still.
        assert_eq!(answer(&mut rig, SYN | ACK).0, REDIRECT);
        answer(&mut rig, FIN | ACK);
        assert_eq!(answer(&mut rig, SYN | ACK).0, NEXT);
        assert!(rig.flows().is_empty() && rig.replies().is_empty());
    }
}

#[test]
fn a_pod_cannot_speak_as_another_one() {
    each(|rig, net, protocol| {
        rig.serve(net.node, protocol, kind::NODE_PORT, &[(net.here, true), (net.there, false)]);
        // As a client: with an address whose way does not lead to the pod's device.
        let forged = Craft::new(protocol, &net.there.replace("8080", "5555"), net.node).frame();
        assert_eq!(rig.run("from_pod", &forged), (NEXT, forged.clone()));
        assert_eq!(rig.flows(), []);
        // In a flow that is there, as client and as backend.
        loop {
            rig.forget();
            let (_, frame) = rig.run("from_device", &Craft::new(protocol, net.client, net.node).frame());
            if read(&frame).to == net.there.parse().unwrap() {
                let (backend, client) = (read(&frame).to.to_string(), read(&frame).from.to_string());
                for forged in [Craft::new(protocol, net.client, net.node), Craft::new(protocol, &backend, &client)] {
                    let forged = forged.flags(RST).frame();
                    assert_eq!(rig.run("from_pod", &forged), (NEXT, forged.clone()));
                }
                break;
            }
        }
        assert_eq!(rig.flows()[0].1.state & state::RESET, 0);
    });
}

#[test]
fn what_leaves_the_cluster_gets_the_nodes_address_if_that_is_asked_for() {
    each(|rig, net, protocol| {
        let ip = |at: &str| at.parse::<std::net::SocketAddr>().unwrap().ip();
        let pod = net.here.replace("8080", "5555");
        let out = Craft::new(protocol, &pod, net.client).frame();
        assert_eq!(rig.run("from_pod", &out), (NEXT, out.clone()), "not asked for");
        rig.set_node(Node { masquerade: 1, ip4: words(ip(IP4.node)), ip6: words(ip(IP6.node)), ..Node::default() });
        let (verdict, frame) = rig.run("from_pod", &out);
        assert_eq!(verdict, REDIRECT);
        let seen = read(&frame);
        assert_eq!((seen.from.ip(), seen.to, seen.ttl), (ip(net.node), net.client.parse().unwrap(), 63));
        assert!(seen.from.port() >= Node::FIRST_PORT);
        // The answer, and what follows.
        let answer = Craft::new(protocol, net.client, &seen.from.to_string()).flags(SYN | ACK).frame();
        let (verdict, frame) = rig.run("from_device", &answer);
        let back = read(&frame);
        assert_eq!((verdict, back.from, back.to), (REDIRECT, net.client.parse().unwrap(), pod.parse().unwrap()));
        let (_, frame) = rig.run("from_pod", &Craft::new(protocol, &pod, net.client).flags(ACK).frame());
        assert_eq!(read(&frame).from, seen.from);
        assert_eq!(rig.flows().len(), 1);

        // What comes from elsewhere than a pod, goes to this node, or answers a connection from outside, stays as it is.
        let elsewhere = Craft::new(protocol, net.client, &net.there.replace("8080", "9")).frame();
        assert_eq!(rig.run("from_device", &elsewhere), (NEXT, elsewhere.clone()));
        let to_node = Craft::new(protocol, &pod, &net.node.replace("30080", "22")).frame();
        assert_eq!(rig.run("from_pod", &to_node), (NEXT, to_node.clone()));
        if protocol == TCP {
            let answer = Craft::new(protocol, net.here, net.client).flags(SYN | ACK).frame();
            assert_eq!(rig.run("from_pod", &answer), (NEXT, answer.clone()));
        }
        // So does what goes to the cluster's own addresses.
        let there = ip(net.there).to_string();
        rig.inside(&there, if there.contains(':') { 64 } else { 24 });
        let inside = Craft::new(protocol, &pod, net.there).frame();
        assert_eq!(rig.run("from_pod", &inside), (NEXT, inside.clone()));
        rig.set_node(Node::default());
    });
}
