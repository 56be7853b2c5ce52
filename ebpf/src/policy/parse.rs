//! From bytes to what policies speak of: addresses, protocol, ports.

use aya_ebpf::programs::TcContext;
use skep_ebpf_common::{
    SCTP, TCP, UDP,
    conntrack::{FragmentKey, FragmentPorts, Tuple},
    mapped,
    packet::{ETHERNET, ETHERTYPE_IP4, ETHERTYPE_IP6, ICMP, ICMP6, Ip4, Ip6},
};

use crate::maps::FRAGMENTS;

/// Headers of IPv6 that may come before the transport's; more than that is nobody's honest packet.
const MAX_EXTENSIONS: u32 = 4;

/// What was recognised.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Neither IPv4 nor IPv6; ARP, say.
    NotIp,
    /// Cut short before its addresses.
    NoAddresses,
    /// The addresses are known, but not what it is.
    Malformed,
    /// A later fragment of something unknown.
    LostFragment,
    /// What IPv6 hosts on one link must tell each other.
    Neighbours,
    /// An ICMP error; [`Packet::quoted`] is the packet it is about.
    Error,
    /// Everything else.
    Plain,
}

/// What is known of a packet.
#[repr(C)]
pub(crate) struct Packet {
    /// As [`skep_ebpf_common::policy::PolicyFlow`] has it.
    pub(crate) tuple: Tuple,
    /// The same of the packet that an error quotes.
    pub(crate) quoted: Tuple,
    pub(crate) fragment: FragmentKey,
    pub(crate) ip6: bool,
    /// Flags of a TCP segment.
    pub(crate) flags: u8,
    /// A fragment that has the ports; the others will ask for them.
    pub(crate) first: bool,
}

/// Where the transport header begins, and how far the packet goes.
#[derive(Clone, Copy)]
struct Span {
    l4: u32,
    /// One past the last byte of the packet, by its own account.
    end: u32,
    later: bool,
    ttl: u8,
}

/// Reads a packet. What `packet` held before is of no account.
#[inline(always)]
pub(crate) fn parse(ctx: &TcContext, packet: &mut Packet) -> Kind {
    packet.flags = 0;
    packet.first = false;
    packet.tuple.pad = [0; 3];
    packet.quoted.pad = [0; 3];
    let Ok(ethertype) = ctx.load::<u16>(12) else { return Kind::NotIp };
    match u16::from_be(ethertype) {
        ETHERTYPE_IP4 => packet.ip6 = false,
        ETHERTYPE_IP6 => packet.ip6 = true,
        _ => return Kind::NotIp,
    }
    let Packet { tuple, fragment, first, ip6, .. } = packet;
    let span = match ip(ctx, ETHERNET, *ip6, tuple, fragment, first) {
        Ok(span) => span,
        Err(kind) => return kind,
    };
    if span.later {
        // SAFETY: an aliased value has another datagram's ports: this piece is judged by them, and its datagram never
        // becomes whole.
        let Some(ports) = (unsafe { FRAGMENTS.get(&packet.fragment) }) else { return Kind::LostFragment };
        packet.tuple.source_port = ports.source;
        packet.tuple.destination_port = ports.destination;
        return Kind::Plain;
    }
    let Some(kind) = transport(ctx, span, &mut packet.tuple, &mut packet.flags) else { return Kind::Malformed };
    match (packet.tuple.protocol, kind) {
        (ICMP, 3 | 11 | 12) | (ICMP6, 1..=4) => quoted(ctx, span.l4 + 8, packet),
        // Hop limits that no router lets pass.
        (ICMP6, 133..=137) if span.ttl == 255 => Kind::Neighbours,
        (ICMP6, 130..=132 | 143) if span.ttl == 1 => Kind::Neighbours,
        _ => Kind::Plain,
    }
}

/// Notes the ports of a datagram in pieces, once its first piece may pass.
#[inline(always)]
pub(crate) fn remember(packet: &Packet) {
    if packet.first {
        let ports = FragmentPorts { source: packet.tuple.source_port, destination: packet.tuple.destination_port };
        // A full map forgets the oldest; there is no other failure.
        let _ = FRAGMENTS.insert(&packet.fragment, &ports, 0);
    }
}

/// Reads the ports, or what stands for them; the type of an ICMP message, else zero. What lies past the packet's end is
/// padding, and not believed: the pieces of a datagram must not become something else when they are put together.
#[inline(always)]
fn transport(ctx: &TcContext, span: Span, tuple: &mut Tuple, flags: &mut u8) -> Option<u8> {
    tuple.source_port = 0;
    tuple.destination_port = 0;
    let needs = match tuple.protocol {
        TCP => 14,
        UDP | SCTP | ICMP | ICMP6 => 8,
        _ => return Some(0),
    };
    if span.l4 + needs > span.end {
        return None;
    }
    if needs == 14 {
        *flags = ctx.load::<u8>((span.l4 + 13) as usize).ok()?;
    }
    if matches!(tuple.protocol, TCP | UDP | SCTP) {
        (tuple.source_port, tuple.destination_port) = ports(ctx, span.l4)?;
        return Some(0);
    }
    let kind = ctx.load::<u8>(span.l4 as usize).ok()?;
    let (asks, answers) = if tuple.protocol == ICMP { (8, 0) } else { (128, 129) };
    if kind == asks {
        tuple.source_port = ctx.load::<u16>((span.l4 + 4) as usize).ok()?;
    } else if kind == answers {
        tuple.destination_port = ctx.load::<u16>((span.l4 + 4) as usize).ok()?;
    }
    Some(kind)
}

