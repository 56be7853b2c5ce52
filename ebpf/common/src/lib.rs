//! The contract between the kernel programs and user space: keys, values and constants of every map.
//!
//! # Byte order
//! - An address is four words ([`Address`]) whose bytes *in memory* are an IPv6 address in network order, exactly as the
//!   kernel keeps `bpf_sock_addr.user_ip6`. An IPv4 address is written as `::ffff:a.b.c.d`, which is also how an IPv6
//!   socket names it. Build one with [`address`] or [`mapped`], read one with [`octets`].
//! - A port is a `u16` whose bytes in memory are in network order. Build one with [`port`], read one with [`host_port`].
//! - Everything else (ids, generations, counts) is in the host's order.
//!
//! # Layout
//! Every type is `repr(C)` with its padding spelled out (and always zero), because the kernel hashes and compares the
//! raw bytes of a key. Changing any of them means raising [`LAYOUT_VERSION`].
//!
//! # Seals
//! Since Linux 6.1 a hash map may hand the memory of a removed element to the next insertion at once, so a program that
//! still holds a pointer can see another entry's bytes. Values that steer traffic therefore carry a seal: a checksum over
//! their key and fields. A program copies the value, recomputes the seal and looks again when it does not match.
#![cfg_attr(not(test), no_std)]

pub mod conntrack;
pub mod dsr;
pub mod load;
pub mod packet;
pub mod pod;
pub mod policy;
pub mod sctp;
pub mod service;
pub mod tcp;

pub use service::{
    AddressValue, AffinityKey, AffinityValue, BackendValue, FrontendKey, FrontendValue, NAME_LEN, PeerKey, PeerValue,
    Segment, ServiceCounters, ServiceInfo, ServiceValue, SlotKey, SlotValue, SourceRange, StickyKey, StickyValue,
    address_bits, kind, service_flags,
};

/// Version of the pinned layout: names, keys and values of the maps below `<bpf root>/v<LAYOUT_VERSION>`.
pub const LAYOUT_VERSION: u32 = 3;

/// `IPPROTO_TCP`, as in [`FrontendKey::protocol`].
pub const TCP: u8 = 6;
/// `IPPROTO_UDP`, as in [`FrontendKey::protocol`].
pub const UDP: u8 = 17;
/// `IPPROTO_SCTP`, as in [`FrontendKey::protocol`].
pub const SCTP: u8 = 132;

/// An address of either family as the maps keep it.
pub type Address = [u32; 4];

/// Third word of an IPv4 address in the maps: `00 00 ff ff` in memory.
pub const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// An address as the maps keep it, from an IPv6 address (an IPv4 one in its mapped form).
#[inline(always)]
pub const fn address(octets: [u8; 16]) -> Address {
    let o = octets;
    [
        u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
        u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
        u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
        u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
    ]
}

/// The octets of an address kept in a map.
#[inline(always)]
pub const fn octets(address: Address) -> [u8; 16] {
    let (a, b) = (address[0].to_ne_bytes(), address[1].to_ne_bytes());
    let (c, d) = (address[2].to_ne_bytes(), address[3].to_ne_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
}

/// An IPv4 address, given as its word in network order, as the maps keep it.
#[inline(always)]
pub const fn mapped(ip4: u32) -> Address {
    [0, 0, MAPPED, ip4]
}

/// Is it an IPv4 address?
#[inline(always)]
pub const fn is_mapped(address: &Address) -> bool {
    address[0] == 0 && address[1] == 0 && address[2] == MAPPED
}

/// The unspecified address of the same family: under it `FRONTENDS` keeps the node ports.
#[inline(always)]
pub const fn unspecified(address: &Address) -> Address {
    if is_mapped(address) { mapped(0) } else { [0; 4] }
}

/// A port as the maps keep it, from the host's order.
#[inline(always)]
pub const fn port(host_order: u16) -> u16 {
    host_order.to_be()
}

/// A port kept in a map, in the host's order.
#[inline(always)]
pub const fn host_port(port: u16) -> u16 {
    u16::from_be(port)
}

/// Checksum over the words of a key and its value; see the crate's documentation on seals.
#[inline(always)]
pub const fn seal<const N: usize>(words: [u32; N]) -> u32 {
    let mut hash = 0x5ec9_d3b1_0f4a_7c15_u64;
    let mut i = 0;
    while i < N {
        hash = (hash ^ words[i] as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 29;
        i += 1;
    }
    (hash >> 32) as u32
}
