//! From bytes to addresses and ports.

use aya_ebpf::programs::TcContext;
use skep_ebpf_common::{
    Address, SCTP, TCP, UDP,
    conntrack::{FragmentKey, Tuple},
    dsr, mapped,
    packet::{ETHERNET, ETHERTYPE_IP4, ETHERTYPE_IP6, ICMP, ICMP6, Ip4, Ip6, is_nobodys},
    sctp,
};

use super::maps::FRAGMENTS;

/// Headers of IPv6 that may come before the transport's; more than that is nobody's honest packet.
const MAX_EXTENSIONS: u32 = 4;

/// What was recognised.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing for these programs.
    Other,
    /// TCP, UDP or SCTP; the tuple is the packet's.
    Flow,
    /// An ICMP error about one of these; the tuple is that of the packet it quotes.
    Error,
}

/// Which part of a datagram.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    Whole,
    /// The first fragment: it has the ports.
    First,
    /// Another fragment.
    Later,
}

/// What is known of a packet.
#[repr(C)]
pub(super) struct Packet {
    pub(super) tuple: Tuple,
    /// Where the IP header of the tuple begins.
    pub(super) l3: u32,
    /// Where the transport header of the tuple begins (meaningless in a later fragment).
    pub(super) l4: u32,
    /// Where the ICMP header begins, in an error.
    pub(super) icmp: u32,
    /// The frontend that an option of another node names (see [`skep_ebpf_common::dsr`]), if `noted`.
    pub(super) front: Address,
    pub(super) front_port: u16,
    pub(super) noted: bool,
    /// Key of a fragment's ports; filled for fragments.
    pub(super) fragment: FragmentKey,
    /// One past the last byte of the packet, by its own account.
    pub(super) end: u32,
    pub(super) ip6: bool,
    pub(super) ttl: u8,
    /// Flags of a TCP segment, or what comes to the same of SCTP.
    pub(super) flags: u8,
    pub(super) piece: Piece,
}

impl Packet {
    /// Notes the identification of a fragment.
    #[inline(always)]
    fn is_piece(&mut self, piece: Piece, id: u32, protocol: u8) {
        self.piece = piece;
        self.fragment.source = self.tuple.source;
        self.fragment.destination = self.tuple.destination;
        self.fragment.id = id;
        self.fragment.protocol = protocol;
    }
}

/// May the packet carry an option of another node?
#[inline(always)]
pub(super) fn may_be_noted(ctx: &TcContext) -> bool {
    let Ok(ethertype) = ctx.load::<u16>(12) else { return false };
    match u16::from_be(ethertype) {
        // A header of seven words or more.
        ETHERTYPE_IP4 => ctx.load::<u8>(ETHERNET as usize).is_ok_and(|version| version & 15 >= 7),
        ETHERTYPE_IP6 => ctx.load::<u8>((ETHERNET + 6) as usize).is_ok_and(|next| next == dsr::DESTINATION_OPTIONS),
        _ => false,
    }
}

/// Reads the option of another node, which is the first of its kind.
#[inline(always)]
fn note(ctx: &TcContext, packet: &mut Packet) {
    if packet.ip6 {
        let at = (ETHERNET + 40) as usize;
        let Ok([_, a, b, c]) = ctx.load::<[u8; 4]>(at) else { return };
        if packet.l4 < ETHERNET + 40 + dsr::LENGTH6 || [a, b, c] != dsr::HEAD6 {
            return;
        }
        let Ok(address) = ctx.load::<Address>(at + 4) else { return };
        let Ok(port) = ctx.load::<u16>(at + 20) else { return };
        (packet.front, packet.front_port) = (address, port);
    } else {
        let at = (ETHERNET + 20) as usize;
        let Ok([head, port]) = ctx.load::<[u16; 2]>(at) else { return };
        if head.to_ne_bytes() != dsr::HEAD4 {
            return;
        }
        let Ok(address) = ctx.load::<u32>(at + 4) else { return };
        (packet.front, packet.front_port) = (mapped(address), port);
    }
    packet.noted = true;
}

