//! The short way to pods: who may take it, and what a packet looks like that did.

use skep_ebpf_common::{
    AddressValue, address_bits,
    conntrack::Node,
    kind,
    pod::{PodValue, pod_flags},
};

use crate::{
    craft::{ACK, Craft, TCP, UDP, error, read},
    rig::{IP4, IP6, NEXT, Net, REDIRECT, Rig, words},
};

pub(crate) const OPEN: u32 = pod_flags::DIRECT | pod_flags::FROM_OUTSIDE;
pub(crate) const OTHER_DEVICE: u32 = 4711;
pub(crate) const POD_MAC: [u8; 6] = [0x0a, 0x58, 10, 1, 0, 6];
pub(crate) const HOST_MAC: [u8; 6] = [0x0a, 0x59, 10, 1, 0, 6];

/// Another pod of this node.
pub(crate) fn other(net: Net) -> &'static str {
    if net.here.starts_with('[') { "[fd01::6]:8080" } else { "10.1.0.6:8080" }
}

pub(crate) fn ip_of(endpoint: &str) -> std::net::IpAddr {
    endpoint.parse::<std::net::SocketAddr>().unwrap().ip()
}

/// Makes a pod known at that address.
pub(crate) fn pod(rig: &mut Rig, at: &str, index: u32, flags: u32) {
    let key = words(ip_of(at));
    let value = PodValue { index, mtu: 1500, flags, seal: 0, macs: [POD_MAC, HOST_MAC] };
    rig.map::<[u32; 4], PodValue>("PODS").insert(key, value.sealed_for(&key), 0).unwrap();
}

/// With a pod behind the pod's device, which is closed, and another one, which is open.
pub(crate) fn rig() -> Rig {
    let mut rig = Rig::new();
    for net in [IP4, IP6] {
        let index = rig.pod;
        pod(&mut rig, net.here, index, 0);
        pod(&mut rig, other(net), OTHER_DEVICE, OPEN);
    }
    rig
}

/// The program leaves it to the stack, as it came.
#[track_caller]
fn left(rig: &mut Rig, program: &str, frame: &[u8]) {
    let (action, after) = rig.run(program, frame);
    assert_eq!(action, NEXT);
    assert_eq!(after, frame, "it was changed");
}

#[track_caller]
fn handed_over(rig: &mut Rig, program: &str, frame: &[u8]) {
    let (action, after) = rig.run(program, frame);
    assert_eq!(action, REDIRECT);
    let (before, seen) = (read(frame), read(&after));
    assert_eq!(seen.ttl, before.ttl - 1);
    assert_eq!((seen.from, seen.to, seen.body), (before.from, before.to, before.body));
    assert_eq!(after[..6], POD_MAC);
    assert_eq!(after[6..12], HOST_MAC);
}

#[test]
fn packets_between_pods_are_handed_over_with_one_hop_less() {
    let mut rig = rig();
    for net in [IP4, IP6] {
        for protocol in [TCP, UDP] {
            for ttl in [2, 64, 255] {
                let craft = Craft { ttl, ..Craft::new(protocol, net.here, other(net)).flags(ACK) };
                handed_over(&mut rig, "from_pod", &craft.frame());
            }
        }
    }
    // A sum whose low byte is full: the carry of the header's checksum.
    for last in 0..=255_u8 {
        let craft = Craft { payload: vec![0; last.into()], ..Craft::new(UDP, IP4.here, other(IP4)) };
        handed_over(&mut rig, "from_pod", &craft.frame());
    }
}

#[test]
fn whoever_is_not_the_pod_behind_the_device_is_left_to_the_stack() {
    let mut rig = rig();
    for (net, unknown) in [(IP4, "10.1.0.7:8080"), (IP6, "[fd01::7]:8080")] {
        // Another pod's address, one of nobody here, the node's.
        pod(&mut rig, unknown, OTHER_DEVICE + 1, OPEN);
        for from in [unknown, net.there, net.node] {
            left(&mut rig, "from_pod", &Craft::new(UDP, from, other(net)).frame());
        }
        handed_over(&mut rig, "from_pod", &Craft::new(UDP, net.here, other(net)).frame());
    }
}

