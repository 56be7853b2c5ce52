//! Packets, byte by byte, and a check of every checksum in them by recomputation.

use std::net::{IpAddr, SocketAddr};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;
pub(crate) const FIN: u8 = 1;

/// Addresses of the device under test and of its neighbour.
pub(crate) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const NEIGHBOUR: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A TCP, UDP or SCTP packet to be. Of SCTP `flags` are the type of its only chunk.
#[derive(Clone, Debug)]
pub(crate) struct Craft {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) protocol: u8,
    pub(crate) flags: u8,
    pub(crate) payload: Vec<u8>,
    /// IPv4 options, or IPv6 extension headers (the first byte of each chain entry is filled in).
    pub(crate) options: Vec<u8>,
    pub(crate) ttl: u8,
    pub(crate) checksum: bool,
}

impl Craft {
    pub(crate) fn new(protocol: u8, from: &str, to: &str) -> Self {
        Self {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            protocol,
            flags: SYN,
            payload: b"payload".to_vec(),
            options: Vec::new(),
            ttl: 64,
            checksum: true,
        }
    }

    pub(crate) fn flags(mut self, flags: u8) -> Self {
        self.flags = flags;
        self
    }

    fn is_ip6(&self) -> bool {
        self.to.is_ipv6()
    }

    /// The transport header and payload.
    pub(crate) fn segment(&self) -> Vec<u8> {
        if self.protocol == SCTP {
            return self.sctp();
        }
        let mut bytes = Vec::new();
        bytes.extend(self.from.port().to_be_bytes());
        bytes.extend(self.to.port().to_be_bytes());
        let at = if self.protocol == TCP {
            bytes.extend(1000_u32.to_be_bytes());
            bytes.extend(2000_u32.to_be_bytes());
            bytes.extend([0x60, self.flags, 0x20, 0, 0, 0, 0, 0]);
            bytes.extend([2, 4, 5, 0xb4]);
            16
        } else {
            bytes.extend((8 + self.payload.len() as u16).to_be_bytes());
            bytes.extend([0, 0]);
            6
        };
        bytes.extend(&self.payload);
        if self.checksum {
            let check = !sum(&[&pseudo(self.from.ip(), self.to.ip(), self.protocol, bytes.len()), &bytes]);
            let check = if check == 0 && self.protocol == UDP { 0xffff } else { check };
            bytes[at..at + 2].copy_from_slice(&check.to_be_bytes());
        }
        bytes
    }

