//! What the policies of a pod say about a peer.

use aya_ebpf::{
    bindings::bpf_fib_lookup as Fib, helpers::generated::bpf_fib_lookup, maps::lpm_trie::Key, programs::TcContext,
};
use skep_ebpf_common::{
    Address, UDP,
    policy::{IdentityKey, RuleKey, device_flags, direction, identity, state_flags},
};

use crate::{
    maps::{IDENTITIES, RULES, Scratch},
    skb,
};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Nobody's to forward: this node's own, or nobody's at all.
const NOT_FORWARDED: i64 = 4;

/// What the policies answer.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Answer {
    No = 0,
    Yes = 1,
    /// The peer is this node: policies are not asked.
    Node = 2,
}

/// May a connection in that direction between the pod and its peer be opened? `answers`: the packet is one of whom the
/// connection was opened to. Notes the peer's identity.
#[inline(never)]
pub(crate) fn allow(scratch: &mut Scratch, way: u8, answers: bool) -> Answer {
    // Of an answer, the destination is the opener, and its port is the source.
    let tuple = &scratch.packet.tuple;
    let (own, peer) = if scratch.side == direction::EGRESS {
        (&tuple.source, &tuple.destination)
    } else {
        (&tuple.destination, &tuple.source)
    };
    let port = if answers { tuple.source_port } else { tuple.destination_port };
    let isolates = if way == direction::EGRESS { device_flags::EGRESS } else { device_flags::INGRESS };
    // No pod can be cut off from itself.
    if scratch.device.flags & isolates == 0 || own == peer {
        return Answer::Yes;
    }
    let identity = identity_of(scratch.state.generation, peer);
    let protocol = tuple.protocol;
    scratch.identity = identity;
    if identity == identity::HOST {
        return Answer::Node;
    }
    if scratch.state.flags & state_flags::CLOSED != 0 {
        return Answer::No;
    }
    let mut key = RuleKey {
        generation: scratch.state.generation,
        table: scratch.device.table,
        identity,
        direction: way,
        protocol,
        port,
    };
    if has(&key) {
        return Answer::Yes;
    }
    key.identity = identity::ANY;
    if has(&key) { Answer::Yes } else { Answer::No }
}

#[inline(always)]
fn has(key: &RuleKey) -> bool {
    RULES.get(Key::new(RuleKey::BITS, *key)).is_some()
}

#[inline(always)]
fn identity_of(generation: u32, address: &Address) -> u32 {
    let key = Key::new(IdentityKey::BITS, IdentityKey { generation, address: *address });
    IDENTITIES.get(key).copied().unwrap_or(identity::WORLD)
}

/// Is it for the tunnel at this or another node?
#[inline(always)]
pub(crate) fn is_for_tunnel(ctx: &TcContext, scratch: &mut Scratch) -> bool {
    let (tuple, tunnel) = (&scratch.packet.tuple, scratch.state.tunnel);
    if tunnel == 0 || tuple.protocol != UDP || u32::from(tuple.destination_port) != tunnel {
        return false;
    }
    let identity = identity_of(scratch.state.generation, &tuple.destination);
    scratch.identity = identity;
    identity::is_node(identity) || ends_here(ctx, scratch)
}

/// Does what the pod sends end at this very node? Asked last: it costs a look at the routes. The node has addresses that
/// its Node object does not tell: of its loopback device (cluster DNS), of other networks.
#[inline(always)]
pub(crate) fn ends_here(ctx: &TcContext, scratch: &mut Scratch) -> bool {
    let (tuple, fib) = (&scratch.packet.tuple, &mut scratch.fib);
    let destination = tuple.destination;
    let first = if scratch.packet.ip6 { destination[0] } else { destination[3] }.to_ne_bytes()[0];
    // A multicast router would send it on.
    if first == 0xff || (!scratch.packet.ip6 && first >= 224) {
        return false;
    }
    fib.l4_protocol = tuple.protocol;
    fib.sport = 0;
    fib.dport = 0;
    fib.__bindgen_anon_1.tot_len = 0;
    fib.__bindgen_anon_2.flowinfo = 0;
    fib.ifindex = scratch.index;
    if scratch.packet.ip6 {
        fib.family = AF_INET6;
        fib.__bindgen_anon_3.ipv6_src = tuple.source;
        fib.__bindgen_anon_4.ipv6_dst = destination;
    } else {
        fib.family = AF_INET;
        fib.__bindgen_anon_3.ipv4_src = tuple.source[3];
        fib.__bindgen_anon_4.ipv4_dst = destination[3];
    }
    // SAFETY: the structure is the kernel's own.
    unsafe { bpf_fib_lookup(skb(ctx).cast(), fib, size_of::<Fib>() as i32, 0) as i64 == NOT_FORWARDED }
}
