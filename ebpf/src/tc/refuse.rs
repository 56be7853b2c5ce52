//! Answers to packets that go no further, made from the packet in place and sent back where it came from: for frontends that
//! nobody serves a TCP reset or ICMP "port unreachable"; for packets that do not fit the device they should leave by
//! "fragmentation needed" or "packet too big", whether they may be cut or not (their sender can cut them, too); for those at
//! the end of their life "time exceeded".
//!
//! A packet from a neighbour on the same machine may still wait for its checksum (`CHECKSUM_PARTIAL`): whoever sends it out
//! sums it up from the transport header on and stores the result where that protocol keeps it. The answer's transport
//! header lies at the same place. For TCP the field then holds the sum of the pseudo header, as always in such packets. For
//! UDP it falls on the second half of the ICMP error's unused word, which receivers ignore: with the error's own field zero
//! and the pseudo header's sum in that word, the whole adds up all the same.
//!
//! Packets with IP options or extension headers, fragments and resets get no answer; nor do packets that wait for their
//! checksum, where an error says more than its kind or is about TCP or SCTP.

use core::ptr;

use aya_ebpf::{
    bindings::TC_ACT_SHOT,
    helpers::generated::{bpf_csum_diff, bpf_redirect, bpf_skb_change_tail},
    programs::TcContext,
};
use skep_ebpf_common::{
    TCP, UDP, is_mapped,
    packet::{Drop, ETHERNET, ICMP, ICMP6, fold, tcp_flags},
};

use super::{
    count, dropped,
    maps::Scratch,
    parse::{Packet, Piece},
    rewrite, skb,
};

type Result<T = (), E = i64> = core::result::Result<T, E>;

/// Hops the answer may take.
const TTL: u8 = 64;

/// Answers a packet. A function of its own: it is rare, and has a stack of its own.
#[inline(never)]
pub(super) fn refuse(ctx: &TcContext, scratch: &mut Scratch) -> i32 {
    let Scratch { packet, head, quote, .. } = scratch;
    if !has_answer(packet) {
        return dropped(Drop::RefusedSilently);
    }
    let kind = if packet.ip6 { [1, 4] } else { [3, 3] };
    let done =
        if packet.tuple.protocol == TCP { reset(ctx, packet, head) } else { error(ctx, packet, head, quote, kind, 0) };
    if done.is_err() {
        return dropped(Drop::Rewrite);
    }
    count(Drop::Refused);
    back(ctx)
}

/// Counts a packet that goes no further for that reason, and tells its sender where that helps. The packet must be as it
/// came. A function of its own, as [`refuse`].
#[inline(never)]
pub(super) fn tell(ctx: &TcContext, scratch: &mut Scratch, reason: Drop) -> i32 {
    let Scratch { packet, head, quote, route, .. } = scratch;
    count(reason);
    // SAFETY: plain numbers, in any variant. The kernel writes the MTU there from 5.12 on; before, it stays zero.
    let mtu = u32::from(unsafe { route.fib.__bindgen_anon_1.mtu_result });
    let (kind, word) = match (reason, packet.ip6) {
        (Drop::TooBig, true) if mtu != 0 => ([2, 0], mtu),
        (Drop::TooBig, false) if mtu != 0 => ([3, 4], mtu),
        (Drop::TimeToLive, true) => ([3, 0], 0),
        (Drop::TimeToLive, false) => ([11, 0], 0),
        _ => return TC_ACT_SHOT,
    };
    if !has_answer(packet) || error(ctx, packet, head, quote, kind, word.to_be()).is_err() {
        return TC_ACT_SHOT;
    }
    back(ctx)
}

/// Is it a packet that answers are made for?
#[inline(always)]
fn has_answer(packet: &Packet) -> bool {
    let header = if packet.ip6 { 40 } else { 20 };
    packet.piece == Piece::Whole && packet.l4 == ETHERNET + header && packet.flags & tcp_flags::RST == 0
}

/// Sends an answer out of the device its packet came by.
#[inline(always)]
fn back(ctx: &TcContext) -> i32 {
    // SAFETY: plain numbers.
    unsafe { bpf_redirect((&raw const (*skb(ctx)).ifindex).read_volatile(), 0) as i32 }
}

#[inline(always)]
fn reset(ctx: &TcContext, packet: &Packet, segment: &mut [u32; 5]) -> Result {
    let at = packet.l4 as usize;
    let partial = rewrite::is_partial(ctx, packet)?;
    let header = ctx.load::<[u32; 5]>(at)?;
    let data_offset = ((u32::from_be(header[3]) >> 28) & 15) * 4;
    let flags = packet.flags;
    let (sequence, acknowledged, answer) = if flags & tcp_flags::ACK != 0 {
        (header[2], 0, tcp_flags::RST)
    } else {
        let length = packet.end - packet.l4 - data_offset
            + u32::from(flags & tcp_flags::SYN != 0)
            + u32::from(flags & tcp_flags::FIN != 0);
        let next = u32::from_be(header[1]).wrapping_add(length);
        (0, next.to_be(), tcp_flags::RST | tcp_flags::ACK)
    };
    *segment =
        [header[0].rotate_left(16), sequence, acknowledged, (0x5000_0000_u32 | (u32::from(answer) << 16)).to_be(), 0];
    let pseudo = pseudo(packet, packet.tuple.protocol, 20);
    let check = if partial { fold(pseudo) } else { !fold(pseudo + sum(segment)?) };
    segment[4] = u32::from(check);
    tail(ctx, packet.l4 + 20)?;
    ctx.store(at, segment, 0)?;
    turn(ctx, packet, packet.tuple.protocol, 20)
}

