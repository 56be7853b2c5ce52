//! The short way to a pod of this node: its packets are handed to the pod's end of the device at once, instead of taking the
//! host's stack and the device's queue. The pod's own stack is the first to see them; what it would refuse, it refuses.
//!
//! ```text
//! pod a ──► from_pod ───► PODS: a is behind this device, b is open ──► bpf_redirect_peer ──► pod b
//! eth0, skep-vxlan ──► from_device ───► PODS: b is open, the source is none of this node's ──► pod b
//! any of them ──► translated for a Service ───► PODS: b is open ──► pod b
//! ```
//!
//! Minimum kernel: 5.10 (`bpf_redirect_peer`, for programs at a device's ingress only).
//!
//! Programs and queues at the egress of the node's end do not see such packets: `PODS` says which pods that is right for.
//! Whatever is not as usual (fragments, options, a packet that is too big or too old) is left to the stack, which knows
//! what to answer.

use core::mem::size_of;

use aya_ebpf::{
    bindings::BPF_F_RECOMPUTE_CSUM,
    helpers::generated::{bpf_redirect_peer, bpf_skb_store_bytes},
    programs::TcContext,
};
use skep_ebpf_common::{
    Address, TCP, UDP, address_bits, is_mapped, mapped,
    packet::{Drop, ETHERNET, ETHERTYPE_IP4, ETHERTYPE_IP6, Ip4, Ip6},
    pod::{PodValue, pod_flags},
};

use super::{
    NEXT, away, dropped, dsr,
    maps::{PODS, Route},
    parse::Packet,
    skb,
};
use crate::{lookup::Origin, maps::ADDRESSES};

/// Version 4, five words: a header without options.
const PLAIN_IP4: u8 = 0x45;
/// More fragments, and where this one belongs.
const FRAGMENT: u16 = 0x3fff;
/// Next headers of IPv6 that every router looks at, and that of fragments.
const HOP_BY_HOP: u8 = 0;
const FRAGMENT6: u8 = 44;

/// A length that nobody knows.
const UNKNOWN: u32 = u32::MAX;

/// What must be known of a packet.
pub(super) struct Head {
    pub(super) source: Address,
    pub(super) destination: Address,
    pub(super) ip6: bool,
    pub(super) ttl: u8,
    pub(super) protocol: u8,
    /// Checksum of an IPv4 header.
    check: u16,
}

/// Hands the packet to the pod it is for; `NEXT` if that is not for this program to do.
#[inline(never)]
pub(super) fn send(ctx: &TcContext, origin: Origin) -> i32 {
    let Some(head) = read(ctx) else { return NEXT };
    let Some(pod) = PODS.get_ptr(&head.destination) else {
        return if origin == Origin::Internal { away::send(ctx, &head) } else { NEXT };
    };
    // SAFETY: the copy is only believed when its seal fits.
    let PodValue { index, mtu, flags, seal, .. } = unsafe { pod.read() };
    let known = PodValue { index, mtu, flags, seal, macs: [[0; 6]; 2] };
    if flags & pod_flags::DIRECT == 0 || head.ttl <= 1 || !known.is_sealed_for(&head.destination) {
        return NEXT;
    }
    let may = match origin {
        Origin::Internal => may_from_pod(ctx, &head, &known),
        _ => {
            flags & pod_flags::FROM_OUTSIDE != 0
                && may_from_outside(ctx, &head)
                && length(ctx, head.ip6, head.protocol) <= mtu
        }
    };
    if !may {
        return NEXT;
    }
    // SAFETY: twelve bytes of a map's value, which stays readable while the program runs.
    let macs = unsafe { &raw const (*pod).macs };
    if readdress(ctx, macs).is_err() || age(ctx, &head).is_err() {
        return dropped(Drop::Rewrite);
    }
    // SAFETY: the helper only notes where the packet is to go.
    unsafe { bpf_redirect_peer(index, 0) as i32 }
}

/// May a packet be handed to the pod at that address once it is translated? `route` says where that is then. Its sender has
/// been looked at already. A function of its own: it is asked at several places.
#[inline(never)]
pub(super) fn is_open(ctx: &TcContext, route: &mut Route, packet: &Packet, destination: &Address) -> bool {
    let Some(pod) = PODS.get_ptr(destination) else { return false };
    // SAFETY: the copy is only believed when its seal fits.
    let PodValue { index, mtu, flags, seal, macs } = unsafe { pod.read() };
    route.fib.ifindex = index;
    route.macs = macs;
    let known = PodValue { index, mtu, flags, seal, macs: [[0; 6]; 2] };
    // SAFETY: the kernel hands a valid context to the program.
    let device = unsafe { (&raw const (*skb(ctx)).ifindex).read_volatile() };
    flags & pod_flags::DIRECT != 0
        && index != device
        && dsr::is_plain(packet)
        && length(ctx, packet.ip6, packet.tuple.protocol) <= mtu
        && known.is_sealed_for(destination)
}

/// Hands a packet that has been changed to the pod that [`is_open`] found.
#[inline(always)]
pub(super) fn hand_over(ctx: &TcContext, route: &Route) -> i32 {
    if readdress(ctx, &raw const route.macs).is_err() {
        return dropped(Drop::Rewrite);
    }
    // SAFETY: the helper only notes where the packet is to go.
    unsafe { bpf_redirect_peer(route.fib.ifindex, 0) as i32 }
}

/// Is that the address of a pod that is known to be behind the device the packet came by? The seal is not asked: at worst it is
/// an address nobody has any more.
#[inline(always)]
pub(super) fn is_behind(address: &Address, device: u32) -> bool {
    // SAFETY: the word is read whole.
    unsafe { PODS.get(address) }.is_some_and(|pod| pod.index == device)
}

