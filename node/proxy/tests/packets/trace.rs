//! `Reader::trace` says what the kernel does: random services, clients and damage, the same question to both.

use std::{
    cell::Cell,
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use aya::Pod;
use proptest::{collection::vec, option::weighted, prelude::*, sample::select, test_runner::TestRunner};
use skep_ebpf_common::{
    AddressValue, AffinityKey, AffinityValue, BackendValue, FrontendKey, FrontendValue, Segment, ServiceValue, SlotKey,
    SlotValue, conntrack::Node, packet::Drop as Reason, port, service_flags,
};
use skep_proxy::{
    Protocol,
    maps::{
        Reader,
        reader::trace::{Candidate, Client, Outcome, Question},
    },
};

use crate::{
    craft::{Craft, SCTP, SYN, TCP, UDP, read},
    pinned::Pinned,
    rig::{NEXT, REDIRECT, Rig, ip, words},
};

/// Addresses by family: of Services and this node (the first), of clients outside, of pods here, of pods elsewhere.
struct Addresses {
    services: [&'static str; 3],
    clients: [&'static str; 3],
    here: [&'static str; 3],
    there: [&'static str; 3],
    tunnel: &'static str,
}

const FAMILIES: [Addresses; 2] = [
    Addresses {
        services: ["192.0.2.1", "10.96.0.10", "203.0.113.5"],
        clients: ["192.0.2.9", "192.0.2.10", "198.51.100.7"],
        here: ["10.1.0.5", "10.1.0.6", "10.1.0.7"],
        there: ["10.2.0.5", "10.2.0.6", "10.2.0.7"],
        tunnel: "10.1.0.1",
    },
    Addresses {
        services: ["2001:db8::1", "fd96::10", "2001:db8:9::5"],
        clients: ["2001:db8::9", "2001:db8::10", "2001:db8:7::7"],
        here: ["fd01::5", "fd01::6", "fd01::7"],
        there: ["fd02::5", "fd02::6", "fd02::7"],
        tunnel: "fd01::1",
    },
];

const PROTOCOLS: [u8; 3] = [TCP, UDP, SCTP];
const PORTS: [u16; 3] = [80, 443, 30_080];
const NODE_PORT: u32 = skep_ebpf_common::kind::NODE_PORT;

/// A service port with one frontend.
#[derive(Clone, Debug)]
struct Spec {
    kind: u32,
    address: usize,
    port: u16,
    protocol: u8,
    flags: u32,
    /// Index among the pods here, or behind them those elsewhere.
    backends: Vec<usize>,
    /// Backends by place; one that is too high is a hole.
    slots: Vec<usize>,
    /// Start and length of the four segments, cut to the slots.
    segments: [(u32, u32); 4],
    allowed: Option<usize>,
    damage: Option<u8>,
    affinity: Vec<(usize, usize, bool)>,
}

#[derive(Clone, Debug)]
enum Op {
    Packet {
        from_pod: bool,
        client: usize,
        client_port: u16,
        to: usize,
        port: u16,
        protocol: u8,
    },
    /// To the frontend of a service.
    Call {
        from_pod: bool,
        client: usize,
        client_port: u16,
        service: usize,
    },
    /// From a pod here, as an answer to a client outside.
    Answer {
        backend: usize,
        client: usize,
        client_port: u16,
        protocol: u8,
    },
    /// A backend of a service goes.
    Gone(usize, usize),
}

#[derive(Clone, Debug)]
struct World {
    family: usize,
    specs: Vec<Spec>,
    /// What is known of each address: bits, and whether in another namespace only.
    addresses: Vec<(u32, bool)>,
    node: bool,
    tunnel: bool,
    masquerade: bool,
    /// For which protocols backends answer themselves.
    dsr: u16,
    ops: Vec<Op>,
}

/// Start and length of a segment; one in eight is empty.
fn place() -> (Range<u32>, Range<u32>) {
    (0..3, 0..8)
}

fn spec() -> impl Strategy<Value = Spec> {
    let at = (1..=5_u32, 0..3_usize, select(&PORTS[..]), select(&PROTOCOLS[..]), 0..128_u32);
    let backends = (vec(0..6_usize, 0..6), vec(0..5_usize, 1..9), [place(), place(), place(), place()]);
    let rest = (weighted(0.5, 0..3_usize), weighted(0.08, 0..4_u8), vec((0..6_usize, 0..5_usize, any::<bool>()), 0..4));
    (at, backends, rest).prop_map(|((kind, address, port, protocol, flags), (backends, slots, segments), rest)| Spec {
        kind,
        address,
        port,
        protocol,
        flags,
        backends,
        slots,
        segments,
        allowed: rest.0,
        damage: rest.1,
        affinity: rest.2,
    })
}

fn op() -> impl Strategy<Value = Op> {
    let packet = (any::<bool>(), 0..3_usize, 4000..4003_u16, 0..4_usize, select(&PORTS[..]), select(&PROTOCOLS[..]));
    let packet = packet.prop_map(|(from_pod, client, client_port, to, port, protocol)| Op::Packet {
        from_pod,
        client,
        client_port,
        to,
        port,
        protocol,
    });
    let call = (any::<bool>(), 0..3_usize, 4000..4003_u16, 0..6_usize)
        .prop_map(|(from_pod, client, client_port, service)| Op::Call { from_pod, client, client_port, service });
    let answer = (0..3_usize, 0..3_usize, 4000..4003_u16, select(&PROTOCOLS[..]))
        .prop_map(|(backend, client, client_port, protocol)| Op::Answer { backend, client, client_port, protocol });
    let gone = (0..6_usize, 0..5_usize).prop_map(|(service, backend)| Op::Gone(service, backend));
    prop_oneof![20 => packet, 60 => call, 20 => answer, 1 => gone]
}

fn world() -> impl Strategy<Value = World> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), 0..4_u16);
    (0..2_usize, vec(spec(), 1..7), vec((0..8_u32, weighted(0.2, Just(()))), 3), flags, vec(op(), 120)).prop_map(
        |(family, specs, addresses, (node, tunnel, masquerade, dsr), ops)| World {
            family,
            specs,
            addresses: addresses.into_iter().map(|(bits, other)| (bits, other.is_some())).collect(),
            node,
            tunnel,
            masquerade,
            dsr,
            ops,
        },
    )
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn clear<K: Pod, V: Pod>(rig: &mut Rig, name: &str) {
    let keys: Vec<K> = rig.map::<K, V>(name).keys().map(Result::unwrap).collect();
    for key in keys {
        rig.map::<K, V>(name).remove(&key).unwrap();
    }
}

impl World {
    fn addresses(&self) -> &'static Addresses {
        &FAMILIES[self.family]
    }

    fn pod(&self, index: usize) -> (&'static str, bool) {
        let all = self.addresses();
        if index < 3 { (all.here[index], true) } else { (all.there[index - 3], false) }
    }

    /// Writes everything. `base` is a number below those of its services.
    fn build(&self, rig: &mut Rig, base: u32) {
        rig.forget();
        clear::<FrontendKey, FrontendValue>(rig, "FRONTENDS");
        clear::<[u32; 4], AddressValue>(rig, "ADDRESSES");
        clear::<u32, ServiceValue>(rig, "SERVICES");
        clear::<SlotKey, SlotValue>(rig, "SLOTS");
        clear::<u32, BackendValue>(rig, "BACKENDS");
        clear::<AffinityKey, AffinityValue>(rig, "AFFINITY");
        let own = |name: &str, wanted: bool| if wanted { words(address(name)) } else { [0; 4] };
        let (mut node, all) = (Node::default(), self.addresses());
        let ends = (own(all.services[0], self.node), own(all.tunnel, self.tunnel));
        if self.family == 0 {
            (node.ip4, node.tunnel4) = ends
        } else {
            (node.ip6, node.tunnel6) = ends
        }
        // No route leads to that device: what is said of the tunnel is only that its address is possible.
        node.tunnel = if self.tunnel { 9999 } else { 0 };
        node.masquerade = self.masquerade.into();
        node.dsr = self.dsr;
        rig.set_node(node);
        rig.is_node(address(all.services[0]));
        // Of an address without bits nothing is known at all.
        let known = all.services.iter().zip(&self.addresses).filter(|(_, (bits, _))| *bits != 0);
        for (text, (bits, elsewhere)) in known {
            let value = AddressValue { bits: *bits, pad: 0, netns: if *elsewhere { 77 } else { 0 } };
            rig.map::<[u32; 4], _>("ADDRESSES").insert(words(address(text)), value, 0).unwrap();
        }
        for (n, spec) in self.specs.iter().enumerate() {
            self.write(rig, spec, base + n as u32 * 10);
        }
        // Where they are counted, some have many connections, and some have none.
        let pods = if rig.counts() { 6 } else { 0 };
        for (n, pod) in (0..pods).map(|pod| self.pod(pod).0).enumerate() {
            rig.set_load(
                &SocketAddr::new(address(pod), 8080).to_string(),
                u64::from(base / 100 + 1) * (n as u64 + 3) % 7 * 4,
            );
        }
    }

    fn write(&self, rig: &mut Rig, spec: &Spec, id: u32) {
        let all = self.addresses();
        for (n, pod) in spec.backends.iter().enumerate() {
            let (text, local) = self.pod(*pod);
            let backend = id + 1 + n as u32;
            let value = BackendValue::sealed(backend, id, words(address(text)), port(8080), u16::from(local));
            rig.map("BACKENDS").insert(backend, value, 0).unwrap();
        }
        for (place, backend) in spec.slots.iter().enumerate().filter(|(_, backend)| **backend < spec.backends.len()) {
            let key = SlotKey { service: id, generation: 3, slot: place as u32 };
            let mut value = SlotValue::sealed(&key, id + 1 + *backend as u32);
            value.seal ^= u32::from(spec.damage == Some(0));
            rig.map("SLOTS").insert(key, value, 0).unwrap();
        }
        let length = spec.slots.len() as u32;
        // A service without backends has no places.
        let cut = |(start, count): (u32, u32)| {
            let start = start.min(length);
            Segment { start, count: if spec.backends.is_empty() { 0 } else { count.min(length - start) } }
        };
        let [cluster, internal, external, maglev] = spec.segments.map(cut);
        let mut flags = spec.flags & !service_flags::AFFINITY;
        if !spec.affinity.is_empty() {
            flags |= service_flags::AFFINITY;
        }
        let affinity = if spec.flags & service_flags::AFFINITY != 0 { 10_800 } else { 1 };
        let value =
            ServiceValue { generation: 3, cluster, internal, external, maglev, flags, affinity, seal: 0 }.sealed(id);
        if spec.damage != Some(1) {
            rig.map("SERVICES").insert(id, value, 0).unwrap();
        }
        let listens = if spec.kind == NODE_PORT {
            skep_ebpf_common::unspecified(&words(address(all.services[0])))
        } else {
            words(address(all.services[spec.address]))
        };
        let key = FrontendKey::new(listens, port(spec.port), spec.protocol);
        let mut value = FrontendValue::sealed(&key, id, spec.kind);
        value.seal ^= u32::from(spec.damage == Some(2));
        rig.map("FRONTENDS").insert(key, value, 0).unwrap();
        if let Some(client) = spec.allowed {
            rig.restrict(id, all.clients[client]);
        }
        // Of now or of long ago. The id of the service stands for a backend that never was.
        for (client, backend, fresh) in &spec.affinity {
            let client = if *client < 3 { all.clients[*client] } else { all.here[*client - 3] };
            let key = AffinityKey { client: words(address(client)), service: id };
            let used = if *fresh { uptime() } else { 0 };
            rig.map("AFFINITY").insert(key, AffinityValue { backend: id + *backend as u32, used }, 0).unwrap();
        }
    }
}

impl World {
    /// Of a packet: is it a pod's, its protocol, from where and to where.
    fn packet(&self, op: &Op) -> Option<(bool, u8, SocketAddr, SocketAddr)> {
        let all = self.addresses();
        let client_at =
            |from_pod: bool, client: usize| address(if from_pod { all.here[client] } else { all.clients[client] });
        Some(match *op {
            Op::Packet { from_pod, client, client_port, to, port, protocol } => {
                // The last is a pod elsewhere: no Service, and not the cluster's own as `INSIDE` has it.
                let to = address(all.services.get(to).copied().unwrap_or(all.there[0]));
                (
                    from_pod,
                    protocol,
                    SocketAddr::new(client_at(from_pod, client), client_port),
                    SocketAddr::new(to, port),
                )
            }
            Op::Call { from_pod, client, client_port, service } => {
                let spec = self.specs.get(service % self.specs.len())?;
                let to = address(all.services[if spec.kind == NODE_PORT { 0 } else { spec.address }]);
                let from = SocketAddr::new(client_at(from_pod, client), client_port);
                (from_pod, spec.protocol, from, SocketAddr::new(to, spec.port))
            }
            Op::Answer { backend, client, client_port, protocol } => {
                let to = SocketAddr::new(client_at(false, client), client_port);
                (true, protocol, SocketAddr::new(address(all.here[backend]), 8080), to)
            }
            Op::Gone(..) => return None,
        })
    }
}

fn uptime() -> u32 {
    let text = fs::read_to_string("/proc/uptime").unwrap();
    text.split('.').next().unwrap().parse().unwrap()
}

/// What the kernel did with a packet.
#[derive(Debug, PartialEq, Eq)]
enum Did {
    Nothing,
    Refused,
    Dropped(&'static str),
    Sent { from: SocketAddr, to: SocketAddr },
}

fn drops(rig: &mut Rig) -> Vec<u64> {
    Reason::ALL.into_iter().map(|reason| rig.drops(reason)).collect()
}

fn send(rig: &mut Rig, program: &str, packet: &Craft) -> Did {
    let before = drops(rig);
    let frame = packet.frame();
    let (verdict, after) = rig.run(program, &frame);
    let counts = drops(rig);
    let changed: Vec<Reason> =
        Reason::ALL.into_iter().filter(|reason| counts[*reason as usize] != before[*reason as usize]).collect();
    match changed[..] {
        [Reason::Refused | Reason::RefusedSilently] => return Did::Refused,
        [reason] => return Did::Dropped(reason.name()),
        [] => {}
        _ => panic!("two reasons for one packet: {changed:?}"),
    }
    if verdict == NEXT && after == frame {
        return Did::Nothing;
    }
    assert_eq!(verdict, REDIRECT, "{packet:?}");
    let seen = read(&after);
    Did::Sent { from: seen.from, to: seen.to }
}

/// Counts by what was done, so that a test that no longer reaches something is noticed.
#[derive(Default)]
struct Tally([Cell<u32>; 6]);

impl Tally {
    fn count(&self, kind: usize) {
        self.0[kind].set(self.0[kind].get() + 1);
    }
}

fn agrees(did: &Did, said: &Outcome, packet: &Craft, tally: &Tally) -> bool {
    // A client's own port is changed, too, if somebody else waits for the same answers.
    let sees = |candidate: &Candidate, from: &SocketAddr| candidate.source.unwrap_or(packet.from.ip()) == from.ip();
    match (did, said) {
        (Did::Nothing, Outcome::Passes) => tally.count(0),
        (Did::Refused, Outcome::Refused { .. }) => tally.count(1),
        (Did::Dropped(reason), Outcome::Dropped { reason: said }) if reason == said => tally.count(2),
        (Did::Sent { from, to }, Outcome::Masqueraded { source }) if from.ip() == *source && *to == packet.to => {
            tally.count(3);
        }
        (Did::Sent { from, to }, Outcome::Answer { from: source, to: client }) if from == source && to == client => {
            tally.count(4);
        }
        (Did::Sent { from, to }, Outcome::Backends { candidates }) => {
            tally.count(5);
            return candidates.iter().any(|candidate| candidate.address == *to && sees(candidate, from));
        }
        (Did::Dropped(reason), Outcome::Backends { candidates }) => {
            return candidates.iter().any(|candidate| candidate.dropped == Some(*reason));
        }
        _ => return false,
    }
    true
}

#[test]
fn trace_and_kernel_agree_on_every_packet() {
    agree(Rig::new());
}

#[test]
fn trace_and_kernel_agree_on_which_backend_has_fewer_connections() {
    agree(Rig::new().counting());
}

fn agree(mut rig: Rig) {
    ip("route add default via 192.0.2.2");
    ip("-6 route add default via 2001:db8::2");
    for (range, length) in [("192.0.2.1", 32), ("10.1.0.0", 16), ("2001:db8::1", 128), ("fd01::", 64)] {
        rig.inside(range, length);
    }
    let pinned = Pinned::new(&rig);
    let reader = pinned.reader();
    let (rig, next, tally) = (std::cell::RefCell::new(rig), Cell::new(1000), Tally::default());
    let mut runner = TestRunner::new(ProptestConfig { cases: 120, failure_persistence: None, ..Default::default() });
    runner
        .run(&world(), |world| {
            let rig = &mut *rig.borrow_mut();
            let base = next.replace(next.get() + 100);
            world.build(rig, base);
            for op in &world.ops {
                check(&reader, rig, &world, base, op, &tally)?;
            }
            Ok(())
        })
        .unwrap();
    // Far below what is usual: the cases are other ones each time.
    let counts: Vec<u32> = tally.0.iter().map(Cell::get).collect();
    assert!(counts.iter().sum::<u32>() > 5000 && counts.iter().all(|count| *count > 5), "{counts:?}");
    assert!(counts[5] > 200, "{counts:?}");
}

fn check(
    reader: &Reader,
    rig: &mut Rig,
    world: &World,
    base: u32,
    op: &Op,
    tally: &Tally,
) -> Result<(), TestCaseError> {
    let Some((from_pod, number, from, to)) = world.packet(op) else {
        if let Op::Gone(service, backend) = *op {
            // One that is not there is no error.
            let _ = rig.map::<u32, BackendValue>("BACKENDS").remove(&(base + service as u32 * 10 + 1 + backend as u32));
        }
        return Ok(());
    };
    // Of SCTP an INIT, which opens as SYN does.
    let packet = Craft::new(number, &from.to_string(), &to.to_string()).flags(if number == SCTP { 1 } else { SYN });
    let ask = |client_port: Option<u16>| {
        let client = if from_pod {
            Client::Pod { address: from.ip(), port: client_port }
        } else {
            Client::Outside { address: from.ip(), port: client_port }
        };
        let protocol = match number {
            TCP => Protocol::Tcp,
            UDP => Protocol::Udp,
            _ => Protocol::Sctp,
        };
        reader.trace(&Question { client, to, protocol }).unwrap()
    };
    let (exact, any) = (ask(Some(from.port())), ask(None));
    let did = send(rig, if from_pod { "from_pod" } else { "from_device" }, &packet);
    prop_assert!(agrees(&did, &exact.outcome, &packet, tally), "{packet:?}\nkernel: {did:?}\ntrace: {exact:#?}");
    if let Outcome::Backends { candidates } = &exact.outcome {
        prop_assert_eq!(candidates.len(), 1, "a known port leaves no choice");
    }
    // Without the port: what is chosen for a new flow is among what may be. (Places that lead nowhere end some ports.)
    let is_new = exact.steps.iter().any(|step| step.finding == "the flow is new");
    let is_torn = exact.outcome == Outcome::Dropped { reason: Reason::Torn.name() };
    // One answers from one port of a client once.
    let is_taken = exact.steps.iter().any(|step| step.finding.starts_with("it answers another connection"));
    if is_new && !is_torn && !is_taken {
        prop_assert!(
            agrees(&did, &any.outcome, &packet, &Tally::default()),
            "{packet:?}\nkernel: {did:?}\ntrace: {any:#?}"
        );
    }
    Ok(())
}

/// The candidates of a socket are the backends of all places.
#[test]
fn candidates_are_all_that_stand_in_the_places() {
    let mut rig = Rig::new();
    let (service, ids) = rig.serve(
        "10.96.0.10:80",
        TCP,
        skep_ebpf_common::kind::CLUSTER_IP,
        &[("10.1.0.5:8080", true), ("10.2.0.5:8080", false)],
    );
    let pinned = Pinned::new(&rig);
    let reader = pinned.reader();
    let question =
        |to: &str| Question { client: Client::Socket { netns: 0 }, to: to.parse().unwrap(), protocol: Protocol::Tcp };
    let trace = reader.trace(&question("10.96.0.10:80")).unwrap();
    let Outcome::Backends { candidates } = trace.outcome else { panic!("{trace:?}") };
    assert_eq!(candidates.iter().map(|candidate| candidate.id).collect::<BTreeSet<_>>(), ids.into_iter().collect());
    assert!(candidates.iter().all(|candidate| candidate.places == 1 && candidate.source.is_none()));
    assert_eq!(trace.service, Some(format!("service {service}")));
    assert_eq!(reader.trace(&question("10.96.0.11:80")).unwrap().outcome, Outcome::Passes);
    rig.set_backends(service, 0, &[]);
    assert_eq!(reader.trace(&question("10.96.0.10:80")).unwrap().outcome, Outcome::Refused { reason: "no-endpoints" });
}
