//! Connection tracking: which flow a packet belongs to, and the choice for a new one.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_boot_ns},
    maps::lpm_trie,
    programs::TcContext,
};
use skep_ebpf_common::{
    Address, BackendValue, FrontendKey, TCP, UDP,
    conntrack::{self, Flow, Node, Reply, Tuple, state},
    kind,
    packet::{Drop, tcp_flags},
};

use super::{
    NEXT, dropped,
    maps::{Choice, FLOWS, INSIDE, NODE, REPLIES, Scratch, TRACKING},
    parse::Piece,
    refuse,
    rewrite::Target,
    send,
};
use crate::{
    lookup::{self, Chosen, Client, Origin, Reason, Verdict},
    maps::ADDRESSES,
};

/// How many source ports are tried before a flow is given up.
const ATTEMPTS: u32 = 8;

/// The entry of the other direction is looked after once in so many nanoseconds.
const CARE: u64 = 1_000_000_000;

/// Translates the answer of a backend. `None`: it is none. An answer with an `origin` may leave by another device; else it is
/// on its way out already.
#[inline(always)]
pub(super) fn reply(ctx: &TcContext, scratch: &mut Scratch, origin: Option<Origin>) -> Option<i32> {
    let Scratch { packet, reply, flow_key, route, .. } = scratch;
    let protocol = packet.tuple.protocol;
    let entry = REPLIES.get_ptr_mut(&packet.tuple)?;
    // SAFETY: the copy is only believed when its seal fits.
    *reply = unsafe { entry.read() };
    let now = now();
    if !reply.is_sealed_for(&packet.tuple) {
        return None;
    }
    *flow_key = reply.flow_key(protocol);
    if !is_alive(reply, flow_key, now) {
        return None;
    }
    if opens_another(packet.flags, reply.state) {
        let _ = REPLIES.remove(&packet.tuple);
        let _ = FLOWS.remove(&*flow_key);
        return None;
    }
    if origin == Some(Origin::Internal) && !send::is_senders(ctx, route, packet, &packet.tuple.source) {
        return Some(NEXT);
    }
    let learned = conntrack::learned(packet.flags, true) & !reply.state;
    // SAFETY: an element that changes hands meanwhile gets a time and bits of another flow: it lives a little longer, or
    // ends up as closing, which only matters for a new connection from the very same port.
    unsafe { (*entry).used = now };
    if learned != 0 {
        // SAFETY: as above.
        unsafe { (*entry).state = reply.state | learned };
        if let Some(flow) = FLOWS.get_ptr_mut(&*flow_key) {
            // SAFETY: as above.
            unsafe { (*flow).state |= learned };
        }
    }
    let target = Target {
        source: &reply.frontend,
        destination: &reply.client,
        source_port: reply.frontend_port,
        destination_port: reply.client_port,
    };
    if origin.is_some() {
        return Some(match send::flow(ctx, route, packet, &target) {
            Ok(action) => action,
            Err(reason) => refuse::tell(ctx, scratch, reason),
        });
    }
    // On the way out the route is chosen already, so the packet must go where it would have gone.
    if reply.client != packet.tuple.destination {
        return None;
    }
    Some(match super::rewrite::flow(ctx, packet, &target) {
        Ok(()) => NEXT,
        Err(_) => dropped(Drop::Rewrite),
    })
}

/// Does a backend that ended its side accept a connection from the very same port? That one does not come by way of a
/// frontend, or the flow would have begun anew: the client, a pod or node, asks the backend itself.
#[inline(always)]
fn opens_another(flags: u8, bits: u32) -> bool {
    let opened = tcp_flags::SYN | tcp_flags::ACK;
    flags & opened == opened && bits & (state::BACKEND_FIN | state::RESET) != 0
}

/// Has any flow been noted yet?
#[inline(always)]
pub(super) fn is_needed() -> bool {
    // SAFETY: the entries of an array are always there, and this one is an aligned word.
    TRACKING.get_ptr(0).is_some_and(|noted| unsafe { noted.read_volatile() } != 0)
}

/// From now on packets are looked for among the flows.
#[inline(always)]
fn need() {
    if !is_needed()
        && let Some(noted) = TRACKING.get_ptr_mut(0)
    {
        // SAFETY: as above.
        unsafe { noted.write_volatile(1) };
    }
}

