//! Changing addresses and ports, with every checksum kept as right (or as wrong) as it was.
//!
//! A UDP checksum of zero (none) stays zero. SCTP's covers ports but no addresses; one that is still to be made by whoever
//! sends the packet out is made anew there, whatever is in the field. An error means the kernel could not make the packet writable; it may be half
//! changed then and must be dropped.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM},
    helpers::generated::bpf_csum_diff,
    programs::TcContext,
};
use skep_ebpf_common::{Address, SCTP, TCP, UDP, conntrack::FragmentPorts, packet::ETHERNET, sctp};

use super::{
    maps::FRAGMENTS,
    parse::{Packet, Piece},
};
use crate::flows::Target;

/// `BPF_F_IPV6` (6.16): the checksum covers addresses that no header checksum balances. Older kernels refuse it.
const IP6: u64 = 128;

type Result<T = (), E = i64> = core::result::Result<T, E>;

/// Gives a TCP, UDP or SCTP packet its new addresses and ports, and remembers the ports of a first fragment.
#[inline(always)]
pub(super) fn flow(ctx: &TcContext, packet: &Packet, target: &Target<'_>) -> Result {
    let tuple = &packet.tuple;
    if packet.piece == Piece::First {
        let ports = FragmentPorts { source: tuple.source_port, destination: tuple.destination_port };
        // Should it fail, the other pieces go to the stack, which has no use for them.
        let _ = FRAGMENTS.insert(&packet.fragment, &ports, 0);
    }
    let has_ports = packet.piece != Piece::Later;
    let (check, mangled) = match (has_ports, tuple.protocol) {
        (false, _) | (true, SCTP) => (0, 0),
        (true, TCP) => (packet.l4 + 16, 0),
        (true, _) => (packet.l4 + 6, u64::from(BPF_F_MARK_MANGLED_0)),
    };
    let flags = mangled | u64::from(BPF_F_PSEUDO_HDR);
    source(ctx, packet.ip6, ETHERNET, &tuple.source, target.source, check, flags)?;
    destination(ctx, packet.ip6, ETHERNET, &tuple.destination, target.destination, check, flags)?;
    if has_ports && tuple.protocol == SCTP {
        return sctp_ports(ctx, packet, target);
    }
    if has_ports {
        port(ctx, packet.l4, tuple.source_port, target.source_port, check, mangled)?;
        port(ctx, packet.l4 + 2, tuple.destination_port, target.destination_port, check, mangled)?;
    }
    Ok(())
}

/// Changes the ports of an SCTP packet. One in pieces keeps its ports or cannot go on: how long it is, is not known yet.
#[inline(always)]
fn sctp_ports(ctx: &TcContext, packet: &Packet, target: &Target<'_>) -> Result {
    let (old, new) =
        ([packet.tuple.source_port, packet.tuple.destination_port], [target.source_port, target.destination_port]);
    if old == new {
        return Ok(());
    }
    if packet.piece != Piece::Whole {
        return Err(-1);
    }
    let at = (packet.l4 + sctp::CHECKSUM) as usize;
    let checksum = ctx.load::<u32>(at)?;
    let ports = [old[0] ^ new[0], old[1] ^ new[1]];
    let change = checksum_change(ports[0], ports[1], packet.end - packet.l4);
    ctx.store(at, &(checksum ^ change), 0)?;
    ctx.store(packet.l4 as usize, &new, 0)
}

/// A function of its own: it is long, and asked for at several places.
#[inline(never)]
fn checksum_change(source: u16, destination: u16, length: u32) -> u32 {
    let ([a, b], [c, d]) = (source.to_ne_bytes(), destination.to_ne_bytes());
    sctp::change(u32::from_le_bytes([a, b, c, d]), length).to_le()
}

