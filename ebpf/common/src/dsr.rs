//! Direct server return: what the node that a client asked tells the backend's node in the packet itself.
//!
//! The first node translates the destination only. It puts the address and port that the client asked (the frontend) into an
//! option of the IP header: of the first segment of a TCP connection, and of every datagram that is not in pieces. The
//! backend's node takes it out, so that the pod sees a plain packet of the client's, and gives the pod's answers the frontend as
//! their source. The IPv4 option is the one Cilium uses for the same purpose.
//!
//! ```text
//! IPv4 option, 8 bytes, right behind the first 20 of the header
//!   9a (copied on fragmentation, class 0, number 26)  08  port:2  address:4
//! IPv6 destination options header, 24 bytes, right behind the first 40 (RFC 8200, 4.6)
//!   next header  02  1b (skipped by who does not know it, not changed on the way)  14  address:16  port:2  00 00
//! ```

use crate::Address;

/// Length of the IPv4 option.
pub const LENGTH4: u32 = 8;
/// Length of the IPv6 destination options header.
pub const LENGTH6: u32 = 24;
/// Type and length of the IPv4 option, as they lie in memory.
pub const HEAD4: [u8; 2] = [0x9a, LENGTH4 as u8];
/// The IPv6 header's length in 8 bytes less one, the option's type, and its length.
pub const HEAD6: [u8; 3] = [2, 0x1b, 20];
/// `IPPROTO_DSTOPTS`.
pub const DESTINATION_OPTIONS: u8 = 60;

/// What the option adds to a packet.
#[inline(always)]
pub const fn length(ip6: bool) -> u32 {
    if ip6 { LENGTH6 } else { LENGTH4 }
}

/// Key of `LOCALS`: an endpoint on this node as a service port names it. The value is its key in `BACKENDS`.
///
/// An option is believed only if the packet's destination is one of the endpoints of the frontend it names; else anybody could
/// make a pod speak as somebody else.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalKey {
    /// The endpoint's address.
    pub address: Address,
    /// Key of `SERVICES`.
    pub service: u32,
    /// The endpoint's port, network order.
    pub port: u16,
    /// Zero.
    pub pad: u16,
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), made of integers only, without hidden padding (see the test).
    unsafe impl aya::Pod for super::LocalKey {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_has_no_hidden_padding_and_headers_are_whole_words() {
        assert_eq!(size_of::<LocalKey>(), 16 + 4 + 2 + 2);
        assert_eq!((LENGTH4 % 4, LENGTH6 % 8), (0, 0));
        assert_eq!((u32::from(HEAD6[0]) + 1) * 8, LENGTH6);
        assert_eq!(u32::from(HEAD6[2]) + 4, LENGTH6);
    }
}
