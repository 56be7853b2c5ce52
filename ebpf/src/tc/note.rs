//! The option by which the node that a client asked tells the backend's node of it: putting it in, and taking it out.
//!
//! Minimum kernel: 5.8 (`bpf_skb_adjust_room` that leaves checksums alone). The option lies between the first part of the IP
//! header and what follows it, so the transport header stays where it is in memory, and with it a checksum that the device is
//! to finish.

use aya_ebpf::{
    bindings::{BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET, BPF_F_RECOMPUTE_CSUM, bpf_adj_room_mode},
    programs::TcContext,
};
use skep_ebpf_common::{
    UDP,
    dsr::{self, DESTINATION_OPTIONS, HEAD4, HEAD6, LENGTH4, LENGTH6},
    packet::{ETHERNET, fold},
};

use super::{parse::Packet, skb};

type Result<T = (), E = i64> = core::result::Result<T, E>;

/// Keeps the sum that a device made over the whole packet (`CHECKSUM_COMPLETE`) right.
const SUM: u64 = BPF_F_RECOMPUTE_CSUM as u64;
/// Of a packet that is several in one, each gets the option.
const ROOM: u64 = (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET) as u64;

/// Length, from the IP header on, of the packet or of the longest of those that it will be cut into.
#[inline(always)]
pub(super) fn longest(ctx: &TcContext, packet: &Packet) -> u32 {
    // SAFETY: the kernel hands a valid context to the program.
    let segment = unsafe { (&raw const (*skb(ctx)).gso_size).read_volatile() };
    if segment != 0 && packet.tuple.protocol == UDP {
        return packet.l4 - ETHERNET + 8 + segment;
    }
    packet.end - ETHERNET
}

/// Puts in which frontend the client asked: the packet's destination as it came. It has no other options.
#[inline(always)]
pub(super) fn put(ctx: &TcContext, packet: &Packet) -> Result {
    let (front, port) = (&packet.tuple.destination, packet.tuple.destination_port);
    let added = dsr::length(packet.ip6);
    ctx.adjust_room(added as i32, bpf_adj_room_mode::BPF_ADJ_ROOM_NET, ROOM)?;
    if packet.ip6 {
        let [a, b, c] = HEAD6;
        let words = [
            u32::from_ne_bytes([packet.tuple.protocol, a, b, c]),
            front[0],
            front[1],
            front[2],
            front[3],
            u32::from(port),
        ];
        ctx.store((ETHERNET + 40) as usize, &words, SUM)?;
        return header6(ctx, packet, added as i32, DESTINATION_OPTIONS);
    }
    let [a, b] = HEAD4;
    let words = [u32::from(u16::from_ne_bytes([a, b])) | (u32::from(port) << 16), front[3]];
    ctx.store((ETHERNET + 20) as usize, &words, SUM)?;
    header4(ctx, packet, &words, LENGTH4 as i32)
}

/// Takes the option out; `packet` says where everything lies afterwards.
#[inline(always)]
pub(super) fn take(ctx: &TcContext, packet: &mut Packet) -> Result {
    let length = dsr::length(packet.ip6);
    if packet.ip6 {
        let next = ctx.load::<u8>((ETHERNET + 40) as usize)?;
        ctx.adjust_room(-(LENGTH6 as i32), bpf_adj_room_mode::BPF_ADJ_ROOM_NET, ROOM)?;
        header6(ctx, packet, -(LENGTH6 as i32), next)?;
    } else {
        let words = ctx.load::<[u32; 2]>((ETHERNET + 20) as usize)?;
        ctx.adjust_room(-(LENGTH4 as i32), bpf_adj_room_mode::BPF_ADJ_ROOM_NET, ROOM)?;
        header4(ctx, packet, &words, -(LENGTH4 as i32))?;
    }
    packet.end -= length;
    packet.l4 -= length;
    packet.noted = false;
    Ok(())
}

/// Corrects length and checksum of an IPv4 header that got or lost these words.
#[inline(always)]
fn header4(ctx: &TcContext, packet: &Packet, words: &[u32; 2], added: i32) -> Result {
    let at = ETHERNET as usize;
    let [first, length] = ctx.load::<[u16; 2]>(at)?;
    let check = ctx.load::<u16>(at + 10)?;
    let [version, tos] = first.to_ne_bytes();
    let (new_first, new_length) = (
        u16::from_ne_bytes([(i32::from(version) + added / 4) as u8, tos]),
        ((packet.end - ETHERNET) as i32 + added) as u16,
    );
    let new_length = new_length.to_be();
    // RFC 1624: what goes is added inverted.
    let mut sum = u64::from(!check) + u64::from(!first) + u64::from(!length);
    sum += u64::from(new_first) + u64::from(new_length);
    for word in words {
        sum += u64::from(if added > 0 { *word } else { !*word });
    }
    ctx.store(at, &[new_first, new_length], SUM)?;
    ctx.store(at + 10, &!fold(sum), SUM)
}

/// Corrects length and next header of an IPv6 header.
#[inline(always)]
fn header6(ctx: &TcContext, packet: &Packet, added: i32, next: u8) -> Result {
    let at = ETHERNET as usize;
    let length = ((packet.end - ETHERNET - 40) as i32 + added) as u16;
    ctx.store(at + 4, &length.to_be(), SUM)?;
    ctx.store(at + 6, &next, SUM)
}
