//! SCTP packets, there and back. (This needs no SCTP in the kernel.)

use std::net::SocketAddr;

use skep_ebpf_common::{
    conntrack::{Node, state},
    kind,
    packet::Drop,
};
use skep_proxy::{
    Protocol,
    maps::reader::trace::{Client, Outcome, Question},
};

use crate::{
    craft::{Craft, SCTP, checksums, read, read_ip},
    pinned::Pinned,
    rig::{IP4, IP6, NEXT, Net, REDIRECT, Rig, SHOT, words},
};

// Types of chunks.
const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;

fn each(test: impl Fn(&mut Rig, Net)) {
    let mut rig = Rig::new();
    for net in [IP4, IP6] {
        rig.forget();
        test(&mut rig, net);
    }
}

fn packet(chunk: u8, from: &str, to: &str) -> Craft {
    Craft::new(SCTP, from, to).flags(chunk)
}

#[test]
fn ports_and_addresses_are_translated_both_ways_with_a_right_checksum() {
    each(|rig, net| {
        for (backend, local) in [(net.here, true), (net.there, false)] {
            rig.forget();
            rig.serve(net.node, SCTP, kind::NODE_PORT, &[(backend, local)]);
            let mut source = net.client.to_owned();
            for length in (0..70).chain([255, 256, 1000, 1400]) {
                let mut ask = packet(INIT, net.client, net.node);
                ask.payload = (0..length).map(|n| (n * 31) as u8).collect();
                let (verdict, frame) = rig.run("from_device", &ask.frame());
                assert_eq!(verdict, REDIRECT);
                let seen = read(&frame);
                assert_eq!((seen.to, seen.ttl), (backend.parse().unwrap(), 63), "{length}");
                assert_eq!(seen.body[12..], ask.segment()[12..], "{length}");
                source = seen.from.to_string();
                if local {
                    assert_eq!(seen.from, ask.from);
                } else {
                    assert!(seen.from.port() >= Node::FIRST_PORT && seen.from.ip() != ask.from.ip());
                }
            }
            assert_eq!(rig.flows().len(), 1);
            let answer = packet(INIT_ACK, backend, &source);
            let (verdict, frame) = rig.run(if local { "from_pod" } else { "from_device" }, &answer.frame());
            assert_eq!(verdict, REDIRECT);
            let seen = read(&frame);
            assert_eq!((seen.from, seen.to), (net.node.parse().unwrap(), net.client.parse().unwrap()));
        }
    });
}

#[test]
fn a_wrong_checksum_stays_as_wrong_as_it_was() {
    each(|rig, net| {
        rig.serve(net.node, SCTP, kind::NODE_PORT, &[(net.here, true)]);
        let mut ask = packet(INIT, net.client, net.node);
        ask.checksum = false;
        let [right, has] = checksums(&ask.segment());
        let (_, frame) = rig.run("from_device", &ask.frame());
        let (seen, _) = read_ip(&frame[14..]);
        let [right_now, has_now] = checksums(&seen.body);
        assert_eq!(right ^ has, right_now ^ has_now);
        assert_ne!(right_now, has_now);
    });
}

#[test]
fn a_pod_reaches_a_cluster_ip_by_packets() {
    each(|rig, net| {
        let vip = if net.node.starts_with('[') { "[fd00:97::1]:36412" } else { "10.97.0.1:36412" };
        let pod = net.here.replace("8080", "5555").replace(".5:", ".6:").replace("::5", "::6");
        rig.serve(vip, SCTP, kind::CLUSTER_IP, &[(net.there, false)]);
        let pinned = Pinned::new(rig);
        let (verdict, frame) = rig.run("from_pod", &packet(INIT, &pod, vip).frame());
        assert_eq!(verdict, REDIRECT);
        let seen = read(&frame);
        assert_eq!((seen.from, seen.to), (pod.parse().unwrap(), net.there.parse().unwrap()));
        let (verdict, frame) = rig.run("from_device", &packet(INIT_ACK, net.there, &pod).frame());
        assert_eq!(verdict, REDIRECT);
        assert_eq!(read(&frame).from, vip.parse().unwrap());

        // What skepctl says of it.
        let other: SocketAddr = pod.replace("5555", "5556").parse().unwrap();
        let ask = |client| {
            let question = Question { client, to: vip.parse().unwrap(), protocol: Protocol::Sctp };
            pinned.reader().trace(&question).unwrap().outcome
        };
        let Outcome::Backends { candidates } = ask(Client::Pod { address: other.ip(), port: Some(other.port()) })
        else {
            panic!("not served")
        };
        assert_eq!(candidates[0].address, net.there.parse().unwrap());
        assert_eq!(ask(Client::Socket { netns: 1 }), Outcome::Passes, "sockets of SCTP have no hooks");
    });
}

