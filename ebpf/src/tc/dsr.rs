//! Direct server return: answers go from the backend's node to the client, past the node that the client asked.
//!
//! ```text
//! client --> first node: FLOWS (SENT), destination translated, option put in ------> backend's node
//! client <---------------- source translated: from_pod, REPLIES <--- pod <--- FLOWS + REPLIES (RECEIVED), option taken out
//! ```
//!
//! Minimum kernel: 5.10, as for all programs here.
//!
//! An option is honoured only if it can be true: the frontend is one of this node's maps (a node port at the address of a node
//! of the cluster), and the packet is for one of its endpoints, on this node. Whatever else comes with an option passes as it
//! is, and is answered by the pod under its own address.

use aya_ebpf::{maps::lpm_trie, programs::TcContext};
use skep_ebpf_common::{
    Address, FrontendKey, SCTP, TCP,
    conntrack::{self, Node, Reply, dsr, inside},
    dsr::LocalKey,
    kind,
    packet::{Drop, ETHERNET},
};

use super::{
    NEXT, dropped,
    maps::{Choice, FLOWS, INSIDE, NODE, REPLIES, Scratch},
    note,
    parse::{Packet, Piece},
    track,
};
use crate::{
    flows::{self, CARE},
    lookup,
    maps::LOCALS,
};

/// The option was taken out, and the flow is known.
pub(super) const TAKEN: i32 = -2;

/// Shall the answers of a new flow to a backend elsewhere go past this node? Not to other nodes and pods: a node would not
/// take from outside what bears its own address. Not of a flow that begins in the middle of a connection, or with pieces.
#[inline(always)]
pub(super) fn is_wanted(packet: &Packet, chosen: &Choice) -> bool {
    let key = &packet.tuple;
    let bit = if key.protocol == TCP { Node::DSR_TCP } else { Node::DSR_UDP };
    NODE.get(0).is_some_and(|node| node.dsr & bit != 0)
        && key.protocol != SCTP
        && (key.protocol != TCP || flows::opens(key.protocol, packet.flags))
        && is_plain(packet)
        && may_be_told(&key.destination, chosen.kind)
        && INSIDE.get(lpm_trie::Key::new(128, key.source)).is_none()
}

/// Does a packet of such a flow carry the option?
#[inline(always)]
pub(super) fn is_noted(packet: &Packet) -> bool {
    (packet.tuple.protocol != TCP || flows::opens(packet.tuple.protocol, packet.flags)) && is_plain(packet)
}

/// Is there nothing between the first part of the IP header and the transport's?
#[inline(always)]
pub(super) fn is_plain(packet: &Packet) -> bool {
    packet.piece == Piece::Whole && packet.l4 == ETHERNET + if packet.ip6 { 40 } else { 20 }
}

/// Does every node know that frontend? An address of a node only if the cluster knows it as one.
#[inline(always)]
fn may_be_told(front: &Address, kind: u32) -> bool {
    match kind {
        kind::LOAD_BALANCER | kind::EXTERNAL_IP => true,
        kind::NODE_PORT => is_nodes(front),
        _ => false,
    }
}

#[inline(always)]
fn is_nodes(address: &Address) -> bool {
    INSIDE.get(lpm_trie::Key::new(128, *address)).is_some_and(|value| *value == inside::NODE)
}

/// Takes the option of another node out of a packet and notes its flow. `NEXT`: it is not believed. A function of its own,
/// with a stack of its own.
#[inline(never)]
pub(super) fn accept(ctx: &TcContext, scratch: &mut Scratch) -> i32 {
    let now = flows::now();
    if !is_known(scratch, now) {
        let Some((id, service)) = endpoint(&scratch.packet) else { return NEXT };
        let Scratch { packet, flow, reply, other, reply_key, flow_key, .. } = scratch;
        let key = &packet.tuple;
        flow.used = now;
        flow.state = conntrack::learned(key.protocol, packet.flags, false, 0);
        (flow.backend, flow.service) = (id, service);
        (flow.to, flow.to_port) = (key.destination, key.destination_port);
        (flow.from, flow.from_port) = (packet.front, packet.front_port);
        flow.flags = dsr::RECEIVED;
        flow.seal_for(key);
        *reply_key = flow.reply_key(key);
        *reply = flow.reply(key, now);
        reply.seal_for(reply_key);
        if flows::reply(reply_key, other).is_some() && is_another(other, reply, key.protocol) {
            *flow_key = other.flow_key(reply_key);
            if track::is_alive(other, flow_key, now) {
                // The client asked two frontends of one backend from one port: its backend could not tell them apart.
                return dropped(Drop::NoPort);
            }
        }
        if !track::need(now)
            || REPLIES.insert(&*reply_key, &*reply, 0).is_err()
            || FLOWS.insert(key, &*flow, 0).is_err()
        {
            return dropped(Drop::Conntrack);
        }
    }
    match note::take(ctx, &mut scratch.packet) {
        Ok(()) => TAKEN,
        Err(_) => dropped(Drop::Rewrite),
    }
}

/// Is the flow known, with that frontend, and does it go on? Then tracking does the rest.
#[inline(always)]
fn is_known(scratch: &mut Scratch, now: u64) -> bool {
    let Scratch { packet, flow, .. } = scratch;
    let key = &packet.tuple;
    if flows::flow(key, flow).is_none() {
        return false;
    }
    let opens = flows::opens(key.protocol, packet.flags);
    // One that was silent for longer is written anew rather than looked after.
    flow.flags & dsr::RECEIVED != 0
        && (flow.from, flow.from_port) == (packet.front, packet.front_port)
        && now.wrapping_sub(flow.used) <= CARE
        && !(opens && conntrack::is_closing(flow.state))
        && flows::is_served(flow, key.protocol, opens)
}

/// Is it about another frontend, in a connection that is open? Datagrams are answered for the frontend that was asked last.
#[inline(always)]
fn is_another(other: &Reply, reply: &Reply, protocol: u8) -> bool {
    protocol == TCP
        && !conntrack::is_closing(other.state)
        && (other.frontend, other.frontend_port) != (reply.frontend, reply.frontend_port)
}

/// The endpoint of this node that the packet is for, and its service port, if that has the frontend the option names.
#[inline(always)]
fn endpoint(packet: &Packet) -> Option<(u32, u32)> {
    let key = &packet.tuple;
    let front = FrontendKey::new(packet.front, packet.front_port, key.protocol);
    let service = lookup::service_of(&front, is_nodes(&packet.front))?;
    let local = LocalKey { address: key.destination, service, port: key.destination_port, pad: 0 };
    // SAFETY: an aliased value names another endpoint, which is asked below.
    let id = *unsafe { LOCALS.get(&local) }?;
    let backend = lookup::backend(id, service)?;
    (backend.address == key.destination && backend.port == key.destination_port).then_some((id, service))
}
