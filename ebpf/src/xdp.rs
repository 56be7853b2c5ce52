//! The fast lane: what `from_device` (tc) has decided about a flow is done again in the driver, before the kernel makes
//! anything of the packet.
//!
//! Minimum kernel: 5.9 (links of XDP programs). In a driver that knows XDP, or as generic XDP behind any driver.
//!
//! Only plain packets of a flow that goes on take it: TCP without SYN, FIN and RST, or UDP; no IP options, extension headers
//! or fragments; a finished checksum; a way that leads out of the device they came by, or of another one of the node's.
//! All others go up to tc as if this program were not there, and so does one packet a second of each flow: there its age
//! is noted, its entries are looked after, and the kernel asks whether the neighbour still lives. So this program writes to
//! no map that others read but its counter.

mod maps;
mod packet;
mod rewrite;
mod send;
mod way;

use aya_ebpf::{bindings::xdp_action::XDP_PASS, macros::xdp, programs::XdpContext};
use skep_ebpf_common::{
    conntrack::{self, Flow, Reply},
    packet::{ETHERTYPE_IP4, ETHERTYPE_IP6},
};

use self::packet::{Frame, Packet};
use crate::{
    flows::{self, Target},
    tc::{maps::NODE, track},
};

/// Ingress of the node's own devices, before tc's `from_device`.
#[xdp]
fn from_wire(ctx: XdpContext) -> u32 {
    if !track::is_needed() {
        return XDP_PASS;
    }
    forward(&ctx).unwrap_or(XDP_PASS)
}

#[inline(always)]
fn forward(ctx: &XdpContext) -> Option<u32> {
    let frame = Frame::new(ctx);
    match u16::from_be(frame.ethertype()?) {
        ETHERTYPE_IP4 => lane::<false>(ctx, &frame),
        ETHERTYPE_IP6 => lane::<true>(ctx, &frame),
        _ => None,
    }
}

#[inline(always)]
fn lane<const IP6: bool>(ctx: &XdpContext, frame: &Frame) -> Option<u32> {
    let packet = packet::read::<IP6>(frame)?;
    let (tuple, now) = (&packet.tuple, flows::now());
    if may_be_answer(&packet) {
        let mut reply = Reply::new(tuple, 0);
        if flows::reply(tuple, &mut reply).is_some() {
            if reply.flags != 0 || !is_settled(tuple.protocol, reply.state, true, reply.used, now) {
                return None;
            }
            return send::send::<IP6>(ctx, frame, &packet, &Target::of_reply(&reply), now);
        }
    }
    let mut flow = Flow::default();
    flows::flow(tuple, &mut flow)?;
    if flow.flags != 0
        || !is_settled(tuple.protocol, flow.state, false, flow.used, now)
        || !flows::is_served(&flow, tuple.protocol, false)
    {
        return None;
    }
    send::send::<IP6>(ctx, frame, &packet, &Target::of_flow(&flow, tuple), now)
}

/// Is there nothing that tc would note of a plain packet of that side?
#[inline(always)]
fn is_settled(protocol: u8, bits: u32, from_backend: bool, used: u64, now: u64) -> bool {
    conntrack::learned(protocol, 0, from_backend, bits) == 0
        && !conntrack::is_closing(bits)
        && now.wrapping_sub(used) <= flows::CARE
}

/// Is it for a port of translated sources? An answer that leaves the node again is, because its backend is elsewhere. So may be
/// what is sent to a Service with such a port.
#[inline(always)]
fn may_be_answer(packet: &Packet) -> bool {
    let (first, last) = flows::ports(NODE.get(0));
    let port = u16::from_be(packet.tuple.destination_port);
    first <= port && port <= last
}
