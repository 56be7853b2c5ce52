//! Plain packets, read where they lie.
//!
//! An IP header begins 14 bytes behind an address the driver aligned, so words of four bytes are read as two halves.

use core::mem::{size_of, transmute};

use aya_ebpf::programs::XdpContext;
use skep_ebpf_common::{
    Address, TCP, UDP,
    conntrack::Tuple,
    mapped,
    packet::{ETHERNET, fold, is_nobodys, tcp_flags},
};

/// A word in two halves, as they lie in a packet.
pub(super) type Halves = [u16; 2];

/// A hardware address. (Of bytes, the compiler would copy it byte by byte.)
pub(super) type Hardware = [u16; 3];

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Ethernet {
    pub(super) destination: Hardware,
    pub(super) source: Hardware,
    kind: u16,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Ip4 {
    version: u8,
    tos: u8,
    length: u16,
    id: u16,
    fragment: u16,
    pub(super) ttl: u8,
    protocol: u8,
    pub(super) check: u16,
    pub(super) source: Halves,
    pub(super) destination: Halves,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Ip6 {
    version: Halves,
    length: u16,
    next: u8,
    pub(super) ttl: u8,
    pub(super) source: [Halves; 4],
    pub(super) destination: [Halves; 4],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Tcp {
    ports: Halves,
    numbers: [Halves; 2],
    offset: u8,
    flags: u8,
    window: u16,
    check: u16,
    urgent: u16,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Udp {
    ports: Halves,
    length: u16,
    check: u16,
}

/// The bytes of a frame.
pub(super) struct Frame {
    start: usize,
    end: usize,
}

impl Frame {
    #[inline(always)]
    pub(super) fn new(ctx: &XdpContext) -> Self {
        Self { start: ctx.data(), end: ctx.data_end() }
    }

    /// Where something lies that begins there, if it is there as a whole. `T` needs no more than two bytes' alignment, and
    /// any bytes are one.
    #[inline(always)]
    pub(super) fn at<T: Copy>(&self, offset: usize) -> Option<*mut T> {
        let at = self.start + offset;
        (at + size_of::<T>() <= self.end).then_some(at as *mut T)
    }

    #[inline(always)]
    fn read<T: Copy>(&self, offset: usize) -> Option<T> {
        // SAFETY: `at` has checked the bounds.
        self.at::<T>(offset).map(|at| unsafe { at.read() })
    }

    #[inline(always)]
    pub(super) fn ethertype(&self) -> Option<u16> {
        self.read::<Ethernet>(0).map(|header| header.kind)
    }

    /// Does the frame have so many bytes?
    #[inline(always)]
    fn holds(&self, length: usize) -> bool {
        self.start + length <= self.end
    }
}

/// What is known of a plain packet.
pub(super) struct Packet {
    pub(super) tuple: Tuple,
    /// From the IP header on, bytes.
    pub(super) length: u16,
    /// Where the transport's checksum lies.
    pub(super) check: usize,
}

/// Where the transport's header begins.
pub(super) const fn transport<const IP6: bool>() -> usize {
    ETHERNET as usize + if IP6 { size_of::<Ip6>() } else { size_of::<Ip4>() }
}

/// Reads a plain packet; `None` if it is not one.
#[inline(always)]
pub(super) fn read<const IP6: bool>(frame: &Frame) -> Option<Packet> {
    let (source, destination, protocol, length) = if IP6 { ip6(frame) } else { ip4(frame) }?;
    if is_nobodys(&source, IP6) || !frame.holds(ETHERNET as usize + usize::from(length)) {
        return None;
    }
    let l4 = transport::<IP6>();
    // Of the transport's header and payload.
    let rest = length.checked_sub((l4 - ETHERNET as usize) as u16)?;
    let (ports, check, at) = match protocol {
        TCP => {
            let header = frame.read::<Tcp>(l4)?;
            let flags = tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST;
            let size = u16::from(header.offset >> 4) * 4;
            if header.flags & flags != 0 || size < 20 || size > rest {
                return None;
            }
            (header.ports, header.check, l4 + 16)
        }
        UDP => {
            let header = frame.read::<Udp>(l4)?;
            let size = u16::from_be(header.length);
            if size < 8 || size > rest {
                return None;
            }
            (header.ports, header.check, l4 + 6)
        }
        _ => return None,
    };
    if is_unfinished(check, &source, &destination, protocol, rest) {
        return None;
    }
    let tuple = tuple(&source, &destination, word(ports), protocol);
    Some(Packet { tuple, length, check: at })
}

/// A tuple, made of words: zeroing its last bytes one by one would cost more than all the rest.
#[inline(always)]
const fn tuple(source: &Address, destination: &Address, ports: u32, protocol: u8) -> Tuple {
    let ([a, b, c, d], [e, f, g, h]) = (*source, *destination);
    // SAFETY: both have the same size, and any words are a tuple.
    unsafe { transmute::<[u32; 10], Tuple>([a, b, c, d, e, f, g, h, ports, protocol as u32]) }
}

/// Is the checksum still to be completed by the device that sends the packet (`CHECKSUM_PARTIAL`)? It holds the sum of the
/// pseudo header then. That comes from senders on the same machine; a finished one that looks like it is one in 65,536.
#[inline(always)]
fn is_unfinished(check: u16, source: &Address, destination: &Address, protocol: u8, length: u16) -> bool {
    let mut sum = u64::from(u16::from_be_bytes([0, protocol]).to_be()) + u64::from(length.to_be());
    for word in 0..4 {
        sum += u64::from(source[word]) + u64::from(destination[word]);
    }
    // An IPv4 address is mapped here: its third word adds a multiple of 65,535 twice, which is nothing.
    fold(sum) == check
}

/// Source, destination, protocol and length of an IPv4 packet without options that is no fragment.
#[inline(always)]
fn ip4(frame: &Frame) -> Option<(Address, Address, u8, u16)> {
    let header = frame.read::<Ip4>(ETHERNET as usize)?;
    // Neither more to come nor an offset.
    if header.version != 0x45 || u16::from_be(header.fragment) & 0x3fff != 0 || header.ttl <= 1 {
        return None;
    }
    let (source, destination) = (mapped(word(header.source)), mapped(word(header.destination)));
    Some((source, destination, header.protocol, u16::from_be(header.length)))
}

/// The same of an IPv6 packet without extension headers.
#[inline(always)]
fn ip6(frame: &Frame) -> Option<(Address, Address, u8, u16)> {
    let header = frame.read::<Ip6>(ETHERNET as usize)?;
    if u16::from_be(header.version[0]) >> 12 != 6 || header.ttl <= 1 {
        return None;
    }
    let length = u16::from_be(header.length).checked_add(size_of::<Ip6>() as u16)?;
    Some((header.source.map(word), header.destination.map(word), header.next, length))
}

/// The word that two halves are. (The target is little endian.)
#[inline(always)]
const fn word([low, high]: Halves) -> u32 {
    low as u32 | (high as u32) << 16
}

/// The halves of a word.
#[inline(always)]
pub(super) const fn halves(word: u32) -> Halves {
    [word as u16, (word >> 16) as u16]
}