/// Sends a client's packet to its backend, which is chosen if the flow is new.
#[inline(always)]
pub(super) fn forward(ctx: &TcContext, scratch: &mut Scratch, origin: Origin, tracked: bool) -> i32 {
    if !(tracked && known(ctx, scratch, origin)) {
        if scratch.packet.piece == Piece::Later || !may_begin(&scratch.packet.tuple.destination, origin) {
            return NEXT;
        }
        if let Err(action) = begin(ctx, scratch, origin) {
            return action;
        }
    }
    let Scratch { packet, flow, route, .. } = scratch;
    let target = Target {
        source: &flow.from,
        destination: &flow.to,
        source_port: flow.from_port,
        destination_port: flow.to_port,
    };
    match send::flow(ctx, route, packet, &target) {
        Ok(action) => action,
        Err(reason) => refuse::tell(ctx, scratch, reason),
    }
}

/// Reads the flow of a packet, if it goes on.
#[inline(always)]
fn known(ctx: &TcContext, scratch: &mut Scratch, origin: Origin) -> bool {
    let Scratch { packet, flow, reply, other, reply_key, route, .. } = scratch;
    let key = &packet.tuple;
    let Some(entry) = FLOWS.get_ptr_mut(key) else { return false };
    // SAFETY: the copy is only believed when its seal fits.
    *flow = unsafe { entry.read() };
    if !flow.is_sealed_for(key) {
        return false;
    }
    // A new flow would be refused for the same reason.
    if origin == Origin::Internal && !send::is_senders(ctx, route, packet, &key.source) {
        return false;
    }
    *reply_key = flow.reply_key(key.protocol);
    let now = now();
    let opens = key.protocol == TCP && packet.flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN;
    let silent = now.wrapping_sub(flow.used);
    let mut goes_on = !(opens && conntrack::is_closing(flow.state));
    // Established TCP connections drain; datagrams and new connections go where somebody is.
    if goes_on && (opens || key.protocol == UDP) && flow.service != 0 {
        goes_on = lookup::backend(flow.backend, flow.service).is_some();
    }
    if goes_on && silent > CARE {
        goes_on = look_after(key, flow, reply_key, reply, other, now);
    }
    if !goes_on {
        let _ = REPLIES.remove(&*reply_key);
        let _ = FLOWS.remove(key);
        return false;
    }
    let learned = conntrack::learned(packet.flags, false) & !flow.state;
    // SAFETY: see `reply`.
    unsafe { (*entry).used = now };
    if learned != 0 {
        // SAFETY: see `reply`.
        unsafe { (*entry).state |= learned };
        if let Some(reply) = REPLIES.get_ptr_mut(&*reply_key) {
            // SAFETY: see `reply`.
            unsafe { (*reply).state |= learned };
        }
    }
    true
}

/// Puts back the entry for the answers if it was pushed out. False if the flow has been silent for too long, or its place
/// has been taken.
#[inline(always)]
fn look_after(key: &Tuple, flow: &Flow, reply_key: &Tuple, reply: &mut Reply, other: &mut Reply, now: u64) -> bool {
    let timeout = conntrack::timeout(key.protocol, flow.state);
    let silent = now.wrapping_sub(flow.used);
    if let Some(entry) = REPLIES.get_ptr(reply_key) {
        // SAFETY: the copy is only believed when its seal fits.
        *other = unsafe { entry.read() };
        if other.is_sealed_for(reply_key) {
            return is_of(other, key) && (silent <= timeout || now.wrapping_sub(other.used) <= timeout);
        }
    }
    *reply = Reply::new(key, now);
    reply.state = flow.state;
    reply.seal_for(reply_key);
    silent <= timeout && REPLIES.insert(reply_key, &*reply, u64::from(BPF_NOEXIST)).is_ok()
}

/// Are these the answers of the flow with that key?
#[inline(always)]
fn is_of(reply: &Reply, key: &Tuple) -> bool {
    reply.client == key.source
        && reply.frontend == key.destination
        && reply.client_port == key.source_port
        && reply.frontend_port == key.destination_port
}

/// Has either side of the flow been heard of lately? `key` is the flow's.
#[inline(always)]
fn is_alive(reply: &Reply, key: &Tuple, now: u64) -> bool {
    let timeout = conntrack::timeout(key.protocol, reply.state);
    if now.wrapping_sub(reply.used) <= timeout {
        return true;
    }
    // The seal is not asked: an element in other hands is in use just now, and its time says so.
    // SAFETY: one aligned word of a map's value.
    FLOWS.get_ptr(key).is_some_and(|flow| now.wrapping_sub(unsafe { (*flow).used }) <= timeout)
}

