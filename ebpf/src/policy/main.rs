//! NetworkPolicy in the kernel: every packet of a pod passes the host's end of its device, and is judged there.
//!
//! ```text
//! pod ──► policy_from_pod (ingress of the host's end, before any program that translates or redirects) ──► node
//! pod ◄── policy_to_pod   (egress of the host's end; packets that are redirected to the device pass it, too) ◄── node
//! ```
//!
//! Minimum kernel: 5.10; attached as TCX from 6.6, through clsact before. An object of its own: where no NetworkPolicy
//! exists, neither its maps nor its programs do. `bpf_redirect_peer` goes past `policy_to_pod`: it is used towards
//! pods only that no policy selects (`ebpf/src/tc/direct.rs`; the enforcer's `Bypass` sees to it).
//!
//! What policies say holds for connections: whoever may open one gets its answers. So a packet passes if it belongs to a
//! known flow that the rules in force still allow, or if it opens one that they allow. A TCP segment in the middle of a
//! connection that nobody noted (it is older than the isolation) is judged as if it opened one.
#![no_std]
#![no_main]

mod maps;
mod parse;
mod rules;
mod tell;
mod track;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT},
    macros::classifier,
    programs::TcContext,
};
use skep_ebpf_common::policy::{DeviceKey, DeviceValue, PolicyState, Verdict, device_flags, direction, state_flags};

use self::{
    maps::{DEVICES, SCRATCH, STATE, Scratch},
    parse::Kind,
};

/// Nothing here can panic: the verifier would refuse the loop.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Ring buffers are open to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Go on to the next program, then to the stack (`TCX_NEXT`, `TC_ACT_UNSPEC`).
const NEXT: i32 = -1;

/// Ingress of the host's end: what the pod sends.
#[classifier]
fn policy_from_pod(ctx: TcContext) -> i32 {
    judge(&ctx, direction::EGRESS)
}

/// Egress of the host's end: what is sent to the pod.
#[classifier]
fn policy_to_pod(ctx: TcContext) -> i32 {
    // What no device received comes from this node itself. It and its pods always reach each other.
    // SAFETY: the kernel hands a valid context to the program.
    if unsafe { (&raw const (*skb(&ctx)).ingress_ifindex).read_volatile() } == 0 {
        return NEXT;
    }
    judge(&ctx, direction::INGRESS)
}

#[inline(always)]
fn judge(ctx: &TcContext, side: u8) -> i32 {
    let Some(state) = state() else { return NEXT };
    if state.flags & state_flags::ON == 0 {
        return NEXT;
    }
    // SAFETY: the value is this CPU's alone: programs run with bottom halves off, and none interrupts another.
    let Some(scratch) = SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch }) else { return NEXT };
    scratch.state = state;
    scratch.side = side;
    scratch.identity = 0;
    // SAFETY: the kernel hands a valid context to the program.
    scratch.index = unsafe { (&raw const (*skb(ctx)).ifindex).read_volatile() };
    let known = device(scratch);
    if !known && state.flags & state_flags::UNKNOWN_CLOSED == 0 {
        return NEXT;
    }
    let isolated = scratch.device.flags & (device_flags::INGRESS | device_flags::EGRESS) != 0;
    if !isolated && side == direction::INGRESS {
        return NEXT;
    }
    let kind = parse::parse(ctx, &mut scratch.packet);
    if kind == Kind::NotIp {
        return NEXT;
    }
    if kind == Kind::NoAddresses {
        return if isolated { dropped(scratch, Verdict::Malformed) } else { NEXT };
    }
    if known && side == direction::EGRESS && !is_own(scratch) {
        return dropped(scratch, Verdict::Spoofed);
    }
    if kind == Kind::Plain && side == direction::EGRESS && rules::is_for_tunnel(ctx, scratch) {
        return dropped(scratch, Verdict::Tunnel);
    }
    if !isolated {
        return NEXT;
    }
    match kind {
        Kind::Neighbours => NEXT,
        Kind::Malformed => dropped(scratch, Verdict::Malformed),
        Kind::LostFragment => dropped(scratch, Verdict::Fragment),
        Kind::Error if track::error_of_flow(scratch) => NEXT,
        _ => match track::passes(ctx, scratch) {
            true => NEXT,
            false => dropped(scratch, Verdict::Denied),
        },
    }
}

/// Read in the order opposite to that in which it is written: an old generation never goes with a new revision.
#[inline(always)]
fn state() -> Option<PolicyState> {
    let state = STATE.get_ptr(0)?;
    // SAFETY: the entries of an array are always there; each word is read whole.
    unsafe {
        let revision = (&raw const (*state).revision).read_volatile();
        let flags = (&raw const (*state).flags).read_volatile();
        let generation = (&raw const (*state).generation).read_volatile();
        let tunnel = (&raw const (*state).tunnel).read_volatile();
        Some(PolicyState { generation, revision, flags, tunnel })
    }
}

/// Fills in what is known of the packet's device: false if it is nothing, and then isolation is what there is.
#[inline(always)]
fn device(scratch: &mut Scratch) -> bool {
    let key = DeviceKey { generation: scratch.state.generation, index: scratch.index };
    // Twice: the first answer may be another entry's memory.
    for _ in 0..2 {
        // SAFETY: the copy is only believed when its seal fits.
        let Some(value) = (unsafe { DEVICES.get(&key) }) else { break };
        scratch.device = *value;
        if scratch.device.is_sealed_for(&key) {
            return true;
        }
    }
    scratch.device = DeviceValue { flags: device_flags::INGRESS | device_flags::EGRESS, ..DeviceValue::default() };
    false
}

/// Does the packet come from an address of the pod? Link-local and unspecified sources (neighbour discovery) do: they lead
/// no further than this node.
#[inline(always)]
fn is_own(scratch: &Scratch) -> bool {
    let source = &scratch.packet.tuple.source;
    let own = &scratch.device.addresses;
    if *source == own[0] || *source == own[1] {
        return true;
    }
    if scratch.packet.ip6 {
        *source == [0; 4] || (source[0] == u32::from_be(0xfe80_0000) && source[1] == 0)
    } else {
        source[3] == 0
    }
}

#[inline(always)]
fn skb(ctx: &TcContext) -> *mut __sk_buff {
    ctx.skb.skb
}

/// Counts and tells a packet that ends here, and says so to the kernel.
#[inline(always)]
fn dropped(scratch: &Scratch, verdict: Verdict) -> i32 {
    tell::tell(scratch, verdict);
    TC_ACT_SHOT
}
