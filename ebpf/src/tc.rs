//! Programs that see packets: what comes from outside to node ports, load balancer addresses and external addresses, and
//! what pods send past their sockets.
//!
//! Minimum kernel: 5.10 (`bpf_redirect_neigh`); attached as TCX from 6.6, through clsact before.
//!
//! ```text
//! client --> from_device: FLOWS, or lookup + REPLIES (claim) + FLOWS --DNAT [SNAT]--> backend here or on another node
//! client <-- from_pod (backend here) or from_device (backend elsewhere): REPLIES <--- backend
//!            to_device (backend is a process of this node itself)
//! ```
//!
//! Packets are read and changed through helpers that check every offset; one that is cut short or malformed, and one that
//! is nobody's, goes on to the stack untouched.

mod away;
mod claim;
mod direct;
mod dsr;
mod icmp;
pub(crate) mod maps;
mod note;
mod parse;
mod refuse;
mod rewrite;
pub(crate) mod send;
mod sockets;
pub(crate) mod track;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT},
    macros::classifier,
    programs::TcContext,
};
use skep_ebpf_common::{
    packet::{Drop, Path},
    policy::FOR_THIS_NODE,
};

use self::{maps::Scratch, parse::Kind};
use crate::lookup::Origin;

/// Go on to the next program, then to the stack (`TCX_NEXT`, `TC_ACT_UNSPEC`).
const NEXT: i32 = -1;
/// `PACKET_HOST`: sent to this very device (or by this node).
const TO_US: u32 = 0;

/// Ingress of the node's own devices.
#[classifier]
fn from_device(ctx: TcContext) -> i32 {
    ingress(&ctx, Origin::External)
}

/// Ingress of the host's ends of pods' devices.
#[classifier]
fn from_pod(ctx: TcContext) -> i32 {
    ingress(&ctx, Origin::Internal)
}

/// Egress of the node's own devices: answers of backends that are processes of the node itself, and what processes send from
/// a port that a flow has.
#[classifier]
fn to_device(ctx: TcContext) -> i32 {
    let Some(scratch) = scratch() else { return NEXT };
    if !track::is_needed() || parse::parse(&ctx, &mut scratch.packet) != Kind::Flow {
        return NEXT;
    }
    if let Some(action) = track::reply(&ctx, scratch, None) {
        return action;
    }
    if is_own(&ctx) {
        claim::give_way(&ctx, scratch, false);
    }
    NEXT
}

/// Was the packet made on this node? It came by no device then.
#[inline(always)]
fn is_own(ctx: &TcContext) -> bool {
    // SAFETY: the kernel hands a valid context to the program.
    unsafe { (&raw const (*skb(ctx)).ingress_ifindex).read_volatile() == 0 }
}

#[inline(always)]
fn ingress(ctx: &TcContext, origin: Origin) -> i32 {
    // SAFETY: the kernel hands a valid context to the program.
    if unsafe { (&raw const (*skb(ctx)).pkt_type).read_volatile() } != TO_US {
        return NEXT;
    }
    match translate(ctx, origin) {
        NEXT => direct::send(ctx, origin),
        action => action,
    }
}

/// Translates a packet to or from a Service; `NEXT` if it is none.
#[inline(always)]
fn translate(ctx: &TcContext, origin: Origin) -> i32 {
    // Most packets go from pod to pod. Before the first flow they cost this and no more.
    let tracked = track::is_needed();
    let external = origin == Origin::External;
    if !tracked
        && !parse::destination(ctx).is_some_and(|address| track::may_begin(&address, origin))
        && !(external && parse::may_be_noted(ctx))
    {
        return NEXT;
    }
    let Some(scratch) = scratch() else { return NEXT };
    match parse::parse(ctx, &mut scratch.packet) {
        Kind::Other => NEXT,
        Kind::Error => icmp::translate(ctx, scratch, origin == Origin::Internal),
        Kind::Flow => {
            let noted = external && scratch.packet.noted;
            if noted {
                let action = dsr::accept(ctx, scratch);
                if action != dsr::TAKEN {
                    return action;
                }
            } else if tracked && let Some(action) = track::reply(ctx, scratch, Some(origin)) {
                return action;
            }
            if origin == Origin::Internal && is_for_this_node(ctx) {
                return NEXT;
            }
            track::forward(ctx, scratch, origin, tracked || noted)
        }
    }
}

/// Did NetworkPolicy let it pass only because it ends at this node?
#[inline(always)]
fn is_for_this_node(ctx: &TcContext) -> bool {
    // SAFETY: the kernel hands a valid context to the program.
    unsafe { (&raw const (*skb(ctx)).tc_index).read_volatile() == FOR_THIS_NODE }
}

#[inline(always)]
fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: the value is this CPU's alone, called for once in a program, and zeroed before its first use.
    maps::PACKET_SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
}

#[inline(always)]
fn skb(ctx: &TcContext) -> *mut __sk_buff {
    ctx.skb.skb
}

/// Counts a packet that ends here, and says so to the kernel.
#[inline(always)]
fn dropped(reason: Drop) -> i32 {
    count(reason);
    TC_ACT_SHOT
}

#[inline(always)]
fn count(reason: Drop) {
    if let Some(counter) = maps::PACKET_DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: a per-CPU value is this CPU's alone; at worst a count is lost to a program that interrupts this one.
        unsafe { *counter += 1 };
    }
}

/// Counts a packet that is forwarded.
#[inline(always)]
pub(crate) fn count_path(path: Path) {
    if let Some(counter) = maps::PACKET_PATHS.get_ptr_mut(path as u32) {
        // SAFETY: see `count`.
        unsafe { *counter += 1 };
    }
}