/// An ICMP error of that type and code, with that second word.
#[inline(always)]
fn error(
    ctx: &TcContext,
    packet: &Packet,
    head: &mut [u32; 5],
    quote: &mut [u32; 12],
    [kind, code]: [u8; 2],
    word: u32,
) -> Result {
    // The IP header and eight bytes, of UDP the whole header, are quoted; the rest of the words stays zero.
    *quote = [0; 12];
    let (protocol, length) = if packet.ip6 {
        *quote = ctx.load(ETHERNET as usize)?;
        (ICMP6, 56)
    } else {
        let words = ctx.load::<[u32; 7]>(ETHERNET as usize)?;
        quote[..7].copy_from_slice(&words);
        (ICMP, 36)
    };
    // Not before: it changes the checksum in the packet.
    let partial = rewrite::is_partial(ctx, packet)?;
    let pseudo = if packet.ip6 { pseudo(packet, protocol, length) } else { 0 };
    *head = [u32::from_ne_bytes([kind, code, 0, 0]), word, 0, 0, 0];
    if !partial {
        head[0] |= u32::from_ne_bytes(high(!fold(pseudo + sum(head)? + sum(quote)?)));
    } else if word == 0 && packet.tuple.protocol == UDP {
        head[1] = u32::from_ne_bytes(high(fold(pseudo)));
    } else {
        return Err(-1);
    }
    tail(ctx, packet.l4 + u32::from(length))?;
    ctx.store(packet.l4 as usize, &[head[0], head[1]], 0)?;
    if packet.ip6 {
        ctx.store((packet.l4 + 8) as usize, quote, 0)?;
    } else {
        ctx.store(
            (packet.l4 + 8) as usize,
            &[quote[0], quote[1], quote[2], quote[3], quote[4], quote[5], quote[6]],
            0,
        )?;
    }
    turn(ctx, packet, protocol, length)
}

/// A 16-bit field in the second half of a word.
#[inline(always)]
fn high(field: u16) -> [u8; 4] {
    let [a, b] = field.to_ne_bytes();
    [0, 0, a, b]
}

/// Swaps the addresses at both layers and writes the IP header anew.
#[inline(always)]
fn turn(ctx: &TcContext, packet: &Packet, protocol: u8, length: u16) -> Result {
    let mac = ctx.load::<[u16; 6]>(0)?;
    ctx.store(0, &[mac[3], mac[4], mac[5], mac[0], mac[1], mac[2]], 0)?;
    let tuple = &packet.tuple;
    let at = ETHERNET as usize;
    if packet.ip6 {
        let [a, b] = length.to_be_bytes();
        let head = [0x60_00_00_00_u32.to_be(), u32::from_ne_bytes([a, b, protocol, TTL])];
        ctx.store(at, &head, 0)?;
        ctx.store(at + 8, &tuple.destination, 0)?;
        return ctx.store(at + 24, &tuple.source, 0);
    }
    let [a, b] = (length + 20).to_be_bytes();
    let mut head = [
        u32::from_ne_bytes([0x45, 0, a, b]),
        // No identification; not to be fragmented.
        u32::from_ne_bytes([0, 0, 0x40, 0]),
        u32::from_ne_bytes([TTL, protocol, 0, 0]),
        tuple.destination[3],
        tuple.source[3],
    ];
    let check = !fold(sum(&head)?);
    head[2] |= u32::from_ne_bytes(high(check));
    ctx.store(at, &head, 0)
}

/// Sum of the pseudo header of an answer.
#[inline(always)]
fn pseudo(packet: &Packet, protocol: u8, length: u16) -> u64 {
    let tuple = &packet.tuple;
    let mut sum = u64::from(length.to_be()) + u64::from(u16::from(protocol).to_be());
    // The prefix of a mapped address is no part of an IPv4 header.
    let first = if is_mapped(&tuple.source) && !packet.ip6 { 3 } else { 0 };
    for i in 0..4 {
        if i >= first {
            sum += u64::from(tuple.source[i]) + u64::from(tuple.destination[i]);
        }
    }
    sum
}

/// One's complement sum of words.
#[inline(always)]
fn sum<const N: usize>(words: &[u32; N]) -> Result<u64> {
    // SAFETY: the words lie on the stack; nothing is taken off.
    let sum = unsafe { bpf_csum_diff(ptr::null_mut(), 0, ptr::from_ref(words).cast_mut().cast(), (N * 4) as u32, 0) };
    if sum < 0 { Err(sum) } else { Ok(sum as u64 & 0xffff_ffff) }
}

/// Cuts the packet, or makes it longer.
#[inline(always)]
fn tail(ctx: &TcContext, length: u32) -> Result {
    // SAFETY: plain numbers.
    match unsafe { bpf_skb_change_tail(skb(ctx), length, 0) } {
        0 => Ok(()),
        error => Err(error),
    }
}
