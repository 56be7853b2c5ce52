//! What is known of flows, for all programs that see packets: reading an entry, and whether it still counts.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use skep_ebpf_common::{
    Address, UDP,
    conntrack::{Flow, Node, Reply, Tuple},
    packet::tcp_flags,
};

use crate::{
    lookup,
    tc::maps::{FLOWS, REPLIES},
};

/// The entry of the other direction is looked after once in so many nanoseconds.
pub(crate) const CARE: u64 = 1_000_000_000;

/// Addresses and ports a packet shall have.
pub(crate) struct Target<'a> {
    pub(crate) source: &'a Address,
    pub(crate) destination: &'a Address,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
}

impl<'a> Target<'a> {
    /// Of what a client sends; `key` is the packet's as it came.
    #[inline(always)]
    pub(crate) fn of_flow(flow: &'a Flow, key: &'a Tuple) -> Self {
        let (source, source_port) = flow.source(key);
        Self { source, destination: &flow.to, source_port, destination_port: flow.to_port }
    }

    /// Of what a backend sends.
    #[inline(always)]
    pub(crate) fn of_reply(reply: &'a Reply) -> Self {
        Self {
            source: &reply.frontend,
            destination: &reply.client,
            source_port: reply.frontend_port,
            destination_port: reply.client_port,
        }
    }
}

/// Copies the flow of a packet that a client sends; where its entry lies.
#[inline(always)]
pub(crate) fn flow(key: &Tuple, flow: &mut Flow) -> Option<*mut Flow> {
    let entry = FLOWS.get_ptr_mut(key)?;
    // SAFETY: the copy is only believed when its seal fits.
    *flow = unsafe { entry.read() };
    flow.is_sealed_for(key).then_some(entry)
}

/// Copies what is known of a packet that a backend sends; where its entry lies.
#[inline(always)]
pub(crate) fn reply(key: &Tuple, reply: &mut Reply) -> Option<*mut Reply> {
    let entry = REPLIES.get_ptr_mut(key)?;
    // SAFETY: the copy is only believed when its seal fits.
    *reply = unsafe { entry.read() };
    reply.is_sealed_for(key).then_some(entry)
}

/// Does a TCP segment with those flags, or an SCTP packet, open a connection?
#[inline(always)]
pub(crate) fn opens(protocol: u8, flags: u8) -> bool {
    protocol != UDP && flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN
}

/// May a packet still go to the backend of its flow? Established connections drain; datagrams and new connections go
/// where somebody is.
#[inline(always)]
pub(crate) fn is_served(flow: &Flow, protocol: u8, opens: bool) -> bool {
    !(opens || protocol == UDP) || flow.service == 0 || lookup::backend(flow.backend, flow.service).is_some()
}

/// First and last port that translated sources get, host order.
#[inline(always)]
pub(crate) fn ports(node: Option<&Node>) -> (u16, u16) {
    match node {
        Some(node) if node.first_port != 0 && node.last_port >= node.first_port => (node.first_port, node.last_port),
        _ => (Node::FIRST_PORT, Node::LAST_PORT),
    }
}

/// Nanoseconds since the node started, suspended time included.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: the helper takes no argument and always succeeds.
    unsafe { bpf_ktime_get_boot_ns() }
}