/// Does it come from the pod whose address it bears, to another one that takes packets as long as that pod's device does?
/// (Its own device has let the packet pass.) The source's seal is not asked: at worst it is an address nobody has any more.
#[inline(always)]
fn may_from_pod(ctx: &TcContext, head: &Head, pod: &PodValue) -> bool {
    // SAFETY: the kernel hands a valid context to the program.
    let device = unsafe { (&raw const (*skb(ctx)).ifindex).read_volatile() };
    // SAFETY: the words are read whole.
    let sender = unsafe { PODS.get(&head.source) };
    sender.is_some_and(|sender| sender.index == device && sender.mtu <= pod.mtu) && pod.index != device
}

/// Is the source somebody elsewhere, who may send through a router? The stack takes its word for it, too.
#[inline(always)]
fn may_from_outside(ctx: &TcContext, head: &Head) -> bool {
    // A frame of a VLAN above the device.
    // SAFETY: the kernel hands a valid context to the program.
    if unsafe { (&raw const (*skb(ctx)).vlan_present).read_volatile() } != 0 {
        return false;
    }
    let [a, b, c, d] = head.source;
    let one_link = if head.ip6 {
        let first = u32::from_be(a) >> 22;
        // fe80::/10, ff00::/8, and what begins with 96 zeros.
        first == 0xfe80 >> 6 || first >> 2 == 0xff || (a, b, c) == (0, 0, 0)
    } else {
        matches!(d.to_ne_bytes()[0], 0 | 127 | 224..)
    };
    // SAFETY: of the value, only aligned words are read.
    let is_nodes = || unsafe { ADDRESSES.get(&head.source) }.is_some_and(|value| value.bits & address_bits::NODE != 0);
    // SAFETY: that there is a value is all that is asked.
    !one_link && unsafe { PODS.get(&head.source) }.is_none() && !is_nodes()
}

/// How long the packet is from its IP header on, or the longest of those it stands for; [`UNKNOWN`] is too long for anybody.
/// (The compiler would copy the value of an `Option` that has none, which the verifier refuses.)
#[inline(always)]
pub(super) fn length(ctx: &TcContext, ip6: bool, protocol: u8) -> u32 {
    // SAFETY: the kernel hands a valid context to the program.
    let segment = unsafe { (&raw const (*skb(ctx)).gso_size).read_volatile() };
    if segment == 0 {
        return ctx.len() - ETHERNET;
    }
    let network = if ip6 { 40 } else { 20 };
    let transport = match protocol {
        TCP => match ctx.load::<u8>((ETHERNET + network + 12) as usize) {
            Ok(offset) => u32::from(offset >> 4) * 4,
            Err(_) => return UNKNOWN,
        },
        UDP => 8,
        _ => return UNKNOWN,
    };
    network + transport + segment
}

/// Reads an IP packet without options that is whole.
#[inline(always)]
fn read(ctx: &TcContext) -> Option<Head> {
    // SAFETY: the kernel hands a valid context to the program.
    let protocol = unsafe { (&raw const (*skb(ctx)).protocol).read_volatile() };
    if protocol == u32::from(ETHERTYPE_IP4.to_be()) {
        let header: Ip4 = ctx.load(ETHERNET as usize).ok()?;
        if header.version != PLAIN_IP4 || u16::from_be(header.fragment) & FRAGMENT != 0 {
            return None;
        }
        Some(Head {
            source: mapped(header.source),
            destination: mapped(header.destination),
            ip6: false,
            ttl: header.ttl,
            protocol: header.protocol,
            check: header.check,
        })
    } else if protocol == u32::from(ETHERTYPE_IP6.to_be()) {
        let header: Ip6 = ctx.load(ETHERNET as usize).ok()?;
        // An IPv4 address in its mapped form would be taken for a pod's.
        if u32::from_be(header.version) >> 28 != 6
            || matches!(header.next, HOP_BY_HOP | FRAGMENT6)
            || is_mapped(&header.source)
            || is_mapped(&header.destination)
        {
            return None;
        }
        Some(Head {
            source: header.source,
            destination: header.destination,
            ip6: true,
            ttl: header.ttl,
            protocol: header.next,
            check: 0,
        })
    } else {
        None
    }
}

/// Gives the frame the hardware addresses it would have on the pod's wire.
#[inline(always)]
fn readdress(ctx: &TcContext, macs: *const [[u8; 6]; 2]) -> Result<(), i64> {
    // SAFETY: the pointer is that of a map's value.
    match unsafe {
        bpf_skb_store_bytes(skb(ctx).cast(), 0, macs.cast_mut().cast(), size_of::<[[u8; 6]; 2]>() as u32, 0)
    } {
        0 => Ok(()),
        error => Err(error),
    }
}

/// One hop less to live. A sum of the whole packet that a network card made stays right: the checksum of an IPv4 header
/// balances the change, of IPv6 the helper corrects the sum.
#[inline(always)]
pub(super) fn age(ctx: &TcContext, head: &Head) -> Result<(), i64> {
    let ttl = head.ttl - 1;
    if head.ip6 {
        return ctx.store((ETHERNET + 7) as usize, &ttl, u64::from(BPF_F_RECOMPUTE_CSUM));
    }
    // RFC 1624: the sum grows by what the word with ttl and protocol shrank.
    let sum = u32::from(head.check) + u32::from(0x0100_u16.to_be());
    let check = (sum + u32::from(sum >= 0xffff)) as u16;
    ctx.store((ETHERNET + 8) as usize, &Aged { ttl, protocol: head.protocol, check }, 0)
}

/// Three fields of an IPv4 header that lie together.
#[repr(C)]
struct Aged {
    ttl: u8,
    protocol: u8,
    check: u16,
}
