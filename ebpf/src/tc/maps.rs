//! Maps of the per-packet path; pinned as the others are.

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, bpf_fib_lookup, bpf_redir_neigh, bpf_sock_tuple},
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray},
};
use skep_ebpf_common::{
    Address,
    conntrack::{Flow, FragmentKey, FragmentPorts, Node, Reply, Tuple},
    pod::PodValue,
};

use super::parse::Packet;

/// A packet as the client sends it -> where it goes.
#[map]
pub(crate) static FLOWS: LruHashMap<Tuple, Flow> = LruHashMap::with_max_entries(65_536, 0);

/// A packet as the backend sends it -> whom it goes to.
#[map]
pub(crate) static REPLIES: LruHashMap<Tuple, Reply> = LruHashMap::with_max_entries(65_536, 0);

/// One once a flow has been noted: until then no packet need be looked for in the two above. More than that while they are
/// exchanged for larger ones: see [`skep_ebpf_common::conntrack::is_held`].
#[map]
pub(super) static TRACKING: Array<u32> = Array::with_max_entries(1, 0);

/// A datagram in pieces -> its ports.
#[map]
pub(super) static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts> = LruHashMap::with_max_entries(8192, 0);

/// Ranges of the cluster's own addresses -> 1.
#[map]
pub(super) static INSIDE: LpmTrie<Address, u32> = LpmTrie::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// What the programs know of this node.
#[map]
pub(crate) static NODE: Array<Node> = Array::with_max_entries(1, 0);

/// A pod's address -> its device, for packets that are handed to it directly.
#[map]
pub(super) static PODS: HashMap<Address, PodValue> = HashMap::with_max_entries(8192, BPF_F_NO_PREALLOC);

/// Reason ([`skep_ebpf_common::packet::Drop`]) -> packets.
#[map]
pub(super) static PACKET_DROPS: PerCpuArray<u64> = PerCpuArray::with_max_entries(16, 0);

/// Program ([`skep_ebpf_common::packet::Path`]) -> packets it forwarded.
#[map]
pub(super) static PACKET_PATHS: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

/// Where a program keeps what its stack (512 bytes, shared with what it calls) has no room for. No program that uses it
/// interrupts another one that does: all run with bottom halves off.
#[map]
pub(super) static PACKET_SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// See [`PACKET_SCRATCH`].
#[repr(C)]
pub(super) struct Scratch {
    pub(super) packet: Packet,
    /// The flow of the packet, and the key of the entry for its answers.
    pub(super) flow: Flow,
    pub(super) flow_key: Tuple,
    /// The entry for answers, and its key.
    pub(super) reply: Reply,
    pub(super) reply_key: Tuple,
    /// Another one in its place.
    pub(super) other: Reply,
    pub(super) route: Route,
    /// Source and destination of an ICMP error, and the source it shall have.
    pub(super) outer: [Address; 3],
    /// Words of an answer, and those it quotes.
    pub(super) head: [u32; 5],
    pub(super) quote: [u32; 12],
    pub(super) chosen: Choice,
    /// The backend (key of `BACKENDS`, zero for none) and the source port that the client's former connection had.
    pub(super) former: u32,
    pub(super) former_port: u16,
    /// A question about sockets.
    pub(super) sockets: bpf_sock_tuple,
}

/// A question to the kernel's routing, and the answer; or a pod's device (in `fib`), and what a frame to it begins with.
#[repr(C)]
pub(super) struct Route {
    pub(super) fib: bpf_fib_lookup,
    pub(super) neighbour: bpf_redir_neigh,
    pub(super) macs: [[u8; 6]; 2],
}

/// What became of the choice of a backend.
#[repr(C)]
pub(super) struct Choice {
    pub(super) address: Address,
    pub(super) id: u32,
    pub(super) service: u32,
    pub(super) kind: u32,
    pub(super) port: u16,
    pub(super) flags: u16,
}