#[test]
fn associations_are_followed_from_init_to_shutdown_and_abort() {
    each(|rig, net| {
        let (service, _) = rig.serve(net.node, SCTP, kind::NODE_PORT, &[(net.here, true)]);
        let ask = |chunk| packet(chunk, net.client, net.node).frame();
        let answer = |chunk| packet(chunk, net.here, net.client).frame();
        rig.run("from_device", &ask(INIT));
        assert_eq!(rig.flows()[0].1.state, 0);
        rig.run("from_pod", &answer(INIT_ACK));
        rig.run("from_device", &ask(COOKIE_ECHO));
        assert_eq!(rig.flows()[0].1.state, state::REPLIED | state::STEADY, "established");

        // The backend goes: the association drains, a new one goes elsewhere.
        rig.set_backends(service, 0, &[(net.there, false)]);
        let (_, frame) = rig.run("from_device", &ask(DATA));
        assert_eq!(read(&frame).to, net.here.parse().unwrap());
        rig.run("from_device", &ask(SHUTDOWN));
        rig.run("from_pod", &answer(SHUTDOWN_ACK));
        let closed = state::CLIENT_FIN | state::BACKEND_FIN;
        assert_eq!(rig.flows()[0].1.state & closed, closed);
        let (_, frame) = rig.run("from_device", &ask(INIT));
        assert_eq!(read(&frame).to, net.there.parse().unwrap());
        assert_eq!(rig.flows().len(), 1);

        rig.run("from_device", &ask(ABORT));
        assert_eq!(rig.flows()[0].1.state & state::RESET, state::RESET);
        rig.set_backends(service, 0, &[(net.here, true)]);
        let (_, frame) = rig.run("from_device", &ask(INIT));
        assert_eq!(read(&frame).to, net.here.parse().unwrap());
    });
}

#[test]
fn without_endpoints_the_port_is_unreachable_and_an_abort_gets_no_answer() {
    each(|rig, net| {
        rig.serve(net.node, SCTP, kind::NODE_PORT, &[]);
        let ask = packet(INIT, net.client, net.node);
        let before = rig.drops(Drop::Refused);
        let (verdict, frame) = rig.run("from_device", &ask.frame());
        assert_eq!((verdict, rig.drops(Drop::Refused)), (REDIRECT, before + 1));
        let seen = read(&frame);
        assert_eq!((seen.from.ip(), seen.to.ip()), (ask.to.ip(), ask.from.ip()));
        assert_eq!(seen.body[..2], if ask.to.is_ipv6() { [1, 4] } else { [3, 3] });
        let (quoted, _) = read_ip(&seen.body[8..]);
        assert_eq!((quoted.from, quoted.to, quoted.protocol), (ask.from, ask.to, SCTP));
        assert_eq!(rig.run("from_device", &packet(ABORT, net.client, net.node).frame()).0, SHOT);
    });
}

#[test]
fn pieces_go_on_where_ports_stay_and_not_where_they_change() {
    each(|rig, net| {
        let mut ask = packet(INIT, net.client, net.node);
        ask.payload = vec![7; 100];
        let same = net.here.replace("8080", "30080");
        rig.serve(net.node, SCTP, kind::NODE_PORT, &[(&same, true)]);
        for piece in ask.fragments(48) {
            let (verdict, frame) = rig.run("from_device", &piece);
            assert_eq!(verdict, REDIRECT);
            let (seen, _) = read_ip(&frame[14..]);
            assert_eq!(words(seen.to.ip()), words(same.parse::<SocketAddr>().unwrap().ip()));
        }
        rig.forget();
        rig.serve(net.node, SCTP, kind::NODE_PORT, &[(net.here, true)]);
        let before = rig.drops(Drop::Rewrite);
        assert_eq!(rig.run("from_device", &ask.fragments(48)[0]).0, SHOT);
        assert_eq!(rig.drops(Drop::Rewrite), before + 1);
    });
}

#[test]
fn packets_that_are_cut_short_or_nobodys_pass_untouched() {
    each(|rig, net| {
        rig.serve(net.node, SCTP, kind::NODE_PORT, &[(net.here, true)]);
        let whole = packet(INIT, net.client, net.node).frame();
        for length in net.shortest()..whole.len() {
            assert_eq!(rig.run("from_device", &whole[..length]), (NEXT, whole[..length].to_vec()), "{length} bytes");
        }
        let other = packet(INIT, net.client, &net.node.replace("30080", "30081")).frame();
        assert_eq!(rig.run("from_device", &other), (NEXT, other.clone()));
        assert_eq!(rig.flows(), []);
    });
}