#[test]
fn pods_that_are_closed_or_not_known_for_sure_are_left_to_the_stack() {
    let mut rig = rig();
    for net in [IP4, IP6] {
        let frame = Craft::new(TCP, net.here, other(net)).frame();
        let key = words(ip_of(other(net)));
        for flags in [0, pod_flags::FROM_OUTSIDE] {
            pod(&mut rig, other(net), OTHER_DEVICE, flags);
            left(&mut rig, "from_pod", &frame);
        }
        // Memory of another entry.
        let value = PodValue { index: OTHER_DEVICE, mtu: 1500, flags: OPEN, seal: 0, macs: [POD_MAC, HOST_MAC] };
        rig.map::<[u32; 4], PodValue>("PODS").insert(key, value.sealed_for(&words(ip_of(net.here))), 0).unwrap();
        left(&mut rig, "from_pod", &frame);
        // Itself.
        let index = rig.pod;
        pod(&mut rig, other(net), index, OPEN);
        left(&mut rig, "from_pod", &frame);
        // A wire that takes less than the sender's.
        let shorter = PodValue { mtu: 1499, ..value };
        rig.map::<[u32; 4], PodValue>("PODS").insert(key, shorter.sealed_for(&key), 0).unwrap();
        left(&mut rig, "from_pod", &frame);
        rig.map::<[u32; 4], PodValue>("PODS").remove(&key).unwrap();
        left(&mut rig, "from_pod", &frame);
    }
}

#[test]
fn packets_that_are_not_as_usual_are_left_to_the_stack() {
    let mut rig = rig();
    for net in [IP4, IP6] {
        let craft = || Craft::new(UDP, net.here, other(net));
        left(&mut rig, "from_pod", &Craft { ttl: 1, ..craft() }.frame());
        left(&mut rig, "from_pod", &Craft { ttl: 0, ..craft() }.frame());
        for piece in (Craft { payload: vec![7; 64], ..craft() }).fragments(32) {
            left(&mut rig, "from_pod", &piece);
        }
        // Not IP.
        let mut arp = craft().frame();
        arp[12..14].copy_from_slice(&[8, 6]);
        left(&mut rig, "from_pod", &arp);
    }
    left(&mut rig, "from_pod", &Craft { options: vec![1, 1, 1, 1], ..Craft::new(UDP, IP4.here, other(IP4)) }.frame());
    // An IPv6 packet that names an IPv4 pod.
    let mut frame = Craft::new(UDP, IP6.here, other(IP6)).frame();
    frame[38..54].copy_from_slice(&"::ffff:10.1.0.6".parse::<std::net::Ipv6Addr>().unwrap().octets());
    left(&mut rig, "from_pod", &frame);
}

#[test]
fn what_comes_from_outside_is_handed_over_unless_its_source_belongs_here() {
    let mut rig = rig();
    for (net, nowhere) in [
        (IP4, &["127.0.0.1:1", "0.0.0.1:1", "224.0.0.1:1", "255.255.255.255:1"] as &[&str]),
        (IP6, &["[::1]:1", "[::]:1", "[ff02::1]:1", "[fe80::1]:1", "[febf::1]:1"]),
    ] {
        let own = AddressValue { bits: address_bits::NODE, ..AddressValue::default() };
        rig.map::<[u32; 4], AddressValue>("ADDRESSES").insert(words(ip_of(net.node)), own, 0).unwrap();
        for from in [net.client, net.there] {
            handed_over(&mut rig, "from_device", &Craft::new(TCP, from, other(net)).frame());
        }
        for from in [net.here, other(net), net.node].iter().chain(nowhere) {
            left(&mut rig, "from_device", &Craft::new(TCP, from, other(net)).frame());
        }
        pod(&mut rig, other(net), OTHER_DEVICE, pod_flags::DIRECT);
        left(&mut rig, "from_device", &Craft::new(TCP, net.client, other(net)).frame());
    }
    // A neighbour of the excluded link-local range.
    pod(&mut rig, other(IP6), OTHER_DEVICE, OPEN);
    handed_over(&mut rig, "from_device", &Craft::new(TCP, "[fec0::1]:1", other(IP6)).frame());
}

#[test]
fn what_comes_from_outside_must_fit_the_pods_wire() {
    let mut rig = rig();
    for (net, headers) in [(IP4, 20), (IP6, 40)] {
        for protocol in [TCP, UDP] {
            let craft = Craft::new(protocol, net.client, other(net)).flags(ACK);
            let transport = Craft { payload: Vec::new(), ..craft.clone() }.segment().len() as u32;
            let whole = |size: u32| {
                let payload = vec![0; (size - headers - transport) as usize];
                Craft { payload, ..craft.clone() }.frame()
            };
            handed_over(&mut rig, "from_device", &whole(1500));
            left(&mut rig, "from_device", &whole(1501));
            // Several that were received as one.
            let merged = whole(3000);
            let fits = 1500 - headers - transport;
            assert_eq!(rig.run_merged("from_device", &merged, fits).0, REDIRECT);
            assert_eq!(rig.run_merged("from_device", &merged, fits + 1), (NEXT, merged));
        }
    }
}