/// How a choice ended.
const CHOSEN: i32 = 0;
const PASS: i32 = 1;
const REFUSE: i32 = 2;
const DROP: i32 = 16;

/// Asks for a backend. A function of its own, with a stack of its own for the lookup.
#[inline(never)]
fn choose(ctx: &TcContext, scratch: &mut Scratch, origin: Origin) -> i32 {
    let key = &scratch.packet.tuple;
    let frontend = FrontendKey::new(key.destination, key.destination_port, key.protocol);
    match lookup::lookup(ctx, &frontend, origin, &Sender { tuple: key }) {
        Verdict::Pass => PASS,
        Verdict::Refuse(Reason::NoPort | Reason::NoEndpoints) => REFUSE,
        Verdict::Refuse(Reason::NoLocalEndpoints) => DROP + Drop::NoLocalEndpoints as i32,
        Verdict::Refuse(Reason::SourceDenied) => DROP + Drop::SourceDenied as i32,
        Verdict::Refuse(Reason::Torn) => DROP + Drop::Torn as i32,
        Verdict::Backend(Chosen { id, service, kind, backend, .. }) => {
            scratch.chosen =
                Choice { address: backend.address, id, service, kind, port: backend.port, flags: backend.flags };
            CHOSEN
        }
    }
}

/// May a packet for that address begin a flow? All that has frontends is among the addresses.
#[inline(always)]
pub(super) fn may_begin(destination: &Address, origin: Origin) -> bool {
    // SAFETY: that there is a value is all that is asked.
    unsafe { ADDRESSES.get(destination) }.is_some()
        || (origin == Origin::Internal && NODE.get(0).is_some_and(|node| node.masquerade != 0))
}

/// Does a packet of a pod begin a flow to an address that is not the cluster's, which needs the node's address to be answered?
/// A TCP segment that opens nothing belongs to a connection from outside, or to one that began without translation.
#[inline(always)]
fn leaves(scratch: &Scratch) -> bool {
    let packet = &scratch.packet;
    let key = &packet.tuple;
    NODE.get(0).is_some_and(|node| node.masquerade != 0)
        && (key.protocol != TCP || packet.flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN)
        && INSIDE.get(lpm_trie::Key::new(128, key.destination)).is_none()
}

/// Chooses a backend for a new flow and notes both directions. An error is the packet's end.
#[inline(always)]
fn begin(ctx: &TcContext, scratch: &mut Scratch, origin: Origin) -> Result<(), i32> {
    match choose(ctx, scratch, origin) {
        CHOSEN => {}
        PASS if origin == Origin::Internal && leaves(scratch) => {
            let key = &scratch.packet.tuple;
            scratch.chosen =
                Choice { address: key.destination, id: 0, service: 0, kind: 0, port: key.destination_port, flags: 0 };
        }
        PASS => return Err(NEXT),
        REFUSE => return Err(refuse::refuse(ctx, scratch)),
        reason if reason == DROP + Drop::NoLocalEndpoints as i32 => return Err(dropped(Drop::NoLocalEndpoints)),
        reason if reason == DROP + Drop::SourceDenied as i32 => return Err(dropped(Drop::SourceDenied)),
        _ => return Err(dropped(Drop::Torn)),
    }
    let Scratch { packet, flow, chosen, reply_key, route, .. } = scratch;
    let key = &packet.tuple;
    if origin == Origin::Internal && !send::is_senders(ctx, route, packet, &key.source) {
        // The stack has its word on it.
        return Err(NEXT);
    }
    let local = chosen.flags & BackendValue::LOCAL != 0;
    // A backend elsewhere would answer the client past this node, and one that is the client itself would not answer at all.
    // A pod keeps its address: what is for it comes back through this node.
    let leaves = chosen.service == 0;
    let translate = leaves || chosen.address == key.source || (origin == Origin::External && !local);
    flow.used = now();
    flow.state = conntrack::learned(packet.flags, false);
    flow.backend = chosen.id;
    flow.service = chosen.service;
    flow.to = chosen.address;
    flow.from = key.source;
    flow.to_port = chosen.port;
    flow.from_port = key.source_port;
    flow.pad = 0;
    let node = NODE.get(0);
    if translate {
        flow.from = match node {
            Some(node) if packet.ip6 && node.ip6 != [0; 4] => node.ip6,
            Some(node) if !packet.ip6 && node.ip4 != [0; 4] => node.ip4,
            _ if matches!(chosen.kind, kind::NODE_PORT | kind::HOST_PORT) => key.destination,
            _ if leaves => return Err(NEXT),
            _ => return Err(dropped(Drop::NoNodeAddress)),
        };
        let way = send::way(ctx, route, packet, key.protocol, &flow.from, &flow.to);
        if leaves && way != Ok(send::Way::Out) {
            // To this node itself, or nowhere.
            return Err(NEXT);
        }
        // Answers must take the way back through the tunnel: the network beneath need not know the pods' addresses.
        if let Some(node) = node
            && node.tunnel != 0
            && way == Ok(send::Way::Out)
            && route.fib.ifindex == node.tunnel
        {
            let end = if packet.ip6 { node.tunnel6 } else { node.tunnel4 };
            if end != [0; 4] {
                flow.from = end;
            }
        }
    }
    need();
    if !claim(key, flow, reply_key, &mut scratch.reply, &mut scratch.other, &mut scratch.flow_key, translate, node) {
        return Err(dropped(Drop::NoPort));
    }
    flow.seal_for(key);
    if FLOWS.insert(key, &*flow, u64::from(BPF_NOEXIST)).is_ok() {
        return Ok(());
    }
    // Another CPU was faster with another packet of the flow.
    let _ = REPLIES.remove(&*reply_key);
    if let Some(entry) = FLOWS.get_ptr(key) {
        // SAFETY: the copy is only believed when its seal fits.
        *flow = unsafe { entry.read() };
        if flow.is_sealed_for(key) {
            return Ok(());
        }
    }
    Err(dropped(Drop::Conntrack))
}

