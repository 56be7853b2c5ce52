//! Connection tracking: which flow a packet belongs to, and the choice for a new one.

use aya_ebpf::{bindings::BPF_NOEXIST, maps::lpm_trie, programs::TcContext};
use skep_ebpf_common::{
    Address, BackendValue, FrontendKey, TCP, UDP, address_bits,
    conntrack::{self, Flow, Reply, Tuple, dsr, state},
    kind,
    packet::{Drop, tcp_flags},
};

use super::{
    NEXT, claim, dropped,
    maps::{Choice, FLOWS, INSIDE, NODE, REPLIES, Scratch, TRACKING},
    parse::Piece,
    refuse, send,
};
use crate::{
    flows::{self, Target},
    load,
    lookup::{self, Chosen, Client, Origin, Reason, Verdict},
    maps::ADDRESSES,
};

/// Translates the answer of a backend. `None`: it is none. An answer with an `origin` may leave by another device; else it is
/// on its way out already.
#[inline(always)]
pub(super) fn reply(ctx: &TcContext, scratch: &mut Scratch, origin: Option<Origin>) -> Option<i32> {
    let Scratch { packet, reply, flow_key, route, .. } = scratch;
    let protocol = packet.tuple.protocol;
    let entry = flows::reply(&packet.tuple, reply)?;
    let now = flows::now();
    *flow_key = reply.flow_key(&packet.tuple);
    if !is_alive(reply, flow_key, now) {
        return None;
    }
    if protocol == TCP && opens_another(packet.flags, reply.state) {
        if reply.flags & dsr::RECEIVED == 0 {
            load::learned(&packet.tuple.source, packet.tuple.source_port, reply.state, state::RESET);
        }
        let _ = REPLIES.remove(&packet.tuple);
        let _ = FLOWS.remove(&*flow_key);
        return None;
    }
    if origin == Some(Origin::Internal) && !send::is_senders(ctx, route, packet, &packet.tuple.source) {
        return Some(NEXT);
    }
    let learned = conntrack::learned(protocol, packet.flags, true, reply.state);
    // SAFETY: an element that changes hands meanwhile gets a time and bits of another flow: it lives a little longer, or
    // ends up as closing, which only matters for a new connection from the very same port.
    unsafe { (*entry).used = now };
    if learned != 0 {
        if reply.flags & dsr::RECEIVED == 0 {
            load::learned(&packet.tuple.source, packet.tuple.source_port, reply.state, learned);
        }
        // SAFETY: as above.
        unsafe { (*entry).state = reply.state | learned };
        if let Some(flow) = FLOWS.get_ptr_mut(&*flow_key) {
            // SAFETY: as above.
            unsafe { (*flow).state |= learned };
        }
    }
    let target = Target::of_reply(reply);
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
pub(crate) fn is_needed() -> bool {
    // SAFETY: the entries of an array are always there, and this one is an aligned word.
    TRACKING.get_ptr(0).is_some_and(|noted| unsafe { noted.read_volatile() } != 0)
}

/// From now on packets are looked for among the flows. False: none may begin just now, for their maps are being exchanged.
#[inline(always)]
pub(super) fn need(now: u64) -> bool {
    let Some(noted) = TRACKING.get_ptr_mut(0) else { return true };
    // SAFETY: as above.
    let word = unsafe { noted.read_volatile() };
    if word == 0 {
        // SAFETY: as above.
        unsafe { noted.write_volatile(1) };
    }
    !conntrack::is_held(word, now)
}

/// Sends a client's packet to its backend, which is chosen if the flow is new.
#[inline(always)]
pub(super) fn forward(ctx: &TcContext, scratch: &mut Scratch, origin: Origin, tracked: bool) -> i32 {
    scratch.former = 0;
    if !(tracked && known(ctx, scratch, origin)) {
        if scratch.packet.piece == Piece::Later || !may_begin(&scratch.packet.tuple.destination, origin) {
            return pass(ctx, scratch, origin, tracked);
        }
        match begin(ctx, scratch, origin) {
            Ok(()) => {}
            Err(NEXT) => return pass(ctx, scratch, origin, tracked),
            Err(action) => return action,
        }
    }
    if scratch.flow.flags & dsr::SENT != 0 && super::dsr::is_noted(&scratch.packet) {
        return match send::noted(ctx, scratch) {
            send::TOO_BIG_NOTED => refuse::tell(ctx, scratch, Drop::TooBig),
            send::TOO_OLD_NOTED => refuse::tell(ctx, scratch, Drop::TimeToLive),
            action => action,
        };
    }
    let Scratch { packet, flow, route, .. } = scratch;
    match send::flow(ctx, route, packet, &Target::of_flow(flow, &packet.tuple)) {
        Ok(action) => action,
        Err(reason) => refuse::tell(ctx, scratch, reason),
    }
}

/// Lets a packet go on as it is.
#[inline(always)]
fn pass(ctx: &TcContext, scratch: &mut Scratch, origin: Origin, tracked: bool) -> i32 {
    if tracked && scratch.packet.piece != Piece::Later {
        claim::give_way(ctx, scratch, origin == Origin::Internal);
    }
    NEXT
}

/// Reads the flow of a packet, if it goes on.
#[inline(always)]
fn known(ctx: &TcContext, scratch: &mut Scratch, origin: Origin) -> bool {
    let Scratch { packet, flow, reply, other, reply_key, route, former, former_port, .. } = scratch;
    let key = &packet.tuple;
    let Some(entry) = flows::flow(key, flow) else { return false };
    // A new flow would be refused for the same reason.
    if origin == Origin::Internal && !send::is_senders(ctx, route, packet, &key.source) {
        return false;
    }
    *reply_key = flow.reply_key(key);
    let now = flows::now();
    let opens = flows::opens(key.protocol, packet.flags);
    let silent = now.wrapping_sub(flow.used);
    let mut goes_on = !(opens && conntrack::is_closing(flow.state)) && flows::is_served(flow, key.protocol, opens);
    if goes_on && silent > flows::CARE {
        goes_on = look_after(key, flow, reply_key, reply, other, now);
    }
    if !goes_on {
        if opens && conntrack::is_closing(flow.state) {
            // The backend may still be in TIME-WAIT, which the same client's new connection ends, and no other's: to it the
            // port is kept.
            (*former, *former_port) = (if flow.flags == 0 { flow.backend } else { 0 }, flow.from_port);
        } else if flows::reply(reply_key, other).is_some() && other.flow_key(reply_key) == *key {
            // Not if it is another flow's by now.
            let _ = REPLIES.remove(&*reply_key);
        }
        if FLOWS.remove(key).is_ok() {
            load::forgotten(flow);
        }
        return false;
    }
    let mut learned = conntrack::learned(key.protocol, packet.flags, false, flow.state);
    if flow.flags & dsr::SENT != 0 {
        learned |= conntrack::implied(key.protocol, packet.flags) & !flow.state;
    }
    // SAFETY: see `reply`.
    unsafe { (*entry).used = now };
    if learned != 0 {
        load::learned(&flow.to, flow.to_port, flow.state | flow.unseen(), learned);
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
            return other.flow_key(reply_key) == *key && (silent <= timeout || now.wrapping_sub(other.used) <= timeout);
        }
    }
    *reply = flow.reply(key, now);
    reply.seal_for(reply_key);
    silent <= timeout && REPLIES.insert(reply_key, &*reply, u64::from(BPF_NOEXIST)).is_ok()
}

