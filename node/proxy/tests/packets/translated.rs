//! The short way of what is translated for a Service: which packets take it, and real traffic.
//!
//! ```text
//! client 192.0.2.9 --- out0 192.0.2.1 [node: the test's thread] poda 10.1.1.1 --- pod a 10.1.1.5
//!                                                               podb 10.1.2.1 --- pod b 10.1.2.5
//! ```

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use aya::programs::{LinkOrder, TcAttachType, tc::TcAttachOptions};
use skep_ebpf_common::{
    conntrack::Node,
    kind,
    pod::{PodValue, pod_flags},
};

use crate::{
    craft::{ACK, Craft, SCTP, TCP, UDP, read},
    direct::{HOST_MAC, OPEN, OTHER_DEVICE, POD_MAC, ip_of, other, pod, rig as pods},
    rig::{IP4, IP6, NEXT, Net, REDIRECT, Rig, words},
    short_way::Pod,
    traffic::Namespace,
};

/// With a node port that the open pod serves.
fn rig() -> Rig {
    let mut rig = pods();
    rig.set_node(Node { ip4: words(ip_of(IP4.node)), ip6: words(ip_of(IP6.node)), ..Node::default() });
    for net in [IP4, IP6] {
        for protocol in [TCP, UDP, SCTP] {
            rig.serve(net.node, protocol, kind::NODE_PORT, &[(other(net), true)]);
        }
    }
    rig
}

fn asked(protocol: u8, net: Net) -> Craft {
    let craft = Craft::new(protocol, net.client, net.node);
    // Of SCTP: an INIT.
    if protocol == SCTP { craft.flags(1) } else { craft }
}

/// What is translated goes to the pod `other`; is it handed over?
#[track_caller]
fn is_handed_over(rig: &mut Rig, net: Net, program: &str, frame: &[u8], segment: u32) -> bool {
    let (action, after) = rig.run_merged(program, frame, segment);
    assert_eq!(action, REDIRECT);
    let (before, seen) = (read(frame), read(&after));
    assert_eq!((seen.to, seen.ttl), (other(net).parse().unwrap(), before.ttl - 1));
    if after[..12] == frame[..12] {
        return false;
    }
    assert_eq!((&after[..6], &after[6..12]), (&POD_MAC[..], &HOST_MAC[..]));
    true
}

#[test]
fn packets_from_outside_to_a_node_port_are_handed_to_an_open_pod() {
    let mut rig = rig();
    for net in [IP4, IP6] {
        for protocol in [TCP, UDP, SCTP] {
            assert!(
                is_handed_over(&mut rig, net, "from_device", &asked(protocol, net).frame(), 0),
                "{net:?} {protocol}"
            );
        }
        let frame = asked(UDP, net).frame();
        // No reverse path filter sees what is translated, so whether there is one does not matter.
        for (flags, is_open) in [(0, false), (pod_flags::FROM_OUTSIDE, false), (pod_flags::DIRECT, true), (OPEN, true)]
        {
            pod(&mut rig, other(net), OTHER_DEVICE, flags);
            assert_eq!(is_handed_over(&mut rig, net, "from_device", &frame, 0), is_open, "{net:?} {flags}");
        }
        // Memory of another entry, back out of the device it came by, none.
        let key = words(ip_of(other(net)));
        let value = PodValue { index: OTHER_DEVICE, mtu: 1500, flags: OPEN, seal: 0, macs: [POD_MAC, HOST_MAC] };
        rig.map::<[u32; 4], PodValue>("PODS").insert(key, value.sealed_for(&words(ip_of(net.here))), 0).unwrap();
        assert!(!is_handed_over(&mut rig, net, "from_device", &frame, 0));
        let device = rig.device;
        pod(&mut rig, other(net), device, OPEN);
        assert!(!is_handed_over(&mut rig, net, "from_device", &frame, 0));
        rig.map::<[u32; 4], PodValue>("PODS").remove(&key).unwrap();
        assert!(!is_handed_over(&mut rig, net, "from_device", &frame, 0));
    }
}

