//! ICMP errors about translated packets: the packet they quote, and the addresses around it, become what the receiver
//! knows. The transport checksum inside the quote is left as it is: it covers a payload that is not there.

use aya_ebpf::{bindings::BPF_F_PSEUDO_HDR, programs::TcContext};
use skep_ebpf_common::{
    Address, mapped,
    packet::{Drop, ETHERNET, ICMP, ICMP6},
};

use super::{
    NEXT, dropped,
    maps::{Route, Scratch},
    parse::Packet,
    rewrite,
    send::{self, Way},
};
use crate::flows::{self, Target};

/// Translates the error and sends it on its way. A function of its own: it is rare, and has a stack of its own.
#[inline(never)]
pub(super) fn translate(ctx: &TcContext, scratch: &mut Scratch, from_pod: bool) -> i32 {
    let Scratch { packet, flow, flow_key: key, reply, route, outer, .. } = scratch;
    *key = packet.tuple.reversed();
    if flows::reply(key, reply).is_some() {
        // About a packet to the backend: goes to the client.
        let target = Target {
            source: &reply.client,
            destination: &reply.frontend,
            source_port: reply.client_port,
            destination_port: reply.frontend_port,
        };
        return pass_on(ctx, packet, route, outer, &target, from_pod);
    }
    if flows::flow(key, flow).is_some() {
        // About an answer to the client: goes to the backend.
        let (from, from_port) = flow.source(key);
        let target =
            Target { source: &flow.to, destination: from, source_port: flow.to_port, destination_port: from_port };
        return pass_on(ctx, packet, route, outer, &target, from_pod);
    }
    NEXT
}

#[inline(always)]
fn pass_on(
    ctx: &TcContext,
    packet: &Packet,
    route: &mut Route,
    [source, destination, new_source]: &mut [Address; 3],
    target: &Target<'_>,
    from_pod: bool,
) -> i32 {
    let quoted = &packet.tuple;
    // An error goes to whom sent the packet.
    if addresses(ctx, packet.ip6, source, destination).is_err() || *destination != quoted.source {
        return NEXT;
    }
    if from_pod && !send::is_senders(ctx, route, packet, source) {
        return NEXT;
    }
    // Where the receiver of the quoted packet speaks, it does so under the name the sender knows; routers keep theirs.
    *new_source = if *source == quoted.destination { *target.destination } else { *source };
    let protocol = if packet.ip6 { ICMP6 } else { ICMP };
    let way = match send::way(ctx, route, packet, protocol, new_source, target.source) {
        Ok(way) => way,
        Err(reason) => return dropped(reason),
    };
    if way == Way::Out && packet.ttl <= 1 {
        return dropped(Drop::TimeToLive);
    }
    if change(ctx, packet, target, source, new_source).is_err() {
        return dropped(Drop::Rewrite);
    }
    send::go(ctx, route, packet, way)
}

#[inline(always)]
fn change(
    ctx: &TcContext,
    packet: &Packet,
    target: &Target<'_>,
    source: &Address,
    new_source: &Address,
) -> Result<(), i64> {
    let (quoted, ip6, check) = (&packet.tuple, packet.ip6, packet.icmp + 2);
    // Inside. A change of an IPv4 header is balanced by the change of that header's checksum.
    let covers = if ip6 { check } else { 0 };
    rewrite::port(ctx, packet.l4, quoted.source_port, target.source_port, check, 0)?;
    rewrite::port(ctx, packet.l4 + 2, quoted.destination_port, target.destination_port, check, 0)?;
    rewrite::source(ctx, ip6, packet.l3, &quoted.source, target.source, covers, 0)?;
    rewrite::destination(ctx, ip6, packet.l3, &quoted.destination, target.destination, covers, 0)?;
    // Outside.
    let pseudo = u64::from(BPF_F_PSEUDO_HDR);
    rewrite::source(ctx, ip6, ETHERNET, source, new_source, covers, pseudo)?;
    rewrite::destination(ctx, ip6, ETHERNET, &quoted.source, target.source, covers, pseudo)
}

/// Reads source and destination of the error itself.
#[inline(always)]
fn addresses(ctx: &TcContext, ip6: bool, source: &mut Address, destination: &mut Address) -> Result<(), i64> {
    if ip6 {
        *source = ctx.load((ETHERNET + 8) as usize)?;
        *destination = ctx.load((ETHERNET + 24) as usize)?;
    } else {
        *source = mapped(ctx.load((ETHERNET + 12) as usize)?);
        *destination = mapped(ctx.load((ETHERNET + 16) as usize)?);
    }
    Ok(())
}