#[inline(always)]
fn ports(ctx: &TcContext, l4: u32) -> Option<(u16, u16)> {
    let ports = ctx.load::<[u16; 2]>(l4 as usize).ok()?;
    Some((ports[0], ports[1]))
}

/// Reads the packet that an ICMP error quotes, as far as it goes.
#[inline(always)]
fn quoted(ctx: &TcContext, at: u32, packet: &mut Packet) -> Kind {
    let Packet { quoted, fragment, first, ip6, .. } = packet;
    let whole = *first;
    let Ok(span) = ip(ctx, at, *ip6, quoted, fragment, first) else { return Kind::Malformed };
    *first = whole;
    if span.later {
        return Kind::Malformed;
    }
    // Flags may be cut off: eight bytes of it are all that IPv4 promises. What the quote's own header says of its length
    // does not matter: it ends where the error ends.
    if matches!(quoted.protocol, TCP | UDP | SCTP) {
        let Some(found) = ports(ctx, span.l4) else { return Kind::Malformed };
        (quoted.source_port, quoted.destination_port) = found;
        return Kind::Error;
    }
    let mut flags = 0;
    let span = Span { end: ctx.len(), ..span };
    if transport(ctx, span, quoted, &mut flags).is_none() { Kind::Malformed } else { Kind::Error }
}

/// Reads the IP header at `at`.
#[inline(always)]
fn ip(
    ctx: &TcContext,
    at: u32,
    ip6_: bool,
    tuple: &mut Tuple,
    fragment: &mut FragmentKey,
    first: &mut bool,
) -> Result<Span, Kind> {
    if ip6_ { ip6(ctx, at, tuple, fragment, first) } else { ip4(ctx, at, tuple, fragment, first) }
}

#[inline(always)]
fn ip4(
    ctx: &TcContext,
    at: u32,
    tuple: &mut Tuple,
    fragment: &mut FragmentKey,
    first: &mut bool,
) -> Result<Span, Kind> {
    let Ok(header) = ctx.load::<Ip4>(at as usize) else { return Err(Kind::NoAddresses) };
    tuple.source = mapped(header.source);
    tuple.destination = mapped(header.destination);
    tuple.protocol = header.protocol;
    let length = u32::from(header.version & 15) * 4;
    if header.version >> 4 != 4 || length < 20 {
        return Err(Kind::Malformed);
    }
    let pieces = u16::from_be(header.fragment);
    let (more, offset) = (pieces & 0x2000 != 0, pieces & 0x1fff);
    if more || offset != 0 {
        is_piece(fragment, tuple, u32::from(header.id), header.protocol);
        *first = offset == 0;
    }
    let total = u32::from(u16::from_be(header.length));
    // Zero stands for more than 64 KiB, which segmentation will cut.
    let end = if total == 0 { ctx.len() } else { at + total };
    Ok(Span { l4: at + length, end, later: offset != 0, ttl: header.ttl })
}

#[inline(always)]
fn ip6(
    ctx: &TcContext,
    at: u32,
    tuple: &mut Tuple,
    fragment: &mut FragmentKey,
    first: &mut bool,
) -> Result<Span, Kind> {
    let Ok(header) = ctx.load::<Ip6>(at as usize) else { return Err(Kind::NoAddresses) };
    tuple.source = header.source;
    tuple.destination = header.destination;
    let mut next = header.next;
    let mut l4 = at + 40;
    let mut later = false;
    for _ in 0..=MAX_EXTENSIONS {
        match next {
            // Hop by hop, routing, destination options.
            0 | 43 | 60 => {
                let Ok([following, length]) = ctx.load::<[u8; 2]>(l4 as usize) else { return Err(Kind::Malformed) };
                next = following;
                l4 += (u32::from(length) + 1) * 8;
            }
            44 => {
                let Ok([head, id]) = ctx.load::<[u32; 2]>(l4 as usize) else { return Err(Kind::Malformed) };
                let head = u32::from_be(head);
                next = (head >> 24) as u8;
                l4 += 8;
                // One that is neither preceded nor followed by another is whole (RFC 6946).
                if head & 0xfff9 != 0 {
                    is_piece(fragment, tuple, id, next);
                    later = head & 0xfff8 != 0;
                    *first = !later;
                    if later {
                        break;
                    }
                }
            }
            _ => break,
        }
    }
    if !later && matches!(next, 0 | 43 | 44 | 60) {
        return Err(Kind::Malformed);
    }
    tuple.protocol = next;
    let payload = u32::from(u16::from_be(header.length));
    let end = if payload == 0 { ctx.len() } else { at + 40 + payload };
    Ok(Span { l4, end, later, ttl: header.ttl })
}

/// Notes the identification of a fragment.
#[inline(always)]
fn is_piece(fragment: &mut FragmentKey, tuple: &Tuple, id: u32, protocol: u8) {
    fragment.source = tuple.source;
    fragment.destination = tuple.destination;
    fragment.id = id;
    fragment.protocol = protocol;
    fragment.pad = [0; 3];
}