#[test]
fn questions_and_answers_of_pods_are_handed_to_an_open_pod() {
    let mut rig = rig();
    for net in [IP4, IP6] {
        for protocol in [TCP, UDP, SCTP] {
            let question = Craft { from: net.here.parse().unwrap(), ..asked(protocol, net) };
            assert!(is_handed_over(&mut rig, net, "from_pod", &question.frame(), 0), "{net:?} {protocol}");
            // The other way round: that pod asks, and is answered.
            let front = net.node.replace("30080", "30081");
            rig.serve(&front, protocol, kind::NODE_PORT, &[(net.here, true)]);
            let question = Craft { from: other(net).parse().unwrap(), to: front.parse().unwrap(), ..question };
            assert_eq!(rig.run("from_pod", &question.frame()).0, REDIRECT);
            let answer = Craft::new(protocol, net.here, other(net)).flags(if protocol == SCTP { 2 } else { ACK });
            assert!(is_handed_over(&mut rig, net, "from_pod", &answer.frame(), 0), "{net:?} {protocol}");
        }
    }
}

#[test]
fn what_is_not_as_usual_takes_the_queue_of_the_pods_device() {
    let mut rig = rig();
    for (net, options) in [(IP4, vec![1; 4]), (IP6, vec![0, 0, 1, 4, 0, 0, 0, 0])] {
        let headers = if net.node.starts_with('[') { 48 } else { 28 };
        let whole = |size: usize| Craft { payload: vec![0; size - headers], ..asked(UDP, net) }.frame();
        let optional = Craft { options, ..asked(UDP, net) }.frame();
        assert!(!is_handed_over(&mut rig, net, "from_device", &optional, 0));
        // What is too long for the pod alone, whole and merged.
        let key = words(ip_of(other(net)));
        let short = PodValue { index: OTHER_DEVICE, mtu: 1400, flags: OPEN, seal: 0, macs: [POD_MAC, HOST_MAC] };
        rig.map::<[u32; 4], PodValue>("PODS").insert(key, short.sealed_for(&key), 0).unwrap();
        assert!(is_handed_over(&mut rig, net, "from_device", &whole(1400), 0));
        assert!(!is_handed_over(&mut rig, net, "from_device", &whole(1401), 0));
        let fits = (1400 - headers) as u32;
        assert!(is_handed_over(&mut rig, net, "from_device", &whole(2800), fits));
        assert!(!is_handed_over(&mut rig, net, "from_device", &whole(2800), fits + 1));
        // Pieces, which go together.
        for piece in (Craft { payload: vec![7; 64], ..asked(UDP, net) }).fragments(32) {
            let (action, after) = rig.run("from_device", &piece);
            assert_eq!((action, &after[..12]), (REDIRECT, &piece[..12]));
        }
        // At the end of its life: its sender is told.
        let (action, after) = rig.run("from_device", &Craft { ttl: 1, ..asked(UDP, net) }.frame());
        assert_eq!((action, read(&after).to.ip()), (REDIRECT, ip_of(net.client)));
    }
}

#[test]
fn a_pod_that_is_known_behind_its_device_needs_no_route_to_speak_for_itself() {
    let mut rig = rig();
    let device = rig.pod;
    for net in [IP4, IP6] {
        // The routes say that it is elsewhere.
        let frame = Craft { from: net.there.parse().unwrap(), ..asked(UDP, net) }.frame();
        assert_eq!(rig.run("from_pod", &frame).0, NEXT);
        pod(&mut rig, net.there, OTHER_DEVICE + 1, OPEN);
        assert_eq!(rig.run("from_pod", &frame).0, NEXT);
        pod(&mut rig, net.there, device, 0);
        assert!(is_handed_over(&mut rig, net, "from_pod", &frame, 0));
    }
}

/// How many questions an exchange has.
const MANY: usize = 40;
/// Neighbours are asked for by the way.
const FEW: usize = MANY / 2;
const PATIENCE: Duration = Duration::from_secs(5);