/// Where an IP packet is sent to, and nothing else of it.
#[inline(always)]
pub(super) fn destination(ctx: &TcContext) -> Option<Address> {
    let at = ETHERNET as usize;
    match u16::from_be(ctx.load::<u16>(12).ok()?) {
        ETHERTYPE_IP4 => ctx.load::<u32>(at + 16).ok().map(mapped),
        ETHERTYPE_IP6 => ctx.load::<Address>(at + 24).ok(),
        _ => None,
    }
}

/// Reads a packet. What `packet` held before is of no account.
#[inline(always)]
pub(super) fn parse(ctx: &TcContext, packet: &mut Packet) -> Kind {
    packet.flags = 0;
    packet.noted = false;
    let Ok(ethertype) = ctx.load::<u16>(12) else { return Kind::Other };
    match u16::from_be(ethertype) {
        ETHERTYPE_IP4 => packet.ip6 = false,
        ETHERTYPE_IP6 => packet.ip6 = true,
        _ => return Kind::Other,
    }
    if !ip(ctx, ETHERNET, packet) || packet.end > ctx.len() {
        return Kind::Other;
    }
    if packet.piece == Piece::Whole && may_be_noted(ctx) {
        note(ctx, packet);
    }
    if is_nobodys(&packet.tuple.source, packet.ip6) {
        return Kind::Other;
    }
    match packet.tuple.protocol {
        TCP | UDP => transport(ctx, packet),
        SCTP => {
            // Answers of its backends always come back by this node.
            packet.noted = false;
            transport(ctx, packet)
        }
        ICMP if !packet.ip6 => error(ctx, packet),
        ICMP6 if packet.ip6 => error(ctx, packet),
        _ => Kind::Other,
    }
}

#[inline(always)]
fn transport(ctx: &TcContext, packet: &mut Packet) -> Kind {
    if packet.piece == Piece::Later {
        // SAFETY: an aliased value has another datagram's ports, whose flow does not fit these addresses.
        let Some(ports) = (unsafe { FRAGMENTS.get(&packet.fragment) }).copied() else { return Kind::Other };
        packet.tuple.source_port = ports.source;
        packet.tuple.destination_port = ports.destination;
        return Kind::Flow;
    }
    let header = match packet.tuple.protocol {
        TCP => 20,
        SCTP => sctp::HEADER + 4,
        _ => 8,
    };
    if packet.l4 + header > packet.end {
        return Kind::Other;
    }
    let Ok(ports) = ctx.load::<[u16; 2]>(packet.l4 as usize) else { return Kind::Other };
    packet.tuple.source_port = ports[0];
    packet.tuple.destination_port = ports[1];
    if packet.tuple.protocol == TCP {
        let Ok([offset, flags]) = ctx.load::<[u8; 2]>((packet.l4 + 12) as usize) else { return Kind::Other };
        let length = u32::from(offset >> 4) * 4;
        if length < 20 || packet.l4 + length > packet.end {
            return Kind::Other;
        }
        packet.flags = flags;
    } else if packet.tuple.protocol == SCTP {
        let Ok(chunk) = ctx.load::<u8>((packet.l4 + sctp::HEADER) as usize) else { return Kind::Other };
        packet.flags = sctp::flags(chunk);
    } else {
        let Ok(length) = ctx.load::<u16>((packet.l4 + 4) as usize) else { return Kind::Other };
        let length = u32::from(u16::from_be(length));
        if length < 8 || (packet.piece == Piece::Whole && packet.l4 + length > packet.end) {
            return Kind::Other;
        }
    }
    Kind::Flow
}