    fn sctp(&self) -> Vec<u8> {
        let mut bytes = [self.from.port().to_be_bytes(), self.to.port().to_be_bytes()].concat();
        bytes.extend(0x5c7b_0001_u32.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend([self.flags, 0]);
        bytes.extend((4 + self.payload.len() as u16).to_be_bytes());
        bytes.extend(&self.payload);
        if self.checksum {
            let check = crc32c(&bytes).to_le_bytes();
            bytes[8..12].copy_from_slice(&check);
        }
        bytes
    }

    /// The whole frame.
    pub(crate) fn frame(&self) -> Vec<u8> {
        ethernet(self.is_ip6(), self.ip(&self.segment(), 0))
    }

    /// From the IP header on.
    fn ip(&self, body: &[u8], fragment: u16) -> Vec<u8> {
        if self.is_ip6() {
            let (next, mut extension) = (self.protocol, self.options.clone());
            let first = if extension.is_empty() {
                next
            } else {
                extension[0] = next;
                60
            };
            extension.extend(body);
            ip6(self.from.ip(), self.to.ip(), first, self.ttl, &extension)
        } else {
            ip4(self.from.ip(), self.to.ip(), self.protocol, self.ttl, fragment, &self.options, body)
        }
    }

    /// The same datagram in two pieces, the first with so many bytes (a multiple of 8) of the segment.
    pub(crate) fn fragments(&self, first: usize) -> [Vec<u8>; 2] {
        let segment = self.segment();
        let (head, tail) = segment.split_at(first);
        if !self.is_ip6() {
            let blocks = (first / 8) as u16;
            return [ethernet(false, self.ip(head, 0x2000)), ethernet(false, self.ip(tail, blocks))];
        }
        let piece = |body: &[u8], offset: u16, more: u16| {
            let mut bytes = vec![self.protocol, 0];
            bytes.extend((offset | more).to_be_bytes());
            bytes.extend(77_u32.to_be_bytes());
            bytes.extend(body);
            ethernet(true, ip6(self.from.ip(), self.to.ip(), 44, self.ttl, &bytes))
        };
        [piece(head, 0, 1), piece(tail, first as u16, 0)]
    }
}

/// An ICMP error of that type and code, from `source` to `destination`, about the packet in `quoted` (a frame), of which it
/// carries the IP header and `bytes` more.
pub(crate) fn error(source: IpAddr, destination: IpAddr, kind: u8, code: u8, quoted: &[u8], bytes: usize) -> Vec<u8> {
    let ip6_ = destination.is_ipv6();
    let header = if ip6_ { 40 } else { 20 };
    let mut body = vec![kind, code, 0, 0, 0, 0, 5, 0x78];
    body.extend(&quoted[14..14 + header + bytes]);
    let check = if ip6_ { !sum(&[&pseudo(source, destination, 58, body.len()), &body]) } else { !sum(&[&body]) };
    body[2..4].copy_from_slice(&check.to_be_bytes());
    let packet =
        if ip6_ { ip6(source, destination, 58, 60, &body) } else { ip4(source, destination, 1, 60, 0, &[], &body) };
    ethernet(ip6_, packet)
}

fn ethernet(is_ip6: bool, packet: Vec<u8>) -> Vec<u8> {
    let mut frame = [MAC, NEIGHBOUR].concat();
    frame.extend(if is_ip6 { [0x86, 0xdd] } else { [8, 0] });
    frame.extend(packet);
    frame
}

fn ip4(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    ttl: u8,
    fragment: u16,
    options: &[u8],
    body: &[u8],
) -> Vec<u8> {
    let header = 20 + options.len();
    let mut bytes = vec![0x40 | (header / 4) as u8, 0];
    bytes.extend(((header + body.len()) as u16).to_be_bytes());
    bytes.extend(77_u16.to_be_bytes());
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([ttl, protocol, 0, 0]);
    bytes.extend(octets(source));
    bytes.extend(octets(destination));
    bytes.extend(options);
    let check = !sum(&[&bytes]);
    bytes[10..12].copy_from_slice(&check.to_be_bytes());
    bytes.extend(body);
    bytes
}

fn ip6(source: IpAddr, destination: IpAddr, next: u8, ttl: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend([next, ttl]);
    bytes.extend(octets(source));
    bytes.extend(octets(destination));
    bytes.extend(body);
    bytes
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let mut bytes = [octets(source), octets(destination)].concat();
    bytes.extend((length as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes
}

/// The sum of the pseudo header, as a packet carries it whose checksum is to be finished by the device that sends it.
pub(crate) fn pseudo_sum(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u16 {
    sum(&[&pseudo(source, destination, protocol, length)])
}

/// One's complement sum of big-endian words.
fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// As SCTP has it, bit by bit.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    };
    !bytes.iter().fold(u32::MAX, step)
}

/// The checksum that an SCTP packet should have, and the one it has.
pub(crate) fn checksums(packet: &[u8]) -> [u32; 2] {
    let has = u32::from_le_bytes(packet[8..12].try_into().unwrap());
    [crc32c(&[&packet[..8], &[0; 4], &packet[12..]].concat()), has]
}

/// How far the checksums of a frame are from right: the header's (of IPv4) and the transport's, each zero if it is right or
/// absent, added as one's complement numbers. `None` for what has none or says of itself what it is not. A change that
/// keeps checksums up to date leaves this as it was.
pub(crate) fn residue(frame: &[u8]) -> Option<u32> {
    let packet = frame.get(14..)?;
    let off = |sum: u16| u32::from(if sum == 0xffff { 0 } else { sum });
    let (header, end, source, destination) = match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet[0] & 15) * 4;
            let total = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
            (header, total, packet.get(12..16)?, packet.get(16..20)?)
        }
        6 => {
            let length = usize::from(u16::from_be_bytes(packet.get(4..6)?.try_into().ok()?));
            (40, 40 + length, packet.get(8..24)?, packet.get(24..40)?)
        }
        _ => return None,
    };
    let of_header = if source.len() == 4 { off(sum(&[packet.get(..header)?])) } else { 0 };
    let mut l4 = header;
    let mut protocol = if source.len() == 4 { packet[9] } else { packet[6] };
    let pieces = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff;
    if source.len() == 4 && pieces != 0 {
        return Some(of_header);
    }
    while source.len() == 16 && matches!(protocol, 0 | 43 | 60) {
        let [next, length] = packet.get(l4..l4 + 2)?.try_into().ok()?;
        protocol = next;
        l4 += 8 * (usize::from(length) + 1);
    }
    if protocol == 44 && source.len() == 16 {
        return Some(of_header);
    }
    let body = packet.get(l4..end)?;
    let pseudo = [source, destination, &(body.len() as u32).to_be_bytes(), &[0, 0, 0, protocol]].concat();
    let of_body = match protocol {
        1 => off(sum(&[body])),
        UDP if body.get(6..8)? == [0, 0] => 0,
        TCP | UDP | 58 => off(sum(&[&pseudo, body])),
        _ => 0,
    };
    Some((of_header << 16) | of_body)
}

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) protocol: u8,
    pub(crate) ttl: u8,
    pub(crate) body: Vec<u8>,
}

