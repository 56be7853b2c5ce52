//! Which connection a packet belongs to, and whether it may pass with it.
//!
//! A flow carries two stamps: the revision of the policies by which the opener's side allowed it, and that by which the
//! other side did. A packet of a flow whose own side's stamp is of today passes; else the policies are asked again. So they
//! are asked once a flow and change, and a change holds for connections that are open.

use aya_ebpf::{helpers::generated::bpf_ktime_get_boot_ns, programs::TcContext};
use skep_ebpf_common::{
    TCP,
    conntrack::{is_closing, learned, timeout},
    packet::tcp_flags,
    policy::{FOR_THIS_NODE, PolicyFlow, Verdict, direction},
};

use crate::{
    maps::{FLOWS, Scratch},
    parse,
    rules::{self, Answer},
    skb, tell,
};

/// A flow's time is written once in so many nanoseconds.
const CARE: u64 = 1_000_000_000;

/// May the packet pass?
#[inline(always)]
pub(crate) fn passes(ctx: &TcContext, scratch: &mut Scratch) -> bool {
    let passes = if is_opening(scratch) {
        opens(ctx, scratch)
    } else {
        match answers(scratch) {
            Some(verdict) => verdict,
            None => opens(ctx, scratch),
        }
    };
    if passes {
        parse::remember(&scratch.packet);
    }
    passes
}

/// The first segment of a TCP connection is nobody's answer.
#[inline(always)]
fn is_opening(scratch: &Scratch) -> bool {
    let packet = &scratch.packet;
    packet.tuple.protocol == TCP && packet.flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN
}

/// Is it an answer in a flow that the peer or the pod opened? `None`: of none that is known, or of one that is not
/// allowed any more but may be taken for a new one the other way.
#[inline(always)]
fn answers(scratch: &mut Scratch) -> Option<bool> {
    scratch.key = scratch.packet.tuple.reversed();
    let entry = find(scratch)?;
    // Who answers is the other side of the flow.
    let way = opposite(scratch.side);
    let stamp = stamp(scratch, way);
    if stamp == 0 {
        return None;
    }
    if stamp != scratch.state.revision {
        if rules::allow(scratch, way, true) == Answer::No {
            return (scratch.key.protocol == TCP).then_some(false);
        }
        set_stamp(scratch, way);
        scratch.flow.state |= learned(scratch.key.protocol, scratch.packet.flags, true, scratch.flow.state);
        store(scratch);
        return Some(true);
    }
    touch(entry, scratch, true);
    Some(true)
}

/// May it open a flow, or go on in one that its sender opened?
#[inline(always)]
fn opens(ctx: &TcContext, scratch: &mut Scratch) -> bool {
    scratch.key = scratch.packet.tuple;
    let way = scratch.side;
    let known = find(scratch);
    let mut is_new = true;
    if let Some(entry) = known {
        let stamp = stamp(scratch, way);
        is_new = stamp == 0;
        let again = is_opening(scratch) && is_closing(scratch.flow.state);
        if stamp == scratch.state.revision && !again {
            touch(entry, scratch, false);
            return true;
        }
        if again {
            scratch.flow.state = 0;
        }
    } else {
        scratch.flow = PolicyFlow::default();
    }
    match rules::allow(scratch, way, false) {
        Answer::Yes => {}
        Answer::No if way == direction::INGRESS || !rules::ends_here(ctx, scratch) => return false,
        // Its answers need no flow: what comes from the node passes anyway.
        _ => {
            if way == direction::EGRESS {
                for_this_node(ctx);
            }
            return true;
        }
    }
    set_stamp(scratch, way);
    scratch.flow.state |= learned(scratch.key.protocol, scratch.packet.flags, false, scratch.flow.state);
    store(scratch);
    if is_new {
        tell::tell(scratch, Verdict::Allowed);
    }
    true
}

/// Sees to it that the packet ends here: see [`FOR_THIS_NODE`].
#[inline(always)]
fn for_this_node(ctx: &TcContext) {
    // SAFETY: the kernel hands a valid context to the program.
    unsafe { (&raw mut (*skb(ctx)).tc_index).write_volatile(FOR_THIS_NODE) };
}

/// Is it an error about a packet of a flow of the pod?
#[inline(always)]
pub(crate) fn error_of_flow(scratch: &mut Scratch) -> bool {
    let to_pod = scratch.side == direction::INGRESS;
    let (packet, quoted) = (&scratch.packet.tuple, &scratch.packet.quoted);
    // It comes to whom sent the packet, from whoever it met on its way; or from whom it was sent to.
    let fits = if to_pod { packet.destination == quoted.source } else { packet.source == quoted.destination };
    if !fits {
        return false;
    }
    scratch.key = *quoted;
    if find(scratch).is_some() && stamp(scratch, opposite(scratch.side)) != 0 {
        return true;
    }
    scratch.key = scratch.packet.quoted.reversed();
    find(scratch).is_some() && stamp(scratch, scratch.side) != 0
}

/// Reads the flow of the key; `None` if it is not known or over.
#[inline(always)]
fn find(scratch: &mut Scratch) -> Option<*mut PolicyFlow> {
    let entry = FLOWS.get_ptr_mut(&scratch.key)?;
    // SAFETY: the copy is only believed when its seal fits.
    scratch.flow = unsafe { entry.read() };
    let flow = &scratch.flow;
    if !flow.is_sealed_for(&scratch.key) {
        return None;
    }
    // Other CPUs may be ahead by a little.
    let silent = now().saturating_sub(flow.used);
    (silent <= timeout(scratch.key.protocol, flow.state)).then_some(entry)
}

/// Notes that the flow is alive, and what the segment says.
#[inline(always)]
fn touch(entry: *mut PolicyFlow, scratch: &Scratch, from_other: bool) {
    let (now, flow) = (now(), &scratch.flow);
    let learned = learned(scratch.key.protocol, scratch.packet.flags, from_other, flow.state);
    if learned != 0 || now.saturating_sub(flow.used) > CARE {
        // SAFETY: an element that changes hands meanwhile gets a time and bits of another flow: it lives a little longer or
        // shorter. What lets packets pass is covered by its seal and not written here.
        unsafe {
            (*entry).used = now;
            (*entry).state = flow.state | learned;
        }
    }
}

/// Writes the flow as a whole.
#[inline(always)]
fn store(scratch: &mut Scratch) {
    scratch.flow.used = now();
    scratch.flow = scratch.flow.sealed(&scratch.key);
    // A full map forgets the longest unused flow; there is no other failure. Without an entry, answers do not pass.
    let _ = FLOWS.insert(&scratch.key, &scratch.flow, 0);
}

#[inline(always)]
fn stamp(scratch: &Scratch, way: u8) -> u32 {
    if way == direction::EGRESS { scratch.flow.egress } else { scratch.flow.ingress }
}

#[inline(always)]
fn set_stamp(scratch: &mut Scratch, way: u8) {
    let revision = scratch.state.revision;
    if way == direction::EGRESS {
        scratch.flow.egress = revision;
    } else {
        scratch.flow.ingress = revision;
    }
}

#[inline(always)]
fn opposite(way: u8) -> u8 {
    if way == direction::EGRESS { direction::INGRESS } else { direction::EGRESS }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper takes no argument and always succeeds.
    unsafe { bpf_ktime_get_boot_ns() }
}
