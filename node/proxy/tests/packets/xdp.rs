//! The fast lane: what it forwards is what tc would have sent, and everything else goes up untouched.

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use skep_ebpf_common::{
    conntrack::{Flow, Node, Reply, Tuple, state},
    kind,
    packet::{Device, Path},
};

use crate::{
    craft::{ACK, Craft, FIN, MAC, RST, SYN, TCP, UDP, error, read},
    rig::{IP4, IP6, Net, REDIRECT, Rig, ip},
};

pub(crate) const PASS: u32 = 2;
pub(crate) const TX: u32 = 3;
pub(crate) const REDIRECTED: u32 = 4;

/// Hardware addresses of the client and of the way to the other node.
const CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 9];
const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 0x22];

/// A rig whose neighbours are known.
pub(crate) fn rig() -> Rig {
    let mut rig = Rig::new();
    for (address, hardware) in [("192.0.2.9", CLIENT), ("192.0.2.2", ROUTER)] {
        let hardware = hardware.map(|byte| format!("{byte:02x}")).join(":");
        ip(&format!("neigh add {address} lladdr {hardware} dev out0 nud permanent"));
        let address6 = address.replace("192.0.2.", "2001:db8::");
        ip(&format!("-6 neigh add {address6} lladdr {hardware} dev out0 nud permanent"));
    }
    rig.on_the_wire("out0");
    rig
}

/// Opens a flow to a backend of another node and has it answered; the packet an answer is.
fn opened(rig: &mut Rig, net: Net, protocol: u8) -> Craft {
    rig.serve(net.node, protocol, kind::NODE_PORT, &[(net.there, false)]);
    open(rig, net, protocol)
}

/// The same to what is served already.
fn open(rig: &mut Rig, net: Net, protocol: u8) -> Craft {
    let (verdict, frame) = rig.run("from_device", &Craft::new(protocol, net.client, net.node).frame());
    assert_eq!(verdict, REDIRECT);
    let answer = Craft::new(protocol, net.there, &read(&frame).from.to_string());
    assert_eq!(rig.run("from_device", &answer.clone().flags(SYN | ACK).frame()).0, REDIRECT);
    let second = Craft::new(protocol, net.client, net.node).flags(ACK);
    assert_eq!(rig.run("from_device", &second.frame()).0, REDIRECT);
    answer.flags(ACK)
}

/// Every family and protocol, with a flow that is open: the client's packet and the answer.
fn each(test: impl Fn(&mut Rig, Net, Craft, Craft)) {
    let mut rig = rig();
    for net in [IP4, IP6] {
        for protocol in [TCP, UDP] {
            rig.forget();
            let answer = opened(&mut rig, net, protocol);
            test(&mut rig, net, Craft::new(protocol, net.client, net.node).flags(ACK), answer);
        }
    }
}

/// It goes up as it came.
fn passes(rig: &mut Rig, frame: &[u8], why: &str) {
    assert_eq!(rig.run_on_wire(frame), (PASS, frame.to_vec()), "{why}");
}

#[test]
fn packets_of_a_flow_that_goes_on_are_translated_both_ways() {
    each(|rig, net, forth, back| {
        let before = rig.forwarded(Path::Xdp);
        let (verdict, frame) = rig.run_on_wire(&forth.frame());
        assert_eq!(verdict, TX);
        let seen = read(&frame);
        assert_eq!((seen.from, seen.to, seen.ttl), (back.to, net.there.parse().unwrap(), 63));
        assert!(seen.body.ends_with(b"payload"));
        assert_eq!(frame[..12], [ROUTER, MAC].concat());

        let (verdict, frame) = rig.run_on_wire(&back.frame());
        assert_eq!(verdict, TX);
        let seen = read(&frame);
        assert_eq!((seen.from, seen.to, seen.ttl), (forth.to, forth.from, 63));
        assert_eq!(frame[..12], [CLIENT, MAC].concat());
        assert_eq!(rig.forwarded(Path::Xdp), before + 2);
    });
}

