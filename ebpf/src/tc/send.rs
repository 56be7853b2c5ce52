//! Where a translated packet leaves by.

use core::mem::size_of;

use aya_ebpf::{
    bindings::{bpf_fib_lookup as Fib, bpf_redir_neigh as Neighbour},
    helpers::generated::{bpf_fib_lookup, bpf_redirect_neigh},
    programs::TcContext,
};
use skep_ebpf_common::{
    Address, dsr,
    packet::{Drop, Path},
};

use super::{
    NEXT, count_path, direct, dropped,
    maps::{Route, Scratch},
    note,
    parse::Packet,
    rewrite, skb,
};
use crate::flows::Target;

pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;

pub(super) const SUCCESS: i64 = 0;
/// Not a destination to forward to: this node's own, or none at all. The stack knows what to do.
const NOT_FORWARDED: i64 = 4;
pub(super) const NO_NEIGHBOUR: i64 = 7;
const TOO_BIG: i64 = 8;

/// The way to an address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Out of the device, to the neighbour that the route names.
    Out,
    /// Up the stack of this node.
    Up,
    /// Into a pod of this node, past the queue of its device.
    Pod,
}

/// Finds the way; to be asked before the packet is changed.
#[inline(always)]
pub(super) fn way(
    ctx: &TcContext,
    route: &mut Route,
    packet: &Packet,
    protocol: u8,
    source: &Address,
    destination: &Address,
) -> Result<Way, Drop> {
    way_of(ctx, route, packet, protocol, source, destination, 0)
}

/// The same for a packet of another length (from the IP header on); zero for the one it has.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "inlined; a struct would lie on the small stack")]
fn way_of(
    ctx: &TcContext,
    route: &mut Route,
    packet: &Packet,
    protocol: u8,
    source: &Address,
    destination: &Address,
    length: u16,
) -> Result<Way, Drop> {
    let fib = &mut route.fib;
    fib.l4_protocol = protocol;
    // Ports are left out: routing rules that ask for ports would see different ones of a fragment.
    fib.sport = 0;
    fib.dport = 0;
    // With a total length of zero the kernel looks at the packet itself.
    fib.__bindgen_anon_1.tot_len = length;
    fib.__bindgen_anon_2.flowinfo = 0;
    // SAFETY: the kernel hands a valid context to the program.
    fib.ifindex = unsafe { (&raw const (*skb(ctx)).ifindex).read_volatile() };
    if packet.ip6 {
        fib.family = AF_INET6;
        fib.__bindgen_anon_3.ipv6_src = *source;
        fib.__bindgen_anon_4.ipv6_dst = *destination;
    } else {
        fib.family = AF_INET;
        fib.__bindgen_anon_3.ipv4_src = source[3];
        fib.__bindgen_anon_4.ipv4_dst = destination[3];
    }
    // SAFETY: the structure is the kernel's own.
    match unsafe { bpf_fib_lookup(skb(ctx).cast(), fib, size_of::<Fib>() as i32, 0) } {
        SUCCESS | NO_NEIGHBOUR => {
            route.neighbour.nh_family = fib.family.into();
            // SAFETY: a map's value is initialised; for IPv4 the kernel reads the first four bytes.
            route.neighbour.__bindgen_anon_1.ipv6_nh = unsafe { fib.__bindgen_anon_4.ipv6_dst };
            Ok(Way::Out)
        }
        NOT_FORWARDED => Ok(Way::Up),
        TOO_BIG => Err(Drop::TooBig),
        _ => Err(Drop::NoRoute),
    }
}

/// Is that the sender's own address: does the way to it begin at the device the packet came by? What is redirected meets no
/// reverse path filter, so a pod could speak as another one.
#[inline(always)]
pub(super) fn is_senders(ctx: &TcContext, route: &mut Route, packet: &Packet, source: &Address) -> bool {
    // SAFETY: the kernel hands a valid context to the program.
    let device = unsafe { (&raw const (*skb(ctx)).ifindex).read_volatile() };
    direct::is_behind(source, device)
        || (way(ctx, route, packet, packet.tuple.protocol, source, source) == Ok(Way::Out)
            && route.fib.ifindex == device)
}

/// Sends a packet that has been changed on its way.
#[inline(always)]
pub(super) fn go(ctx: &TcContext, route: &mut Route, packet: &Packet, way: Way) -> i32 {
    if way == Way::Up {
        return NEXT;
    }
    if rewrite::age(ctx, packet).is_err() {
        return dropped(Drop::Rewrite);
    }
    if way == Way::Pod {
        return direct::hand_over(ctx, route);
    }
    // SAFETY: the structure is the kernel's own.
    unsafe { bpf_redirect_neigh(route.fib.ifindex, &raw mut route.neighbour, size_of::<Neighbour>() as i32, 0) as i32 }
}

/// What [`noted`] says of a packet that does not fit the device with the option, or is at the end of its life; it is as it came.
pub(super) const TOO_BIG_NOTED: i32 = -2;
pub(super) const TOO_OLD_NOTED: i32 = -3;

/// Translates a client's packet, tells the backend's node of the address it asked, and sends it there; otherwise as [`flow`].
/// A function of its own: it has a stack of its own.
#[inline(never)]
pub(super) fn noted(ctx: &TcContext, scratch: &mut Scratch) -> i32 {
    let Scratch { packet, flow, route, .. } = scratch;
    let key = &packet.tuple;
    let extra = dsr::length(packet.ip6);
    let length = note::longest(ctx, packet) + extra;
    let way = if length > u32::from(u16::MAX) {
        Err(Drop::TooBig)
    } else {
        way_of(ctx, route, packet, key.protocol, &key.source, &flow.to, length as u16)
    };
    let way = match way {
        Ok(_) if packet.ttl <= 1 => return TOO_OLD_NOTED,
        Ok(way) => way,
        Err(Drop::TooBig) => {
            let fib = &mut route.fib;
            // SAFETY: plain numbers, in any variant. So much of the client's own fits.
            let mtu = u32::from(unsafe { fib.__bindgen_anon_1.mtu_result });
            fib.__bindgen_anon_1.mtu_result = mtu.saturating_sub(extra) as u16;
            return TOO_BIG_NOTED;
        }
        Err(reason) => return dropped(reason),
    };
    let target = Target::of_flow(flow, key);
    if rewrite::flow(ctx, packet, &target).is_err() || note::put(ctx, packet).is_err() {
        return dropped(Drop::Rewrite);
    }
    go(ctx, route, packet, way)
}

/// Translates a TCP or UDP packet and sends it on its way. An error is why it cannot go on; it is as it came then.
#[inline(always)]
pub(super) fn flow(ctx: &TcContext, route: &mut Route, packet: &Packet, target: &Target<'_>) -> Result<i32, Drop> {
    let way = if direct::is_open(ctx, route, packet, target.destination) {
        Way::Pod
    } else {
        way(ctx, route, packet, packet.tuple.protocol, target.source, target.destination)?
    };
    if way != Way::Up && packet.ttl <= 1 {
        return Err(Drop::TimeToLive);
    }
    if rewrite::flow(ctx, packet, target).is_err() {
        return Ok(dropped(Drop::Rewrite));
    }
    if way != Way::Up {
        count_path(Path::Tc);
    }
    Ok(go(ctx, route, packet, way))
}
