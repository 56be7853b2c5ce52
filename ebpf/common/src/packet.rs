//! Numbers of the protocols the per-packet programs read, and why they drop.

use crate::Address;

/// Length of an Ethernet header. Programs are attached to Ethernet devices only.
pub const ETHERNET: u32 = 14;
/// EtherType of IPv4, host order.
pub const ETHERTYPE_IP4: u16 = 0x0800;
/// EtherType of IPv6, host order.
pub const ETHERTYPE_IP6: u16 = 0x86dd;
/// `IPPROTO_ICMP`.
pub const ICMP: u8 = 1;
/// `IPPROTO_ICMPV6`.
pub const ICMP6: u8 = 58;

/// The fixed part of an IPv4 header (RFC 791), as it lies in the packet: numbers in network order.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Ip4 {
    /// 4, and the header's length in words.
    pub version: u8,
    /// Class of service.
    pub tos: u8,
    /// Bytes, with this header.
    pub length: u16,
    /// What the fragments of a datagram have in common.
    pub id: u16,
    /// Flags and the fragment's place.
    pub fragment: u16,
    /// Hops left.
    pub ttl: u8,
    /// Of the payload.
    pub protocol: u8,
    /// Over this header.
    pub check: u16,
    /// Sender.
    pub source: u32,
    /// Receiver.
    pub destination: u32,
}

/// An IPv6 header (RFC 8200), as it lies in the packet: numbers in network order.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Ip6 {
    /// 6, class of service and flow label.
    pub version: u32,
    /// Bytes after this header.
    pub length: u16,
    /// Of what follows.
    pub next: u8,
    /// Hops left.
    pub ttl: u8,
    /// Sender.
    pub source: Address,
    /// Receiver.
    pub destination: Address,
}

/// TCP flags, as in byte 13 of the header.
pub mod tcp_flags {
    /// No more data from this side.
    pub const FIN: u8 = 1;
    /// First segment.
    pub const SYN: u8 = 2;
    /// The connection is gone.
    pub const RST: u8 = 4;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 16;
}

/// Can nobody send from that address? The stack has its own word on such packets.
#[inline(always)]
pub const fn is_nobodys(source: &Address, ip6: bool) -> bool {
    let first = (if ip6 { source[0] } else { source[3] }).to_ne_bytes()[0];
    first == 0xff || (!ip6 && matches!(first, 0 | 127 | 224..))
}

/// Which program forwarded a packet: index into `PACKET_PATHS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Path {
    /// One of those of tc.
    Tc = 0,
    /// The fast lane, before the kernel made anything of the packet.
    Xdp = 1,
}

impl Path {
    /// Every path, by its number.
    pub const ALL: [Self; 2] = [Self::Tc, Self::Xdp];

    /// A name for metrics and tools.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tc => "tc",
            Self::Xdp => "xdp",
        }
    }
}

/// Value of `DEVICES`, keyed by the device's number: a device of the node that has the fast lane.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its hardware address, two bytes in a number as they lie in memory.
    pub address: [u16; 3],
    /// Some of the constants below.
    pub flags: u16,
}

impl Device {
    /// Its driver takes packets that are redirected to it.
    pub const TAKES: u16 = 1;
    /// Its own packets may be redirected to any device: the program runs behind the driver (generic XDP).
    pub const HANDS_TO_ALL: u16 = 2;

    /// A device with that hardware address.
    pub const fn new(address: [u8; 6], flags: u16) -> Self {
        let [a, b, c, d, e, f] = address;
        let address = [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]), u16::from_ne_bytes([e, f])];
        Self { address, flags }
    }
}

#[cfg(feature = "user")]
// SAFETY: repr(C), made of integers only, without padding (8 bytes, see the tests), and any bit pattern is a value.
unsafe impl aya::Pod for Device {}

/// Why a packet was dropped (or answered instead of forwarded): index into `PACKET_DROPS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Drop {
    /// Its time to live is over.
    TimeToLive = 0,
    /// The kernel has no route to where it should go, or does not forward.
    NoRoute = 1,
    /// It does not fit the device it should leave by.
    TooBig = 2,
    /// No port was free for its source to be translated to.
    NoPort = 3,
    /// No address of this node is known for its source to be translated to.
    NoNodeAddress = 4,
    /// Its source is in none of the load balancer's source ranges.
    SourceDenied = 5,
    /// `externalTrafficPolicy: Local`, and no backend here.
    NoLocalEndpoints = 6,
    /// The maps gave no consistent answer.
    Torn = 7,
    /// The kernel refused to change it.
    Rewrite = 8,
    /// The flow could not be noted.
    Conntrack = 9,
    /// Nobody serves it: answered with a TCP reset or an ICMP error.
    Refused = 10,
    /// Nobody serves it, and it is of a kind that gets no answer.
    RefusedSilently = 11,
}

impl Drop {
    /// Every reason, by its number.
    pub const ALL: [Self; 12] = [
        Self::TimeToLive,
        Self::NoRoute,
        Self::TooBig,
        Self::NoPort,
        Self::NoNodeAddress,
        Self::SourceDenied,
        Self::NoLocalEndpoints,
        Self::Torn,
        Self::Rewrite,
        Self::Conntrack,
        Self::Refused,
        Self::RefusedSilently,
    ];

    /// A name for metrics and tools.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TimeToLive => "ttl-expired",
            Self::NoRoute => "no-route",
            Self::TooBig => "too-big",
            Self::NoPort => "no-source-port",
            Self::NoNodeAddress => "no-node-address",
            Self::SourceDenied => "source-denied",
            Self::NoLocalEndpoints => "no-local-endpoints",
            Self::Torn => "torn",
            Self::Rewrite => "rewrite-failed",
            Self::Conntrack => "conntrack-full",
            Self::Refused => "refused",
            Self::RefusedSilently => "refused-silently",
        }
    }
}

/// Folds a one's complement sum of 16-bit words to 16 bits.
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_fold_with_every_carry() {
        assert_eq!(fold(0), 0);
        assert_eq!(fold(0xffff), 0xffff);
        assert_eq!(fold(0x1_0000), 1);
        assert_eq!(fold(0xffff_ffff), 0xffff);
        for sum in [0x1_ffff_ffff_u64, u64::MAX, 0xdead_beef_1234_5678, 0x8000_0001_ffff_fffe] {
            assert_eq!(u64::from(fold(sum)) % 0xffff, sum % 0xffff, "{sum:x}");
        }
    }

    #[test]
    fn nobody_sends_from_loopback_or_groups() {
        let from = |text: &str| match text.parse().unwrap() {
            std::net::IpAddr::V4(ip) => is_nobodys(&crate::mapped(u32::from_ne_bytes(ip.octets())), false),
            std::net::IpAddr::V6(ip) => is_nobodys(&crate::address(ip.octets()), true),
        };
        for nobody in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "ff02::1"] {
            assert!(from(nobody), "{nobody}");
        }
        for somebody in ["1.0.0.1", "10.0.0.1", "223.255.0.1", "fe80::1", "2001:db8::1"] {
            assert!(!from(somebody), "{somebody}");
        }
    }

    #[test]
    fn a_device_has_no_hidden_padding_and_paths_have_their_numbers() {
        assert_eq!(size_of::<Device>(), 6 + 2);
        for (number, path) in Path::ALL.into_iter().enumerate() {
            assert_eq!(path as usize, number);
        }
    }

    #[test]
    fn every_drop_has_its_number_and_a_name_of_its_own() {
        for (number, reason) in Drop::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
            assert!(Drop::ALL.into_iter().all(|other| other == reason || other.name() != reason.name()));
        }
    }
}