#[test]
fn a_service_may_have_a_port_of_those_that_translated_sources_get() {
    let mut rig = rig();
    rig.set_node(Node { first_port: 1024, last_port: 29_999, ..Node::default() });
    for (net, balanced) in [(IP4, "192.0.2.1:8080"), (IP6, "[2001:db8::1]:8080")] {
        let net = Net { node: balanced, ..net };
        for protocol in [TCP, UDP] {
            let answer = opened(&mut rig, net, protocol);
            let forth = Craft::new(protocol, net.client, net.node).flags(ACK);
            for (packet, to) in [(&forth, net.there), (&answer, net.client)] {
                let (verdict, frame) = rig.run_on_wire(&packet.frame());
                assert_eq!((verdict, read(&frame).to.to_string()), (TX, to.to_owned()));
            }
        }
    }
}

#[test]
fn a_datagram_without_a_checksum_stays_without() {
    let mut rig = rig();
    opened(&mut rig, IP4, UDP);
    let mut craft = Craft::new(UDP, IP4.client, IP4.node);
    craft.checksum = false;
    let (verdict, frame) = rig.run_on_wire(&craft.frame());
    assert_eq!(verdict, TX);
    assert_eq!(read(&frame).body[6..8], [0, 0]);
}

#[test]
fn what_opens_or_ends_a_connection_goes_up() {
    each(|rig, _, forth, back| {
        if forth.protocol == TCP {
            for flags in [SYN, FIN, FIN | ACK, RST, SYN | ACK] {
                passes(rig, &forth.clone().flags(flags).frame(), &format!("flags {flags}"));
                passes(rig, &back.clone().flags(flags).frame(), &format!("flags {flags}, back"));
            }
            // And what follows the end of one side.
            assert_eq!(rig.run("from_device", &forth.clone().flags(FIN | ACK).frame()).0, REDIRECT);
            passes(rig, &forth.frame(), "after FIN");
            passes(rig, &back.frame(), "after FIN, back");
        }
    });
}

#[test]
fn packets_that_are_not_plain_go_up() {
    each(|rig, _, forth, back| {
        for craft in [forth, back] {
            let mut old = craft.clone();
            for ttl in [0, 1] {
                old.ttl = ttl;
                passes(rig, &old.frame(), "no hop left");
            }
            let mut with = craft.clone();
            with.options = if craft.to.is_ipv4() { vec![1, 1, 1, 1] } else { vec![0, 0, 1, 4, 0, 0, 0, 0] };
            passes(rig, &with.frame(), "options");
            for piece in craft.fragments(8) {
                passes(rig, &piece, "a fragment");
            }
            let whole = craft.frame();
            for length in 14..whole.len() {
                passes(rig, &whole[..length], "cut short");
            }
            let mut other = whole.clone();
            other[5] ^= 0x40;
            passes(rig, &other, "for another host");
            let mut other = whole.clone();
            other[12..14].copy_from_slice(&[0x81, 0]);
            passes(rig, &other, "in a VLAN");
            let kind = if craft.to.is_ipv4() { 3 } else { 1 };
            passes(rig, &error(craft.from.ip(), craft.to.ip(), kind, 1, &whole, 8), "an ICMP error");
            passes(rig, &unfinished(&craft), "the checksum is not finished");
            // Only that one is held up: Ethernet pads short frames.
            let padded = [&whole[..], &[0; 7]].concat();
            let (verdict, frame) = rig.run_on_wire(&padded);
            assert_eq!((verdict, frame.len()), (TX, padded.len()));
        }
    });
}

