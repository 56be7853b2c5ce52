//! Which ports this node's own sockets use.

use aya_ebpf::{
    bindings::{BPF_F_CURRENT_NETNS, bpf_sock_tuple},
    helpers::generated::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp},
    programs::TcContext,
};
use skep_ebpf_common::{SCTP, TCP};

use super::{maps::Scratch, skb};

const CURRENT: u64 = BPF_F_CURRENT_NETNS as i64 as u64;

/// Would a socket of this node get the answers to the source that the flow has? Connected ones, listening ones, and those that
/// wait out their end. Minimum kernel: 5.2.
#[inline(always)]
pub(super) fn has(ctx: &TcContext, scratch: &mut Scratch) -> bool {
    let Scratch { packet, flow, sockets, .. } = scratch;
    if packet.tuple.protocol == SCTP {
        // Nobody tells.
        return false;
    }
    // SAFETY: plain numbers, of one variant each.
    let length = unsafe {
        if packet.ip6 {
            let tuple = &mut sockets.__bindgen_anon_1.ipv6;
            (tuple.saddr, tuple.daddr) = (flow.to, flow.from);
            (tuple.sport, tuple.dport) = (flow.to_port, flow.from_port);
            size_of_val(tuple)
        } else {
            let tuple = &mut sockets.__bindgen_anon_1.ipv4;
            (tuple.saddr, tuple.daddr) = (flow.to[3], flow.from[3]);
            (tuple.sport, tuple.dport) = (flow.to_port, flow.from_port);
            size_of_val(tuple)
        }
    } as u32;
    let tuple: *mut bpf_sock_tuple = sockets;
    // SAFETY: the tuple is initialised for that length; what is found is given back at once.
    unsafe {
        let socket = if packet.tuple.protocol == TCP {
            bpf_skc_lookup_tcp(skb(ctx).cast(), tuple, length, CURRENT, 0)
        } else {
            bpf_sk_lookup_udp(skb(ctx).cast(), tuple, length, CURRENT, 0)
        };
        if socket.is_null() {
            return false;
        }
        bpf_sk_release(socket.cast());
    }
    true
}
