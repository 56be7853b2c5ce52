//! Fragments, extension headers, neighbour discovery, and packets nobody honest sends.

use serde_json::json;
use skep_ebpf_common::policy::Verdict;

use super::{
    craft::{ICMP6, SYN, TCP, UDP, fragment, icmp, packet, tcp, tcp_segment},
    rig::{
        Rig,
        Side::{FromPod, ToPod},
        addr, at,
    },
};

const A: &str = "10.1.0.1";

/// Pod `a`, to which everybody may send to port 80 of TCP and UDP, and which may send nothing of its own.
fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.pod("a", &json!({}), "n0", &[A, "fd01::1"]);
    let ports = json!([{ "port": 80 }, { "port": 80, "protocol": "UDP" }]);
    rig.policy(
        "web",
        &json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [{ "ports": ports }] }),
    );
    rig
}

#[test]
fn fragments_follow_their_first() {
    let mut rig = rig();
    for (from, to) in [("10.2.0.1", A), ("fd02::1", "fd01::1")] {
        let (from, to) = (addr(from), addr(to));
        let datagram = |port: u16| [&9_u16.to_be_bytes()[..], &port.to_be_bytes(), &[0; 28]].concat();
        let (allowed, refused) = (datagram(80), datagram(81));
        let ip = to.to_string();
        assert!(!rig.passes(ToPod, &ip, &fragment(from, to, UDP, &allowed, 16, 16)), "its first was not seen");
        assert!(rig.passes(ToPod, &ip, &fragment(from, to, UDP, &allowed, 0, 16)));
        assert!(rig.passes(ToPod, &ip, &fragment(from, to, UDP, &allowed, 16, 16)));
        let (from, to) = (from, to);
        let other = if from.is_ipv4() { addr("10.2.0.2") } else { addr("fd02::2") };
        assert!(!rig.passes(ToPod, &ip, &fragment(other, to, UDP, &refused, 0, 16)));
        assert!(!rig.passes(ToPod, &ip, &fragment(other, to, UDP, &refused, 16, 16)));
    }
    assert_eq!(rig.count(Verdict::Fragment), 4);
}

#[test]
fn a_first_fragment_must_have_what_is_judged() {
    let mut rig = rig();
    let segment = tcp_segment(9, 80, SYN);
    assert!(!rig.passes(ToPod, A, &fragment(addr("10.2.0.1"), addr(A), TCP, &segment, 0, 8)), "flags come later");
    // Ports that lie behind the packet's end are padding.
    let mut frame = fragment(addr("10.2.0.1"), addr(A), UDP, &[0; 32], 0, 0);
    frame.extend([0, 9, 0, 80, 0, 8, 0, 0]);
    assert!(!rig.passes(ToPod, A, &frame));
    assert_eq!(rig.count(Verdict::Malformed), 2);
}

#[test]
fn extension_headers_do_not_hide_ports() {
    let mut rig = rig();
    let (from, to) = (addr("fd02::1"), addr("fd01::1"));
    let with = |headers: usize, port: u16| {
        let mut body = Vec::new();
        for left in (0..headers).rev() {
            body.extend([if left == 0 { TCP } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
        }
        body.extend(tcp_segment(9, port, SYN));
        packet(from, to, if headers == 0 { TCP } else { 60 }, &body)
    };
    for headers in 0..=4 {
        assert!(rig.passes(ToPod, A, &with(headers, 80)), "{headers} headers");
        assert!(!rig.passes(ToPod, A, &with(headers, 81)), "{headers} headers");
    }
    assert!(!rig.passes(ToPod, A, &with(6, 80)), "more than anybody needs");
}

#[test]
fn hosts_of_a_link_find_each_other() {
    let mut rig = rig();
    let (pod, link) = (addr("fd01::1"), addr("fe80::1"));
    for (kind, hops) in [(133, 255), (135, 255), (136, 255), (143, 1)] {
        let mut frame = icmp(link, addr("ff02::1"), kind, 0);
        frame[21] = hops;
        assert!(rig.passes(FromPod, "fd01::1", &frame), "type {kind}");
        let mut routed = icmp(pod, addr("2001:db8::1"), kind, 0);
        routed[21] = 64;
        assert!(!rig.passes(FromPod, "fd01::1", &routed), "type {kind} that may travel");
    }
}

#[test]
fn what_is_cut_short_is_refused() {
    let mut rig = rig();
    let whole = tcp(at("10.2.0.1:9"), at("10.1.0.1:80"), SYN);
    assert!(rig.passes(ToPod, A, &whole));
    for length in [34, 36, 40, 47] {
        assert!(!rig.passes(ToPod, A, &whole[..length]), "{length} bytes");
    }
    let mut wrong = whole.clone();
    wrong[14] = 0x44;
    assert!(!rig.passes(ToPod, A, &wrong), "a header of four words");
    let short = packet(addr("fd02::1"), addr("fd01::1"), ICMP6, &[128, 0]);
    assert!(!rig.passes(ToPod, "fd01::1", &short));
}
