//! The contract between the kernel programs and user space: keys, values and constants of every map.
//!
//! # Byte order
//! - An IPv4 address is a `u32` whose bytes *in memory* are the address in network order, exactly as the kernel keeps
//!   `bpf_sock_addr.user_ip4`. Build one with [`address`], read one with [`octets`].
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

pub mod service;

pub use service::{
    BackendValue, PeerKey, PeerValue, ServiceCounters, ServiceInfo, ServiceKey, ServiceValue, SlotKey, SlotValue,
    StickyKey, StickyValue,
};

/// Version of the pinned layout: names, keys and values of the maps below `<bpf root>/v<LAYOUT_VERSION>`.
pub const LAYOUT_VERSION: u32 = 1;

/// `IPPROTO_TCP`, as in [`ServiceKey::protocol`].
pub const TCP: u8 = 6;
/// `IPPROTO_UDP`, as in [`ServiceKey::protocol`].
pub const UDP: u8 = 17;

/// An IPv4 address as the maps keep it.
#[inline(always)]
pub const fn address(octets: [u8; 4]) -> u32 {
    u32::from_ne_bytes(octets)
}

/// The octets of an address kept in a map.
#[inline(always)]
pub const fn octets(address: u32) -> [u8; 4] {
    address.to_ne_bytes()
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