/// The frame as a sender on the same machine hands it over: its checksum is that of the pseudo header only.
fn unfinished(craft: &Craft) -> Vec<u8> {
    let mut frame = craft.frame();
    let l4 = if craft.to.is_ipv4() { 34 } else { 54 };
    let at = l4 + if craft.protocol == TCP { 16 } else { 6 };
    let length = frame.len() - l4;
    let sum = crate::craft::pseudo_sum(craft.from.ip(), craft.to.ip(), craft.protocol, length);
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn what_tc_must_look_at_goes_up() {
    each(|rig, net, forth, back| {
        let (flow_key, flow) = rig.flows()[0];
        let (reply_key, reply) = rig.replies()[0];
        let put = |rig: &mut Rig, flow: Flow, reply: Reply| {
            rig.map::<Tuple, Flow>("FLOWS").insert(flow_key, flow, 0).unwrap();
            rig.map::<Tuple, Reply>("REPLIES").insert(reply_key, reply, 0).unwrap();
        };
        let both_pass = |rig: &mut Rig, why: &str| {
            passes(rig, &forth.frame(), why);
            passes(rig, &back.frame(), why);
        };
        put(rig, Flow { to_port: 1, ..flow }, Reply { client_port: 1, ..reply });
        both_pass(rig, "a seal that does not fit");
        put(rig, Flow { used: 1, ..flow }, Reply { used: 1, ..reply });
        both_pass(rig, "silent for longer than a second");
        put(rig, Flow { state: state::RESET, ..flow }, Reply { state: state::RESET, ..reply });
        both_pass(rig, "reset");
        put(rig, flow, Reply { state: 0, ..reply });
        passes(rig, &back.frame(), "the first answer");
        if forth.protocol == UDP {
            put(rig, Flow { state: state::REPLIED, ..flow }, reply);
            passes(rig, &forth.frame(), "what follows the first answer");
        }
        // As it was, both are forwarded.
        put(rig, flow, reply);
        assert_eq!((rig.run_on_wire(&forth.frame()).0, rig.run_on_wire(&back.frame()).0), (TX, TX));
        // Its backend is gone: a datagram moves on, a connection drains.
        rig.set_backends(flow.service, 0, &[(net.here, true)]);
        let expected = if forth.protocol == UDP { PASS } else { TX };
        assert_eq!(rig.run_on_wire(&forth.frame()).0, expected);
    });
}

#[test]
fn what_is_not_this_lanes_goes_up() {
    each(|rig, net, forth, back| {
        // Too big for the way.
        ip("route change 10.2.0.0/24 via 192.0.2.2 mtu lock 1300");
        ip("-6 route change fd02::/64 via 2001:db8::2 mtu lock 1300");
        settle();
        let mut big = forth.clone();
        big.payload = vec![7; 1380];
        passes(rig, &big.frame(), "too big");
        big.payload.truncate(1200);
        assert_eq!(rig.run_on_wire(&big.frame()).0, TX);
        // No neighbour.
        let (via, family) = if forth.to.is_ipv4() { ("192.0.2.9", "-4") } else { ("2001:db8::9", "-6") };
        ip(&format!("{family} neigh del {via} dev out0"));
        settle();
        passes(rig, &back.frame(), "the neighbour is not known");
        let hardware = CLIENT.map(|byte| format!("{byte:02x}")).join(":");
        ip(&format!("{family} neigh add {via} lladdr {hardware} dev out0 nud permanent"));
        // A pod of this node, and nobody's.
        rig.forget();
        rig.serve(net.node, forth.protocol, kind::NODE_PORT, &[(net.here, true)]);
        assert_eq!(rig.run("from_device", &forth.clone().flags(SYN).frame()).0, REDIRECT);
        passes(rig, &forth.frame(), "the backend is here");
        for (from, to) in [(net.client, net.here), (net.here, net.client), (net.client, net.there)] {
            passes(rig, &Craft::new(forth.protocol, from, to).flags(ACK).frame(), "nobody's");
        }
    });
}

#[test]
fn another_device_gets_what_it_can_take() {
    let mut rig = rig();
    let backend = "10.3.0.5:8080";
    ip("link add name out1 address 02:00:00:00:00:03 type veth peer name out1-peer");
    ip("link set out1 up");
    ip("link set out1-peer up");
    ip("address add 198.51.100.1/24 dev out1");
    ip("route add 10.3.0.0/24 via 198.51.100.2");
    ip("neigh add 198.51.100.2 lladdr 02:00:00:00:00:33 dev out1 nud permanent");
    rig.serve(IP4.node, UDP, kind::NODE_PORT, &[(backend, false)]);
    let frame = Craft::new(UDP, IP4.client, IP4.node).frame();
    assert_eq!(rig.run("from_device", &frame).0, REDIRECT);
    passes(&mut rig, &frame, "nothing is known of the devices");
    rig.set_device("out0", Device::new(MAC, 0));
    rig.set_device("out1", Device::new([2, 0, 0, 0, 0, 3], 0));
    passes(&mut rig, &frame, "the other one takes nothing");
    rig.set_device("out1", Device::new([2, 0, 0, 0, 0, 3], Device::TAKES));
    let (verdict, out) = rig.run_on_wire(&frame);
    assert_eq!((verdict, read(&out).to), (REDIRECTED, backend.parse().unwrap()));
    assert_eq!(out[..12], [2, 0, 0, 0, 0, 0x33, 2, 0, 0, 0, 0, 3]);
    rig.set_device("out0", Device::new([2; 6], 0));
    passes(&mut rig, &frame, "for another host");
}

/// The kernel's answers about ways stand for 10 ms.
fn settle() {
    #[expect(clippy::disallowed_methods, reason = "no runtime here")]
    std::thread::sleep(std::time::Duration::from_millis(30));
}

#[test]
fn a_neighbour_that_moves_is_followed() {
    let mut rig = rig();
    opened(&mut rig, IP4, TCP);
    let frame = Craft::new(TCP, IP4.client, IP4.node).flags(ACK).frame();
    assert_eq!(rig.run_on_wire(&frame).1[..6], ROUTER);
    ip("neigh replace 192.0.2.2 lladdr 02:00:00:00:00:77 dev out0 nud permanent");
    settle();
    let (verdict, out) = rig.run_on_wire(&frame);
    assert_eq!((verdict, &out[..6]), (TX, &[2, 0, 0, 0, 0, 0x77][..]));
}

/// A packet of the flow, plain or not.
#[derive(Clone, Debug)]
struct Sample {
    net: Net,
    protocol: u8,
    back: bool,
    flags: u8,
    ttl: u8,
    payload: Vec<u8>,
    checksum: bool,
    /// Values for bytes of the frame, and how many are cut off its end.
    damage: Vec<(usize, u8)>,
    cut: usize,
}

fn sample() -> impl Strategy<Value = Sample> {
    (
        prop_oneof![Just(IP4), Just(IP6)],
        prop_oneof![Just(TCP), Just(UDP)],
        any::<bool>(),
        prop_oneof![4 => Just(ACK), 1 => Just(ACK | 8), 1 => any::<u8>()],
        prop_oneof![4 => 2_u8..=255, 1 => 0_u8..3],
        prop::collection::vec(any::<u8>(), 0..300),
        prop::bool::weighted(0.9),
        prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec((12_usize..80, any::<u8>()), 1..3)],
        prop_oneof![9 => Just(0_usize), 1 => 0_usize..20],
    )
        .prop_map(|(net, protocol, back, flags, ttl, payload, checksum, damage, cut)| Sample {
            net,
            protocol,
            back,
            flags,
            ttl,
            payload,
            checksum,
            damage,
            cut,
        })
}

