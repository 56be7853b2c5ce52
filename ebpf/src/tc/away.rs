//! What a pod sends to other nodes of the cluster, past the host's stack: the kernel's routing is asked here, and the packet
//! goes out of the device that it names, a tunnel too.
//!
//! ```text
//! pod ──► from_pod ───► INSIDE, not of this node, bpf_fib_lookup ──► bpf_redirect_neigh ──► eth0 or skep-vxlan
//! ```
//!
//! Minimum kernel: 5.10 (`bpf_redirect_neigh`).
//!
//! What leaves the cluster is left to the stack: people give it the node's address there by rules of their own.

use core::mem::size_of;

use aya_ebpf::{
    bindings::{bpf_fib_lookup as Fib, bpf_redir_neigh as Neighbour},
    helpers::generated::{bpf_fib_lookup, bpf_redirect_neigh},
    maps::lpm_trie,
    programs::TcContext,
};
use skep_ebpf_common::{Address, packet::Drop};

use super::{
    NEXT,
    direct::{self, Head},
    dropped,
    maps::{INSIDE, Route},
    scratch,
    send::{AF_INET, AF_INET6, NO_NEIGHBOUR, SUCCESS},
    skb,
};

/// Sends the packet on its way; `NEXT` if that is not for this program to do.
#[inline(always)]
pub(super) fn send(ctx: &TcContext, head: &Head) -> i32 {
    // SAFETY: the kernel hands a valid context to the program.
    let device = unsafe { (&raw const (*skb(ctx)).ifindex).read_volatile() };
    if !direct::is_behind(&head.source, device)
        || head.ttl <= 1
        || is_one_link(head)
        || INSIDE.get(lpm_trie::Key::new(128, head.destination)).is_none()
    {
        return NEXT;
    }
    let Some(scratch) = scratch() else { return NEXT };
    let length = direct::length(ctx, head.ip6, head.protocol);
    if length > u32::from(u16::MAX) {
        return NEXT;
    }
    let route = &mut scratch.route;
    ask(route, head, device, length as u16);
    // SAFETY: the structure is the kernel's own.
    let found = unsafe { bpf_fib_lookup(skb(ctx).cast(), &raw mut route.fib, size_of::<Fib>() as i32, 0) };
    // Also where the packet is too big, or there is no way: the stack tells the pod.
    if !matches!(found, SUCCESS | NO_NEIGHBOUR) || route.fib.ifindex == device {
        return NEXT;
    }
    route.neighbour.nh_family = route.fib.family.into();
    // SAFETY: a map's value is initialised; for IPv4 the kernel reads the first four bytes.
    route.neighbour.__bindgen_anon_1.ipv6_nh = unsafe { route.fib.__bindgen_anon_4.ipv6_dst };
    if direct::age(ctx, head).is_err() {
        return dropped(Drop::Rewrite);
    }
    // SAFETY: the structure is the kernel's own.
    unsafe { bpf_redirect_neigh(route.fib.ifindex, &raw mut route.neighbour, size_of::<Neighbour>() as i32, 0) as i32 }
}

/// Fills in the question. Ports are left out, as for translated packets.
#[inline(always)]
fn ask(route: &mut Route, head: &Head, device: u32, length: u16) {
    let fib = &mut route.fib;
    fib.l4_protocol = head.protocol;
    fib.sport = 0;
    fib.dport = 0;
    fib.__bindgen_anon_1.tot_len = length;
    fib.__bindgen_anon_2.flowinfo = 0;
    fib.ifindex = device;
    if head.ip6 {
        fib.family = AF_INET6;
        fib.__bindgen_anon_3.ipv6_src = head.source;
        fib.__bindgen_anon_4.ipv6_dst = head.destination;
    } else {
        fib.family = AF_INET;
        fib.__bindgen_anon_3.ipv4_src = head.source[3];
        fib.__bindgen_anon_4.ipv4_dst = head.destination[3];
    }
}

/// Addresses that mean something on one link, or many receivers: they are among `INSIDE`, and no router sends them on.
#[inline(always)]
fn is_one_link(head: &Head) -> bool {
    let [first, _, _, last]: Address = head.destination;
    if head.ip6 {
        let first = u32::from_be(first) >> 22;
        first == 0xfe80 >> 6 || first >> 2 == 0xff
    } else {
        let [a, b, ..] = last.to_ne_bytes();
        a >= 224 || (a, b) == (169, 254)
    }
}
