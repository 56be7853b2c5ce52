//! ICMP errors about translated packets.

use std::net::{IpAddr, SocketAddr};

use skep_ebpf_common::kind;

use crate::{
    craft::{Craft, SCTP, TCP, UDP, error, read, read_ip},
    rig::{IP4, IP6, NEXT, REDIRECT, Rig},
};

/// Type and code of "port unreachable", "too big" and "time exceeded".
fn kinds(is_ip6: bool) -> [(u8, u8); 3] {
    if is_ip6 { [(1, 4), (2, 0), (3, 0)] } else { [(3, 3), (3, 4), (11, 0)] }
}

#[test]
fn errors_reach_who_they_are_for_and_quote_what_it_knows() {
    let mut rig = Rig::new();
    for (net, router) in [(IP4, "10.2.0.1"), (IP6, "fd02::1")] {
        let router: IpAddr = router.parse().unwrap();
        for protocol in [TCP, UDP, SCTP] {
            for (backend, local) in [(net.here, true), (net.there, false)] {
                rig.forget();
                rig.serve(net.node, protocol, kind::NODE_PORT, &[(backend, local)]);
                let sent = Craft::new(protocol, net.client, net.node);
                let (verdict, forwarded) = rig.run("from_device", &sent.frame());
                assert_eq!(verdict, REDIRECT);
                let seen = read(&forwarded);
                let back: SocketAddr = backend.parse().unwrap();
                for (kind, code) in kinds(router.is_ipv6()) {
                    for source in [router, back.ip()] {
                        let frame = error(source, seen.from.ip(), kind, code, &forwarded, 8);
                        let program = if local { "from_pod" } else { "from_device" };
                        let (verdict, out) = rig.run(program, &frame);
                        if local && source == router {
                            assert_eq!((verdict, out), (NEXT, frame), "a pod is no router");
                            continue;
                        }
                        assert_eq!(verdict, REDIRECT);
                        let outer = read(&out);
                        assert_eq!(outer.to.ip(), sent.from.ip());
                        assert_eq!(outer.from.ip(), if source == router { router } else { sent.to.ip() });
                        assert_eq!(outer.body[..2], [kind, code]);
                        assert_eq!(outer.body[6..8], [5, 0x78], "the MTU stays");
                        let (quoted, _) = read_ip(&outer.body[8..]);
                        assert_eq!((quoted.from, quoted.to), (sent.from, sent.to));
                    }
                    // The other way: about an answer.
                    let answer = Craft::new(protocol, net.node, net.client).frame();
                    let frame = error(sent.from.ip(), sent.to.ip(), kind, code, &answer, 8);
                    let (verdict, out) = rig.run("from_device", &frame);
                    assert_eq!(verdict, REDIRECT);
                    let outer = read(&out);
                    assert_eq!((outer.from.ip(), outer.to.ip()), (seen.from.ip(), back.ip()));
                    let (quoted, _) = read_ip(&outer.body[8..]);
                    assert_eq!((quoted.from, quoted.to), (back, seen.from));
                }
            }
        }
    }
}

#[test]
fn errors_about_other_packets_and_broken_ones_pass_untouched() {
    let mut rig = Rig::new();
    for net in [IP4, IP6] {
        rig.forget();
        rig.serve(net.node, UDP, kind::NODE_PORT, &[(net.there, false)]);
        let (_, forwarded) = rig.run("from_device", &Craft::new(UDP, net.client, net.node).frame());
        let seen = read(&forwarded);
        let (kind, code) = kinds(net.node.starts_with('['))[0];
        // Of a flow nobody has.
        let stranger = Craft::new(UDP, net.node, "192.0.2.77:9").frame();
        if net.node.starts_with('1') {
            let frame = error(seen.to.ip(), seen.from.ip(), kind, code, &stranger, 8);
            assert_eq!(rig.run("from_device", &frame), (NEXT, frame.clone()));
        }
        // Sent to somebody who did not send what it quotes.
        let client: SocketAddr = net.client.parse().unwrap();
        let frame = error(seen.to.ip(), client.ip(), kind, code, &forwarded, 8);
        assert_eq!(rig.run("from_device", &frame), (NEXT, frame.clone()));
        // Cut short at every length.
        let frame = error(seen.to.ip(), seen.from.ip(), kind, code, &forwarded, 8);
        // (Newer kernels refuse to run a program on less than a whole IP header.)
        for length in net.shortest()..frame.len() {
            let cut = &frame[..length];
            assert_eq!(rig.run("from_device", cut), (NEXT, cut.to_vec()), "{length} bytes");
        }
        // A query is none of ours.
        let mut echo = frame.clone();
        let icmp = if net.node.starts_with('[') { 54 } else { 34 };
        echo[icmp] = if net.node.starts_with('[') { 128 } else { 8 };
        assert_eq!(rig.run("from_device", &echo), (NEXT, echo.clone()));
    }
}
