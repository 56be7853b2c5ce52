//! Packets that are damaged, cut, forged or in odd pieces. Whatever they hold: one that is left to the stack leaves as it came,
//! and one that is changed has a checksum exactly as right or wrong as before, so nothing damaged is made to look whole.

use proptest::{prelude::*, test_runner::TestRunner};
use skep_ebpf_common::kind;

use crate::{
    craft::{ACK, Craft, FIN, RST, SYN, TCP, UDP, error, read, read_ip, residue},
    rig::{IP4, IP6, NEXT, Net, REDIRECT, Rig, SHOT},
    xdp,
};

/// Kinds of packets that mean something to the programs.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// From a client to the node port.
    Question,
    /// From the backend here.
    Answer,
    /// From the backend on another node, to the node's address.
    AnswerFromThere,
    /// The first, or a later piece of a question.
    Piece(bool),
    /// An error about something that was forwarded.
    Error,
    /// A question with IP options or an extension header.
    Optioned,
}

const KINDS: [Kind; 7] = [
    Kind::Question,
    Kind::Answer,
    Kind::AnswerFromThere,
    Kind::Piece(true),
    Kind::Piece(false),
    Kind::Error,
    Kind::Optioned,
];

/// The fast lane, which only knows whether a packet is another's and how it is to be changed.
const ON_THE_WIRE: &str = "from_wire";