#[test]
fn what_a_service_needs_comes_before_the_short_way() {
    let mut rig = rig();
    rig.set_node(Node { ip4: words(ip_of(IP4.node)), ip6: words(ip_of(IP6.node)), ..Node::default() });
    for net in [IP4, IP6] {
        // The client is another pod here; the backend's answer must bear the address the client knows.
        rig.serve(net.node, UDP, kind::NODE_PORT, &[(net.here, true)]);
        let (action, _) = rig.run("from_pod", &Craft::new(UDP, other(net), net.node).frame());
        assert_eq!(action, REDIRECT);
        let (action, answer) = rig.run("from_pod", &Craft::new(UDP, net.here, other(net)).frame());
        assert_eq!(action, REDIRECT);
        assert_eq!((&answer[..6], read(&answer).from), (&POD_MAC[..], net.node.parse().unwrap()));
    }
    // Flows are looked for now, and pods still reach each other the short way.
    for net in [IP4, IP6] {
        handed_over(&mut rig, "from_pod", &Craft::new(TCP, net.here, other(net)).frame());
        let echo =
            error(ip_of(net.here), ip_of(other(net)), if ip_of(net.here).is_ipv4() { 8 } else { 128 }, 0, &[0; 64], 0);
        assert_eq!(rig.run("from_pod", &echo).0, REDIRECT);
    }
}

/// Sent on by the program: as it came, with one hop less. (The hardware addresses are the kernel's to write.)
#[track_caller]
fn sent_on(rig: &mut Rig, frame: &[u8]) {
    let (action, after) = rig.run("from_pod", frame);
    assert_eq!(action, REDIRECT);
    let (before, seen) = (read(frame), read(&after));
    assert_eq!((seen.ttl, seen.from, seen.to, seen.body), (before.ttl - 1, before.from, before.to, before.body));
}

#[test]
fn what_pods_send_to_other_nodes_goes_out_past_the_stack() {
    let mut rig = rig();
    for (net, ranges, near, nowhere, link) in [
        (IP4, [("10.0.0.0", 8), ("169.254.0.0", 16)], "10.1.0.77:1", "10.9.0.1:1", "169.254.1.1:1"),
        (IP6, [("fd00::", 8), ("fe80::", 10)], "[fd01::77]:1", "[fd09::1]:1", "[fe80::1]:1"),
    ] {
        let craft = |to| Craft::new(TCP, net.here, to).flags(ACK);
        left(&mut rig, "from_pod", &craft(net.there).frame());
        ranges.iter().for_each(|(range, length)| rig.inside(range, *length));
        sent_on(&mut rig, &craft(net.there).frame());
        // Out of the cluster, to this node, back where it came from, nowhere, not through a router.
        for to in [net.client, net.node, near, nowhere, link] {
            left(&mut rig, "from_pod", &craft(to).frame());
        }
        left(&mut rig, "from_pod", &Craft { ttl: 1, ..craft(net.there) }.frame());
        left(&mut rig, "from_pod", &Craft::new(TCP, other(net), net.there).frame());
        left(&mut rig, "from_device", &Craft::new(TCP, net.client, net.there).frame());
    }
}

#[test]
fn what_pods_send_to_other_nodes_must_fit_the_way() {
    let mut rig = rig();
    for (net, range, length) in [(IP4, "10.0.0.0", 8), (IP6, "fd00::", 8)] {
        rig.inside(range, length);
        let craft = Craft::new(TCP, net.here, net.there).flags(ACK);
        let headers = Craft { payload: Vec::new(), ..craft.clone() }.frame().len() - 14;
        let whole = |size: usize| Craft { payload: vec![0; size - headers], ..craft.clone() }.frame();
        sent_on(&mut rig, &whole(1500));
        left(&mut rig, "from_pod", &whole(1501));
        let (merged, fits) = (whole(3000), (1500 - headers) as u32);
        assert_eq!(rig.run_merged("from_pod", &merged, fits).0, REDIRECT);
        assert_eq!(rig.run_merged("from_pod", &merged, fits + 1), (NEXT, merged));
    }
}