/// A client outside, and two pods.
fn ground() -> (Rig, Namespace, Pod, Pod) {
    let mut rig = Rig::bare();
    let client = Namespace::new("out0", ["192.0.2.1/24", "2001:db8::1/64"], ["192.0.2.9/24", "2001:db8::9/64"]);
    let (a, b) = (Pod::new("poda", 1), Pod::new("podb", 2));
    for (device, program) in [("out0", "from_device"), ("poda", "from_pod"), ("podb", "from_pod")] {
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        rig.program(program).attach_with_options(device, TcAttachType::Ingress, options).unwrap();
    }
    (rig, client, a, b)
}

fn tell(rig: &mut Rig, pod: &Pod, flags: u32) {
    let device = pod.device();
    let value = PodValue { index: device.index, mtu: device.mtu, flags, seal: 0, macs: [device.pod_mac, device.mac] };
    for address in pod.addresses {
        let key = words(address);
        rig.map::<[u32; 4], PodValue>("PODS").insert(key, value.sealed_for(&key), 0).unwrap();
    }
}

/// Asks that node port often; the answers come from that backend.
fn exchange(client: &Namespace, net: Net, backend: &str) {
    assert!(client.tcp(net.node).unwrap().starts_with(backend));
    for _ in 0..MANY {
        assert!(client.udp(net.node, 64).unwrap().starts_with(backend));
    }
    // In pieces, both ways.
    assert!(client.udp(net.node, 3000).unwrap().starts_with(backend));
}

/// Sends a lot of bytes to that node port over TCP, which `pod` gets there.
fn pour(client: &Namespace, front: SocketAddr, pod: &Pod, backend: SocketAddr) {
    let bytes: Vec<u8> = (0..4 << 20).map(|place: u32| (place % 251) as u8).collect();
    let expected = bytes.clone();
    let listener = pod.namespace.run(move || TcpListener::bind(backend).unwrap()).join().unwrap();
    let sender = client.run(move || TcpStream::connect_timeout(&front, PATIENCE).unwrap().write_all(&bytes).unwrap());
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    sender.join().unwrap();
    assert!(received == expected, "{} bytes came, not those that were sent", received.len());
}

#[test]
fn long_segments_to_a_node_port_reach_an_open_pod_as_they_were_sent() {
    let (mut rig, client, a, b) = ground();
    for (place, net) in [IP4, IP6].into_iter().enumerate() {
        let (front, backend) = (net.node.parse().unwrap(), SocketAddr::from((b.addresses[place], 8080)));
        rig.serve(net.node, TCP, kind::NODE_PORT, &[(&backend.to_string(), true)]);
        for pod in [&a, &b] {
            tell(&mut rig, pod, OPEN);
        }
        let before = [a.sent(), b.sent()];
        pour(&client, front, &b, backend);
        pour(&a.namespace, front, &b, backend);
        let sent = [a.sent() - before[0], b.sent() - before[1]];
        assert!(sent.iter().all(|count| *count < FEW), "{net:?} {sent:?}");
    }
}

#[test]
fn real_traffic_to_a_node_port_goes_past_the_queue_of_an_open_pod() {
    let (mut rig, client, a, b) = ground();
    for (place, net) in [IP4, IP6].into_iter().enumerate() {
        let backend = SocketAddr::from((b.addresses[place], 8080)).to_string();
        b.namespace.answer(&backend);
        for protocol in [TCP, UDP] {
            rig.serve(net.node, protocol, kind::NODE_PORT, &[(&backend, true)]);
        }
        // Who is open, and who is reached past the queue: the pod that asks, and the pod that answers.
        for open in [[true, true], [true, false], [false, true]] {
            for (pod, is_open) in [&a, &b].into_iter().zip(open) {
                tell(&mut rig, pod, if is_open { OPEN } else { 0 });
            }
            let before = [a.sent(), b.sent()];
            exchange(&a.namespace, net, &backend);
            let sent = [a.sent() - before[0], b.sent() - before[1]];
            for (count, is_open) in sent.into_iter().zip(open) {
                assert!(if is_open { count < FEW } else { count >= MANY }, "{net:?} {open:?} {sent:?}");
            }
            let before = b.sent();
            exchange(&client, net, &backend);
            let sent = b.sent() - before;
            assert!(if open[1] { sent < FEW } else { sent >= MANY }, "{net:?} {open:?} {sent}");
        }
    }
}