/// A damage.
#[derive(Clone, Debug)]
enum Damage {
    /// This bit is the other way round.
    Bit(usize, u8),
    /// This byte is another one.
    Byte(usize, u8),
    /// Nothing follows this byte.
    Cut(usize),
    /// So many bytes follow.
    Longer(usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => (12..140_usize, 0..8_u8).prop_map(|(at, bit)| Damage::Bit(at, bit)),
        4 => (12..80_usize, any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        1 => (0..140_usize).prop_map(Damage::Cut),
        1 => (1..40_usize).prop_map(Damage::Longer),
    ]
}

#[derive(Clone, Debug)]
struct Case {
    ip6: bool,
    protocol: u8,
    kind: Kind,
    flags: u8,
    payload: usize,
    damages: Vec<Damage>,
    program: &'static str,
}

fn cases() -> impl Strategy<Value = Case> {
    let flags = prop::sample::select(vec![SYN, SYN | ACK, ACK, FIN | ACK, RST]);
    let program = prop::sample::select(vec!["from_device", "from_pod", "to_device", ON_THE_WIRE]);
    let protocol = prop::sample::select(vec![TCP, UDP]);
    let kind = prop::sample::select(KINDS.to_vec());
    let damages = prop::collection::vec(damage(), 0..4);
    (any::<bool>(), protocol, kind, flags, 0..64_usize, damages, program).prop_map(
        |(ip6, protocol, kind, flags, payload, damages, program)| Case {
            ip6,
            protocol,
            kind,
            flags,
            payload,
            damages,
            program,
        },
    )
}

/// The packet of a case, before and after its damages. `source` is what the backend elsewhere sees, `sent` what it is sent.
fn packet(case: &Case, net: Net, source: &str, sent: &[u8]) -> Vec<u8> {
    let craft = |from: &str, to: &str| {
        let mut craft = Craft::new(case.protocol, from, to).flags(case.flags);
        craft.payload = vec![7; case.payload];
        craft
    };
    let question = craft(net.client, net.node);
    let mut frame = match case.kind {
        Kind::Question => question.frame(),
        Kind::Answer => craft(net.here, net.client).frame(),
        Kind::AnswerFromThere => craft(net.there, source).frame(),
        Kind::Piece(first) => {
            let mut craft = question;
            craft.payload = vec![7; 80];
            let [head, tail] = craft.fragments(48);
            if first { head } else { tail }
        }
        Kind::Error => {
            let (quoted, _) = read_ip(&sent[14..]);
            let kind = if case.ip6 { 1 } else { 3 };
            error(quoted.to.ip(), quoted.from.ip(), kind, 3, sent, 8)
        }
        Kind::Optioned => {
            let mut craft = question;
            craft.options = if case.ip6 { vec![0, 0, 1, 4, 0, 0, 0, 0] } else { vec![1, 1, 1, 1] };
            craft.frame()
        }
    };
    for damage in &case.damages {
        match *damage {
            Damage::Bit(at, bit) => {
                if let Some(byte) = frame.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            Damage::Byte(at, value) => {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = value;
                }
            }
            Damage::Cut(at) => frame.truncate(at.max(net.shortest())),
            Damage::Longer(by) => frame.extend(vec![0x5a; by]),
        }
    }
    frame
}

#[test]
fn no_packet_is_corrupted_and_none_is_made_to_look_sound() {
    let mut rig = xdp::rig();
    let mut runner = TestRunner::new(ProptestConfig { cases: 6000, failure_persistence: None, ..Default::default() });
    // One backend here and one elsewhere, so that both ways are taken.
    let mut known = Vec::new();
    for net in [IP4, IP6] {
        for protocol in [TCP, UDP] {
            rig.serve(net.node, protocol, kind::NODE_PORT, &[(net.there, false)]);
            let (verdict, sent) = rig.run("from_device", &Craft::new(protocol, net.client, net.node).frame());
            assert_eq!(verdict, REDIRECT);
            let source = read(&sent).from.to_string();
            let answer = Craft::new(protocol, net.there, &source).flags(SYN | ACK).frame();
            assert_eq!(rig.run("from_device", &answer).0, REDIRECT);
            known.push((net, protocol, source, sent));
            rig.serve(net.node, protocol, kind::NODE_PORT, &[(net.there, false), (net.here, true)]);
        }
    }
    let rig = std::cell::RefCell::new(rig);
    let (changed, lane) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    let result = runner.run(&cases(), |case| {
        let net = if case.ip6 { IP6 } else { IP4 };
        let is_it =
            |(known, protocol, ..): &&(Net, u8, String, Vec<u8>)| known.node == net.node && *protocol == case.protocol;
        let (_, _, source, sent) = known.iter().find(is_it).unwrap();
        let frame = packet(&case, net, source, sent);
        if case.program == ON_THE_WIRE {
            let (verdict, out) = rig.borrow_mut().run_on_wire(&frame);
            match verdict {
                xdp::PASS => prop_assert_eq!(out, frame),
                xdp::TX | xdp::REDIRECTED => {
                    lane.set(lane.get() + 1);
                    prop_assert_eq!((out.len(), residue(&out)), (frame.len(), residue(&frame)));
                }
                other => prop_assert!(false, "verdict {} of the fast lane", other),
            }
            return Ok(());
        }
        let (verdict, out) = rig.borrow_mut().run(case.program, &frame);
        match verdict {
            NEXT if out == frame => {}
            // On its way out a packet is changed in place; what the programs say of one themselves goes back.
            NEXT | REDIRECT => {
                changed.set(changed.get() + 1);
                let is_ours = out.len() != frame.len() || residue(&frame) != residue(&out);
                if is_ours {
                    prop_assert_eq!(residue(&out), Some(0), "an answer of the node's own");
                    let back = [&frame[6..12], &frame[..6]].concat();
                    prop_assert_eq!(&out[..12], &back[..], "goes back");
                }
            }
            SHOT => {}
            other => prop_assert!(false, "verdict {}", other),
        }
        Ok(())
    });
    result.unwrap();
    assert!(changed.get() > 600, "only {} packets were changed: what was tested?", changed.get());
    assert!(lane.get() > 50, "only {} packets took the fast lane", lane.get());
}

#[test]
fn pieces_out_of_order_and_pieces_that_overlap_are_never_taken_for_others() {
    let mut rig = Rig::new();
    for net in [IP4, IP6] {
        rig.forget();
        rig.serve(net.node, UDP, kind::NODE_PORT, &[(net.here, true)]);
        let mut craft = Craft::new(UDP, net.client, net.node);
        craft.payload = (0..100).collect();
        let [first, later] = craft.fragments(48);
        // The later one comes first: it waits for its first at the stack, untouched.
        assert_eq!(rig.run("from_device", &later), (NEXT, later.clone()));
        assert_eq!(rig.flows(), []);
        assert_eq!(rig.run("from_device", &first).0, REDIRECT);
        let (verdict, out) = rig.run("from_device", &later);
        assert_eq!(verdict, REDIRECT);
        // One that would lie over the first's ports goes where the first went: nobody reads ports from it.
        let mut over = later.clone();
        let body = if net.node.starts_with('[') { 14 + 40 + 8 } else { 14 + 20 };
        over[body..body + 4].copy_from_slice(&[0, 22, 0, 22]);
        let (verdict, overlapping) = rig.run("from_device", &over);
        assert_eq!(verdict, REDIRECT);
        assert_eq!(overlapping[body..body + 4], [0, 22, 0, 22], "no port was written where none is");
        assert_eq!(overlapping[..body], out[..body], "to the same place");
        assert_eq!(rig.flows().len(), 1);
    }
}

#[test]
fn a_first_piece_that_is_too_small_for_its_header_begins_nothing() {
    let mut rig = Rig::new();
    for net in [IP4, IP6] {
        rig.forget();
        rig.serve(net.node, TCP, kind::NODE_PORT, &[(net.here, true)]);
        let craft = Craft::new(TCP, net.client, net.node);
        for first in [8, 16] {
            let [head, tail] = craft.fragments(first);
            assert_eq!(rig.run("from_device", &head), (NEXT, head.clone()), "{first} bytes of a TCP header");
            assert_eq!(rig.run("from_device", &tail), (NEXT, tail.clone()));
        }
        assert_eq!(rig.flows(), []);
    }
}

#[test]
fn who_comes_from_outside_with_an_address_of_this_node_is_left_to_the_stack() {
    let mut rig = Rig::new();
    for net in [IP4, IP6] {
        rig.forget();
        for protocol in [TCP, UDP] {
            for backend in [(net.here, true), (net.there, false)] {
                rig.serve(net.node, protocol, kind::NODE_PORT, &[backend]);
                let forged = Craft::new(protocol, &net.node.replace("30080", "4321"), net.node).frame();
                assert_eq!(rig.run("from_device", &forged), (NEXT, forged.clone()), "{net:?}");
            }
        }
        assert_eq!(rig.flows(), []);
    }
}
