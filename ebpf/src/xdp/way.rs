//! Which way a packet leaves by: the kernel's routing is asked, and its answer stands for some milliseconds.

use core::mem::size_of;

use aya_ebpf::{
    EbpfContext as _, bindings::bpf_fib_lookup as Fib, helpers::generated::bpf_fib_lookup, macros::map,
    maps::PerCpuArray, programs::XdpContext,
};
use skep_ebpf_common::Address;

use super::packet::{Hardware, Packet};
use crate::{
    flows::Target,
    tc::send::{AF_INET, AF_INET6},
};

const SUCCESS: i64 = 0;

/// How long an answer stands, nanoseconds: a packet in a hundred asks at ten thousand a second, and what becomes of a route or a
/// neighbour is seen before anybody could tell.
const STANDS: u64 = 10_000_000;

/// How many answers a CPU keeps, by destination; a power of two.
const PLACES: u32 = 256;

/// Answers. (One that lay on the stack would be zeroed byte by byte for every packet.) Not pinned: what is in it is of no worth
/// to a new program.
#[map]
static WAYS: PerCpuArray<Way> = PerCpuArray::with_max_entries(PLACES, 0);

/// An answer, and to which question.
#[repr(C)]
struct Way {
    /// When it was given.
    at: u64,
    source: Address,
    destination: Address,
    device: u32,
    protocol: u32,
    fib: Fib,
}

/// Where a packet leaves by.
#[derive(Clone, Copy)]
pub(super) struct Exit {
    /// Number of the device.
    pub(super) device: u32,
    /// Its hardware address.
    pub(super) source: Hardware,
    /// The neighbour's.
    pub(super) destination: Hardware,
}

/// The way to the target; `None` if it does not lead out, the packet is too big for it, or the neighbour is not known.
#[inline(always)]
pub(super) fn find<const IP6: bool>(ctx: &XdpContext, packet: &Packet, target: &Target<'_>, now: u64) -> Option<Exit> {
    let word = target.destination[3];
    let place = (word ^ (word >> 8) ^ (word >> 16) ^ (word >> 24)) & (PLACES - 1);
    // SAFETY: the value is this CPU's alone, asked for once in a program that no other one interrupts.
    let way = unsafe { &mut *WAYS.get_ptr_mut(place)? };
    let (device, protocol) = (ctx.ingress_ifindex() as u32, u32::from(packet.tuple.protocol));
    let is_known = now.wrapping_sub(way.at) <= STANDS
        && way.device == device
        && way.protocol == protocol
        && way.destination == *target.destination
        && way.source == *target.source
        // SAFETY: both are a number of 16 bits. (Kernels before 5.12 leave the length of the packet that was asked about.)
        && packet.length <= unsafe { way.fib.__bindgen_anon_1.mtu_result };
    if !is_known {
        way.at = 0;
        ask::<IP6>(ctx, &mut way.fib, packet, target)?;
        way.source = *target.source;
        way.destination = *target.destination;
        (way.device, way.protocol, way.at) = (device, protocol, now);
    }
    let fib = &way.fib;
    // SAFETY: six bytes, at an even place.
    let (source, destination) =
        unsafe { (fib.smac.as_ptr().cast::<Hardware>().read(), fib.dmac.as_ptr().cast::<Hardware>().read()) };
    Some(Exit { device: fib.ifindex, source, destination })
}

#[inline(always)]
fn ask<const IP6: bool>(ctx: &XdpContext, fib: &mut Fib, packet: &Packet, target: &Target<'_>) -> Option<()> {
    fib.l4_protocol = packet.tuple.protocol;
    // Ports are left out, as tc does, for which fragments have none.
    fib.sport = 0;
    fib.dport = 0;
    fib.__bindgen_anon_1.tot_len = packet.length;
    fib.ifindex = ctx.ingress_ifindex() as u32;
    fib.__bindgen_anon_2.flowinfo = 0;
    if IP6 {
        fib.family = AF_INET6;
        fib.__bindgen_anon_3.ipv6_src = *target.source;
        fib.__bindgen_anon_4.ipv6_dst = *target.destination;
    } else {
        fib.family = AF_INET;
        fib.__bindgen_anon_3.ipv4_src = target.source[3];
        fib.__bindgen_anon_4.ipv4_dst = target.destination[3];
    }
    // SAFETY: the structure is the kernel's own.
    let answer = unsafe { bpf_fib_lookup(ctx.as_ptr(), fib, size_of::<Fib>() as i32, 0) };
    (answer == SUCCESS).then_some(())
}
