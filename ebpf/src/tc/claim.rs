//! Source ports of flows that are translated: finding one whose answers nobody else waits for. The claim on it is the entry for
//! those answers.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_get_prandom_u32, programs::TcContext};
use skep_ebpf_common::{
    TCP,
    conntrack::{self, Reply, Tuple, dsr},
};

use super::{
    maps::{FLOWS, NODE, REPLIES, Scratch},
    send, sockets, track,
};
use crate::{flows, load};

/// How often a source port is claimed before a flow is given up.
const ATTEMPTS: u32 = 10;
/// For each of them, so many ports are looked at for one that is free. With nine of ten in use, one of seventy flows finds none.
const LOOKS: u32 = 4;
/// After so many attempts, a port is taken from a flow that gives it (see [`conntrack::yields`]).
const POLITE: u32 = 5;

/// Finds a source port whose answers nobody else waits for, and claims it.
#[inline(always)]
pub(super) fn search(ctx: &TcContext, scratch: &mut Scratch) -> bool {
    let (first, last) = flows::ports(NODE.get(0));
    let count = u32::from(last - first) + 1;
    // SAFETY: the helper takes no argument and always succeeds.
    let mut place = unsafe { bpf_get_prandom_u32() };
    for attempt in 0..ATTEMPTS {
        let Scratch { packet, flow, reply_key, former, former_port, .. } = &mut *scratch;
        *reply_key = flow.reply_key(&packet.tuple);
        let again = attempt == 0 && *former != 0 && *former == flow.backend;
        if again {
            flow.from_port = *former_port;
        }
        for _ in 0..if again { 0 } else { LOOKS } {
            // A stride that is prime to most counts, so that attempts differ.
            place = place.wrapping_add(7919);
            flow.from_port = (first + (place % count) as u16).to_be();
            reply_key.destination_port = flow.from_port;
            if REPLIES.get_ptr(&*reply_key).is_none() {
                break;
            }
        }
        if !sockets::has(ctx, scratch) && claim(scratch, attempt >= POLITE) {
            return true;
        }
    }
    false
}

/// Claims the answers to the source that the flow has, unless another flow waits for them. A function of its own: it is
/// called in a loop.
#[inline(never)]
pub(super) fn claim(scratch: &mut Scratch, insists: bool) -> bool {
    let Scratch { packet, flow, reply, other, reply_key, flow_key, .. } = scratch;
    let key = &packet.tuple;
    *reply_key = flow.reply_key(key);
    *reply = flow.reply(key, flow.used);
    reply.seal_for(reply_key);
    if REPLIES.insert(&*reply_key, &*reply, u64::from(BPF_NOEXIST)).is_ok() {
        return true;
    }
    if flows::reply(reply_key, other).is_none() {
        return false;
    }
    *flow_key = other.flow_key(reply_key);
    // Of two that the backend's node answers, the same client's, the newer counts there, too (`dsr::accept`).
    let is_followed =
        flow.flags & other.flags & dsr::SENT != 0 && (key.protocol != TCP || conntrack::is_closing(other.state));
    let has_way = *flow_key == *key
        || is_followed
        || !track::is_alive(other, flow_key, flow.used)
        || (insists && conntrack::yields(key.protocol, other.state, silence(other, flow_key, flow.used)));
    if !has_way {
        return false;
    }
    let _ = REPLIES.remove(&*reply_key);
    REPLIES.insert(&*reply_key, &*reply, u64::from(BPF_NOEXIST)).is_ok()
}

/// Forgets the flow whose answers would look like those to a packet that is not translated: its sender has no other address or
/// port, and hears nothing while they are taken for the flow's. The flow begins anew with its client's next packet. Of TCP
/// only a first segment is worth the look.
#[inline(never)]
pub(super) fn give_way(ctx: &TcContext, scratch: &mut Scratch, is_from_pod: bool) {
    let Scratch { packet, flow, other, reply_key, flow_key, route, .. } = scratch;
    if packet.tuple.protocol == TCP && !flows::opens(TCP, packet.flags) {
        return;
    }
    *reply_key = packet.tuple.reversed();
    // A forged source takes nothing from anybody.
    if flows::reply(reply_key, other).is_none()
        || (is_from_pod && !send::is_senders(ctx, route, packet, &packet.tuple.source))
    {
        return;
    }
    *flow_key = other.flow_key(reply_key);
    let _ = REPLIES.remove(&*reply_key);
    if flows::flow(flow_key, flow).is_some() && FLOWS.remove(&*flow_key).is_ok() {
        load::forgotten(flow);
    }
}

/// For how long neither side of a flow has been heard of.
#[inline(always)]
fn silence(reply: &Reply, key: &Tuple, now: u64) -> u64 {
    let answers = now.wrapping_sub(reply.used);
    // SAFETY: see `track::is_alive`.
    match FLOWS.get_ptr(key).map(|flow| now.wrapping_sub(unsafe { (*flow).used })) {
        Some(questions) if questions < answers => questions,
        _ => answers,
    }
}