/// Changes the source address of the IP header at `l3`. `check` is where the checksum lies that covers it besides the
/// header's own (0: none), `flags` how.
#[inline(always)]
pub(super) fn source(
    ctx: &TcContext,
    ip6: bool,
    l3: u32,
    from: &Address,
    to: &Address,
    check: u32,
    flags: u64,
) -> Result {
    address(ctx, ip6, l3, if ip6 { 8 } else { 12 }, from, to, check, flags)
}

/// Changes the destination address; see [`source`].
#[inline(always)]
pub(super) fn destination(
    ctx: &TcContext,
    ip6: bool,
    l3: u32,
    from: &Address,
    to: &Address,
    check: u32,
    flags: u64,
) -> Result {
    address(ctx, ip6, l3, if ip6 { 24 } else { 16 }, from, to, check, flags)
}

#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "inlined; a struct would lie on the small stack")]
fn address(
    ctx: &TcContext,
    ip6: bool,
    l3: u32,
    field: u32,
    from: &Address,
    to: &Address,
    check: u32,
    flags: u64,
) -> Result {
    if from == to {
        return Ok(());
    }
    if !ip6 {
        if check != 0 {
            ctx.l4_csum_replace(check as usize, from[3].into(), to[3].into(), flags | 4)?;
        }
        ctx.l3_csum_replace((l3 + 10) as usize, from[3].into(), to[3].into(), 4)?;
        return ctx.store((l3 + field) as usize, &to[3], 0);
    }
    if check != 0 {
        // SAFETY: both are 16 bytes that live on the stack or in a map.
        let change = unsafe {
            bpf_csum_diff(ptr::from_ref(from).cast_mut().cast(), 16, ptr::from_ref(to).cast_mut().cast(), 16, 0)
        };
        if change < 0 {
            return Err(change);
        }
        let change = change as u64;
        if flags & u64::from(BPF_F_PSEUDO_HDR) == 0
            || ctx.l4_csum_replace(check as usize, 0, change, flags | IP6).is_err()
        {
            ctx.l4_csum_replace(check as usize, 0, change, flags)?;
        }
    }
    ctx.store((l3 + field) as usize, to, 0)
}

/// Changes a port. `check` is where the checksum lies that covers it, `flags` how.
#[inline(always)]
pub(super) fn port(ctx: &TcContext, at: u32, from: u16, to: u16, check: u32, flags: u64) -> Result {
    if from == to {
        return Ok(());
    }
    ctx.l4_csum_replace(check as usize, from.into(), to.into(), flags | 2)?;
    ctx.store(at as usize, &to, 0)
}

/// One hop less to live; see [`super::direct::age`] about the sum of an IPv6 packet.
#[inline(always)]
pub(super) fn age(ctx: &TcContext, packet: &Packet) -> Result {
    let ttl = packet.ttl.wrapping_sub(1);
    if packet.ip6 {
        return ctx.store((ETHERNET + 7) as usize, &ttl, u64::from(BPF_F_RECOMPUTE_CSUM));
    }
    let at = (ETHERNET + 8) as usize;
    let [_, protocol] = ctx.load::<[u8; 2]>(at)?;
    let word = |ttl| u64::from(u16::from_ne_bytes([ttl, protocol]));
    ctx.l3_csum_replace((ETHERNET + 10) as usize, word(packet.ttl), word(ttl), 2)?;
    ctx.store(at, &ttl, 0)
}

/// Is the packet's transport checksum still to be completed by whoever sends it out (`CHECKSUM_PARTIAL`)? Found out by a
/// change that the kernel does not apply then. Changes the checksum otherwise.
#[inline(always)]
pub(super) fn is_partial(ctx: &TcContext, packet: &Packet) -> Result<bool> {
    let check = match packet.tuple.protocol {
        UDP => 6,
        SCTP => sctp::CHECKSUM,
        _ => 16,
    };
    let check = (packet.l4 + check) as usize;
    let before = ctx.load::<u16>(check)?;
    ctx.l4_csum_replace(check, 0, 1, 2)?;
    Ok(ctx.load::<u16>(check)? == before)
}