/// Has either side of the flow been heard of lately? `key` is the flow's.
#[inline(always)]
pub(super) fn is_alive(reply: &Reply, key: &Tuple, now: u64) -> bool {
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
    unsafe { ADDRESSES.get(destination) }.is_some() || (origin == Origin::Internal && is_masqueraded(destination))
}

/// Does a packet of a pod to that address need the node's?
#[inline(always)]
fn is_masqueraded(destination: &Address) -> bool {
    NODE.get(0).is_some_and(|node| node.masquerade != 0) && INSIDE.get(lpm_trie::Key::new(128, *destination)).is_none()
}

/// Does a packet of a pod begin a flow to an address that is not the cluster's, which needs the node's address to be answered?
/// A TCP segment, or SCTP packet, that opens nothing belongs to a connection from outside, or to one that began without
/// translation.
#[inline(always)]
fn leaves(scratch: &Scratch) -> bool {
    let packet = &scratch.packet;
    let key = &packet.tuple;
    (key.protocol == UDP || flows::opens(key.protocol, packet.flags)) && is_masqueraded(&key.destination)
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
    let Scratch { packet, flow, chosen, route, .. } = scratch;
    let key = &packet.tuple;
    if origin == Origin::Internal && !send::is_senders(ctx, route, packet, &key.source) {
        // The stack has its word on it.
        return Err(NEXT);
    }
    // SAFETY: one word of an entry, in whosever hands it is meanwhile.
    let is_nodes = || unsafe { ADDRESSES.get(&key.source) }.is_some_and(|value| value.bits & address_bits::NODE != 0);
    if origin == Origin::External && is_nodes() {
        // Nobody outside has an address of this node, to which pods are open; the stack drops who says so.
        return Err(NEXT);
    }
    let local = chosen.flags & BackendValue::LOCAL != 0;
    // A backend elsewhere would answer the client past this node, and one that is the client itself would not answer at all.
    // A pod keeps its address: what is for it comes back through this node.
    let leaves = chosen.service == 0;
    let elsewhere = origin == Origin::External && !local && chosen.address != key.source;
    let translate = leaves || chosen.address == key.source || elsewhere;
    flow.used = flows::now();
    flow.state = conntrack::learned(key.protocol, packet.flags, false, 0);
    flow.backend = chosen.id;
    flow.service = chosen.service;
    flow.to = chosen.address;
    flow.from = key.source;
    flow.to_port = chosen.port;
    flow.from_port = key.source_port;
    flow.flags = 0;
    if elsewhere && super::dsr::is_wanted(packet, chosen) {
        flow.flags = dsr::SENT;
    }
    if !need(flow.used) {
        return Err(dropped(Drop::Conntrack));
    }
    // The client's own port is the first choice where it can be.
    if (translate && flow.flags == 0) || !claim::claim(scratch, false) {
        show_node(ctx, scratch, translate)?;
        if !claim::search(ctx, scratch) {
            return Err(dropped(Drop::NoPort));
        }
    }
    let Scratch { packet, flow, reply_key, .. } = scratch;
    let key = &packet.tuple;
    flow.seal_for(key);
    if FLOWS.insert(key, &*flow, u64::from(BPF_NOEXIST)).is_ok() {
        load::noted(flow);
        return Ok(());
    }
    // Another CPU was faster with another packet of the flow.
    let _ = REPLIES.remove(&*reply_key);
    if flows::flow(key, flow).is_some() { Ok(()) } else { Err(dropped(Drop::Conntrack)) }
}

/// Gives a flow this node's address for its source if it is to be translated. An error is the packet's end.
#[inline(always)]
fn show_node(ctx: &TcContext, scratch: &mut Scratch, translate: bool) -> Result<(), i32> {
    let Scratch { packet, flow, chosen, route, .. } = scratch;
    let key = &packet.tuple;
    let leaves = chosen.service == 0;
    let node = NODE.get(0);
    flow.flags = 0;
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
    Ok(())
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