/// Reads a whole TCP, UDP, SCTP or ICMP frame and verifies its checksums. ICMP has no ports: zero.
pub(crate) fn read(frame: &[u8]) -> Seen {
    let (seen, l4) = read_ip(&frame[14..]);
    let packet = &frame[14..];
    let body = &packet[l4..];
    let covered: &[u8] = &pseudo(seen.from.ip(), seen.to.ip(), seen.protocol, body.len());
    let is_sound = match seen.protocol {
        1 => sum(&[body]) == 0xffff,
        UDP if body[6..8] == [0, 0] && seen.to.is_ipv4() => true,
        SCTP => checksums(body)[0] == checksums(body)[1],
        _ => sum(&[covered, body]) == 0xffff,
    };
    assert!(is_sound, "the transport checksum of {seen:?} is wrong");
    seen
}

/// Reads the header of a packet, and its ports if it has any; verifies the header's checksum only.
pub(crate) fn read_ip(packet: &[u8]) -> (Seen, usize) {
    let (source, destination, mut protocol, ttl, mut l4): (IpAddr, IpAddr, u8, u8, usize) = if packet[0] >> 4 == 4 {
        let header = usize::from(packet[0] & 15) * 4;
        assert_eq!(sum(&[&packet[..header]]), 0xffff, "the header checksum is wrong");
        let at = |i: usize| <[u8; 4]>::try_from(&packet[i..i + 4]).unwrap();
        (at(12).into(), at(16).into(), packet[9], packet[8], header)
    } else {
        let at = |i: usize| <[u8; 16]>::try_from(&packet[i..i + 16]).unwrap();
        (at(8).into(), at(24).into(), packet[6], packet[7], 40)
    };
    if protocol == 60 {
        protocol = packet[l4];
        l4 += 8 * (usize::from(packet[l4 + 1]) + 1);
    } else if protocol == 44 {
        protocol = packet[l4];
        l4 += 8;
    }
    let port = |i: usize| match protocol {
        TCP | UDP | SCTP => u16::from_be_bytes([packet[l4 + i], packet[l4 + i + 1]]),
        _ => 0,
    };
    let seen = Seen {
        from: (source, port(0)).into(),
        to: (destination, port(2)).into(),
        protocol,
        ttl,
        body: packet[l4..].to_vec(),
    };
    (seen, l4)
}
