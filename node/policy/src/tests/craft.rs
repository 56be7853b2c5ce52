//! Packets, byte by byte. Checksums are left out: the programs do not look at them.

use std::net::{IpAddr, SocketAddr};

pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const ACK: u8 = 16;
pub(super) const FIN: u8 = 1;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const SCTP: u8 = 132;
pub(super) const ICMP: u8 = 1;
pub(super) const ICMP6: u8 = 58;

/// A segment with these flags.
pub(super) fn tcp(from: SocketAddr, to: SocketAddr, flags: u8) -> Vec<u8> {
    packet(from.ip(), to.ip(), TCP, &tcp_segment(from.port(), to.port(), flags))
}

pub(super) fn tcp_segment(from: u16, to: u16, flags: u8) -> Vec<u8> {
    let mut bytes = [from.to_be_bytes(), to.to_be_bytes()].concat();
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    bytes.extend(b"twelve bytes");
    bytes
}

pub(super) fn udp(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut bytes = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    bytes.extend([0, 24, 0, 0]);
    bytes.extend(b"sixteen bytes...");
    packet(from.ip(), to.ip(), UDP, &bytes)
}

/// A packet of a protocol with ports at its beginning, as UDP and SCTP have them, or without.
pub(super) fn other(from: SocketAddr, to: SocketAddr, protocol: u8) -> Vec<u8> {
    let mut bytes = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    bytes.extend([0; 20]);
    packet(from.ip(), to.ip(), protocol, &bytes)
}

/// An ICMP message of that type, of the addresses' family, with an identifier.
pub(super) fn icmp(from: IpAddr, to: IpAddr, kind: u8, id: u16) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0];
    bytes.extend(id.to_be_bytes());
    bytes.extend([0; 18]);
    packet(from, to, if from.is_ipv4() { ICMP } else { ICMP6 }, &bytes)
}

/// "Port unreachable" about a frame.
pub(super) fn error(from: IpAddr, to: IpAddr, about: &[u8]) -> Vec<u8> {
    let ip6 = from.is_ipv6();
    let mut bytes = if ip6 { vec![1, 4, 0, 0, 0, 0, 0, 0] } else { vec![3, 3, 0, 0, 0, 0, 0, 0] };
    bytes.extend(&about[14..14 + if ip6 { 48 } else { 28 }]);
    packet(from, to, if ip6 { ICMP6 } else { ICMP }, &bytes)
}

/// A piece of a datagram whose transport header and payload are `whole`: from `start` (a multiple of 8), so long.
pub(super) fn fragment(from: IpAddr, to: IpAddr, protocol: u8, whole: &[u8], start: usize, length: usize) -> Vec<u8> {
    let piece = &whole[start..start + length];
    let more = start + length < whole.len();
    match (from, to) {
        (IpAddr::V4(_), _) => {
            let mut frame = packet(from, to, protocol, piece);
            let field = (start / 8) as u16 | if more { 0x2000 } else { 0 };
            frame[20..22].copy_from_slice(&field.to_be_bytes());
            frame
        }
        (IpAddr::V6(_), _) => {
            let mut bytes = vec![protocol, 0];
            bytes.extend((start as u16 | u16::from(more)).to_be_bytes());
            bytes.extend(77_u32.to_be_bytes());
            bytes.extend(piece);
            packet(from, to, 44, &bytes)
        }
    }
}

/// A whole frame with that in its IP packet.
pub(super) fn packet(from: IpAddr, to: IpAddr, protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((20 + body.len() as u16).to_be_bytes());
            frame.extend([0, 77, 0, 0, 64, protocol, 0, 0]);
            frame.extend(from.octets());
            frame.extend(to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((body.len() as u16).to_be_bytes());
            frame.extend([protocol, 64]);
            frame.extend(from.octets());
            frame.extend(to.octets());
        }
        _ => panic!("two families in one packet"),
    }
    frame.extend(body);
    frame
}