/// Finds a source port whose answers nobody else waits for, and claims it. The client's own is the first choice unless the
/// address is translated.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "inlined; all of them lie outside the stack")]
fn claim(
    key: &Tuple,
    flow: &mut Flow,
    reply_key: &mut Tuple,
    reply: &mut Reply,
    other: &mut Reply,
    other_key: &mut Tuple,
    translate: bool,
    node: Option<&Node>,
) -> bool {
    let (first, last) = match node {
        Some(node) if node.first_port != 0 && node.last_port >= node.first_port => (node.first_port, node.last_port),
        _ => (Node::FIRST_PORT, Node::LAST_PORT),
    };
    let count = u32::from(last - first) + 1;
    // SAFETY: the helper takes no argument and always succeeds.
    let start = unsafe { bpf_get_prandom_u32() };
    *reply_key = flow.reply_key(key.protocol);
    *reply = Reply::new(key, flow.used);
    reply.state = flow.state;
    for attempt in 0..ATTEMPTS {
        if translate || attempt > 0 {
            // A stride that is prime to most counts, so that attempts differ.
            let place = start.wrapping_add(attempt.wrapping_mul(7919)) % count;
            flow.from_port = (first + place as u16).to_be();
            reply_key.destination_port = flow.from_port;
        }
        reply.seal_for(reply_key);
        if REPLIES.insert(&*reply_key, &*reply, u64::from(BPF_NOEXIST)).is_ok() {
            return true;
        }
        let Some(entry) = REPLIES.get_ptr(&*reply_key) else { continue };
        // SAFETY: the copy is only believed when its seal fits.
        *other = unsafe { entry.read() };
        if !other.is_sealed_for(reply_key) {
            continue;
        }
        *other_key = other.flow_key(key.protocol);
        if is_of(other, key) || !is_alive(other, other_key, flow.used) {
            let _ = REPLIES.remove(&*reply_key);
            if REPLIES.insert(&*reply_key, &*reply, u64::from(BPF_NOEXIST)).is_ok() {
                return true;
            }
        }
    }
    false
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper takes no argument and always succeeds.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// The sender of a packet, as the choice of a backend sees it.
struct Sender<'a> {
    tuple: &'a Tuple,
}

impl Client for Sender<'_> {
    #[inline(always)]
    fn address(&self) -> Address {
        self.tuple.source
    }

    /// No namespace: the addresses that are meant in one are loopback ones, which no packet of a device has. (The kernel
    /// would tell from 6.15 on.)
    #[inline(always)]
    fn netns(&self) -> u64 {
        0
    }

    #[inline(always)]
    fn hash(&self) -> u32 {
        self.tuple.hash()
    }

    #[inline(always)]
    fn remembered(&self, _: u32) -> u32 {
        0
    }

    #[inline(always)]
    fn remember(&self, _: u32, _: u32) {}
}