#[test]
fn it_sends_what_tc_sends_byte_by_byte() {
    let rig = std::cell::RefCell::new(rig());
    for net in [IP4, IP6] {
        for protocol in [TCP, UDP] {
            rig.borrow_mut().serve(net.node, protocol, kind::NODE_PORT, &[(net.there, false)]);
        }
    }
    let forwarded = std::cell::Cell::new(0);
    TestRunner::new(Config { cases: 2000, failure_persistence: None, ..Config::default() })
        .run(&sample(), |sample| {
            let rig = &mut *rig.borrow_mut();
            rig.forget();
            let answer = open(rig, sample.net, sample.protocol);
            let mut craft = Craft::new(sample.protocol, sample.net.client, sample.net.node);
            if sample.back {
                craft = answer;
            }
            (craft.flags, craft.ttl, craft.checksum) = (sample.flags, sample.ttl, sample.checksum);
            craft.payload.clone_from(&sample.payload);
            let mut frame = craft.frame();
            for (at, value) in &sample.damage {
                if let Some(byte) = frame.get_mut(*at) {
                    *byte = *value;
                }
            }
            frame.truncate((frame.len() - sample.cut).max(sample.net.shortest()));
            let (verdict, out) = rig.run_on_wire(&frame);
            if verdict == PASS {
                prop_assert_eq!(out, frame);
                let plain = sample.damage.is_empty() && sample.cut == 0 && sample.ttl > 1;
                prop_assert!(!plain || sample.flags & (SYN | FIN | RST) != 0 && sample.protocol == TCP, "held up");
                return Ok(());
            }
            prop_assert_eq!(verdict, TX);
            forwarded.set(forwarded.get() + 1);
            let (theirs, expected) = rig.run("from_device", &frame);
            prop_assert_eq!(theirs, REDIRECT);
            prop_assert_eq!(&out[12..], &expected[12..]);
            prop_assert_eq!(&out[..12], &[if sample.back { CLIENT } else { ROUTER }, MAC].concat()[..]);
            Ok(())
        })
        .unwrap();
    assert!(forwarded.get() > 500, "only {} of 2,000 were forwarded", forwarded.get());
}