#[inline(always)]
fn error(ctx: &TcContext, packet: &mut Packet) -> Kind {
    if packet.piece != Piece::Whole || packet.l4 + 8 > packet.end {
        return Kind::Other;
    }
    let Ok(kind) = ctx.load::<u8>(packet.l4 as usize) else { return Kind::Other };
    let is_error = if packet.ip6 {
        // Unreachable, too big, time exceeded, parameter problem.
        matches!(kind, 1..=4)
    } else {
        // Unreachable, time exceeded, parameter problem.
        matches!(kind, 3 | 11 | 12)
    };
    if !is_error {
        return Kind::Other;
    }
    packet.icmp = packet.l4;
    let (end, ttl) = (packet.end, packet.ttl);
    let inner = packet.l4 + 8;
    if !ip(ctx, inner, packet) {
        return Kind::Other;
    }
    // The quote ends where the error ends, whatever its own header says.
    packet.end = end;
    packet.ttl = ttl;
    if packet.piece == Piece::Later || !matches!(packet.tuple.protocol, TCP | UDP | SCTP) || packet.l4 + 4 > end {
        return Kind::Other;
    }
    let Ok(ports) = ctx.load::<[u16; 2]>(packet.l4 as usize) else { return Kind::Other };
    packet.tuple.source_port = ports[0];
    packet.tuple.destination_port = ports[1];
    Kind::Error
}

/// Reads the IP header at `at`. False if it is none.
#[inline(always)]
fn ip(ctx: &TcContext, at: u32, packet: &mut Packet) -> bool {
    packet.l3 = at;
    packet.piece = Piece::Whole;
    if packet.ip6 { ip6(ctx, at, packet) } else { ip4(ctx, at, packet) }
}

#[inline(always)]
fn ip4(ctx: &TcContext, at: u32, packet: &mut Packet) -> bool {
    let Ok(header) = ctx.load::<Ip4>(at as usize) else { return false };
    let length = u32::from(header.version & 15) * 4;
    let total = u32::from(u16::from_be(header.length));
    if header.version >> 4 != 4 || length < 20 || total < length {
        return false;
    }
    packet.end = at + total;
    packet.l4 = at + length;
    packet.ttl = header.ttl;
    packet.tuple.source = mapped(header.source);
    packet.tuple.destination = mapped(header.destination);
    packet.tuple.protocol = header.protocol;
    let fragment = u16::from_be(header.fragment);
    if fragment & 0x3fff != 0 {
        let piece = if fragment & 0x1fff == 0 { Piece::First } else { Piece::Later };
        packet.is_piece(piece, u32::from(header.id), header.protocol);
    }
    true
}

#[inline(always)]
fn ip6(ctx: &TcContext, at: u32, packet: &mut Packet) -> bool {
    let Ok(header) = ctx.load::<Ip6>(at as usize) else { return false };
    if u32::from_be(header.version) >> 28 != 6 {
        return false;
    }
    packet.end = at + 40 + u32::from(u16::from_be(header.length));
    packet.ttl = header.ttl;
    packet.tuple.source = header.source;
    packet.tuple.destination = header.destination;
    let mut next = header.next;
    let mut l4 = at + 40;
    for _ in 0..MAX_EXTENSIONS {
        match next {
            // Hop by hop, routing, destination options.
            0 | 43 | 60 => {
                let Ok([following, length]) = ctx.load::<[u8; 2]>(l4 as usize) else { return false };
                next = following;
                l4 += (u32::from(length) + 1) * 8;
            }
            44 => {
                let Ok([first, id]) = ctx.load::<[u32; 2]>(l4 as usize) else { return false };
                let first = u32::from_be(first);
                next = (first >> 24) as u8;
                l4 += 8;
                // One that is neither preceded nor followed by another is whole (RFC 6946).
                if first & 0xfff9 != 0 {
                    let piece = if first & 0xfff8 == 0 { Piece::First } else { Piece::Later };
                    packet.is_piece(piece, id, next);
                    if piece == Piece::Later {
                        break;
                    }
                }
            }
            _ => break,
        }
    }
    packet.l4 = l4;
    packet.tuple.protocol = next;
    true
}
