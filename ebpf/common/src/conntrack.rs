//! Keys and values of the connection tracking of the per-packet path.
//!
//! A flow has two entries, one for each direction: `FLOWS` is keyed by the packet as the client sends it, `REPLIES` by the
//! packet as the backend answers it. Each says how to translate; the second is also the claim on a source port.
//!
//! With direct server return (see [`crate::dsr`]) two nodes know the flow, each with both entries: the node that the client
//! asked ([`dsr::SENT`]) translates the destination only, and that of the backend ([`dsr::RECEIVED`]) the answers only.

use crate::{Address, SCTP, TCP, packet::tcp_flags, seal};

/// Bits of [`Flow::flags`] and [`Reply::flags`].
pub mod dsr {
    /// This node was asked by the client, and the backend's node answers it: no answer comes by here.
    pub const SENT: u32 = 1;
    /// Another node was asked: the client's packets come with the backend's address already.
    pub const RECEIVED: u32 = 2;
}

/// Key of `FLOWS` and `REPLIES`: a packet's addresses and ports, as it arrives.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port, network order.
    pub source_port: u16,
    /// Destination port, network order.
    pub destination_port: u16,
    /// [`crate::TCP`] or [`crate::UDP`].
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

impl Tuple {
    /// The tuple of a packet that goes the other way.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..*self
        }
    }

    /// The same number on every node for the same flow.
    #[inline(always)]
    pub const fn hash(&self) -> u32 {
        let (s, d) = (self.source, self.destination);
        seal([s[0], s[1], s[2], s[3], d[0], d[1], d[2], d[3], self.ports(), self.protocol as u32])
    }

    #[inline(always)]
    const fn ports(&self) -> u32 {
        ((self.source_port as u32) << 16) | self.destination_port as u32
    }
}

/// Bits of [`Flow::state`] and [`Reply::state`].
pub mod state {
    /// The backend has answered.
    pub const REPLIED: u32 = 1;
    /// The client has sent FIN.
    pub const CLIENT_FIN: u32 = 2;
    /// The backend has sent FIN.
    pub const BACKEND_FIN: u32 = 4;
    /// Either has sent RST.
    pub const RESET: u32 = 8;
    /// The backend sent FIN before the client did, so it is the backend that keeps the ports for a while (TIME-WAIT).
    pub const BACKEND_FIRST: u32 = 16;
    /// The client went on after an answer: more than a question. Not of TCP.
    pub const STEADY: u32 = 32;
}

/// What a packet adds to the state of its flow: bits that are not among `bits` yet. `flags` are a TCP segment's, of SCTP those
/// of [`crate::sctp::flags`], else zero.
#[inline(always)]
pub const fn learned(protocol: u8, flags: u8, from_backend: bool, bits: u32) -> u32 {
    let mut learned = if from_backend {
        state::REPLIED
    } else if protocol != TCP && bits & state::REPLIED != 0 {
        state::STEADY
    } else {
        0
    };
    if flags & tcp_flags::FIN != 0 {
        learned |= match (from_backend, bits & CLOSED == 0) {
            (false, _) => state::CLIENT_FIN,
            (true, false) => state::BACKEND_FIN,
            (true, true) => state::BACKEND_FIN | state::BACKEND_FIRST,
        };
    }
    if flags & tcp_flags::RST != 0 {
        learned |= state::RESET;
    }
    learned & !bits
}

/// What a client's packet tells of answers that do not come by this node ([`dsr::SENT`]): who acknowledges got one. Of
/// datagrams it is taken for granted that a second one follows an answer.
#[inline(always)]
pub const fn implied(protocol: u8, flags: u8) -> u32 {
    let acknowledges = flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::ACK;
    if protocol != TCP || acknowledges { state::REPLIED } else { 0 }
}

const SECOND: u64 = 1_000_000_000;
const CLOSED: u32 = state::CLIENT_FIN | state::BACKEND_FIN;

/// How long a silent flow in that state is remembered, nanoseconds. (A full map forgets the longest unused one earlier.)
///
/// TCP: a handshake 60 s, established 6 h, half closed 120 s; closed 60 s if the backend was first, whose TIME-WAIT would
/// meet a new connection from the same port, else 2 s, as after a reset. UDP: 180 s once the client went on after an answer,
/// else 30 s (as `nf_conntrack` tells a stream from a question). SCTP, as `nf_conntrack_proto_sctp` has it: established 210 s,
/// closed or aborted 10 s, a handshake or half closed 3 s.
#[inline(always)]
pub const fn timeout(protocol: u8, bits: u32) -> u64 {
    let seconds = if protocol == SCTP {
        match bits & (state::STEADY | state::RESET | CLOSED) {
            state::STEADY => 210,
            bits if is_over(bits) => 10,
            _ => 3,
        }
    } else if protocol != TCP {
        if bits & state::STEADY != 0 { 180 } else { 30 }
    } else if bits & state::RESET != 0 {
        2
    } else if bits & CLOSED == CLOSED {
        if bits & state::BACKEND_FIRST != 0 { 60 } else { 2 }
    } else if bits & CLOSED != 0 {
        120
    } else if bits & state::REPLIED != 0 {
        6 * 3600
    } else {
        60
    };
    seconds * SECOND
}

/// May a flow that has been silent for so many nanoseconds give its port to a new one, as there is no other? One that is
/// over may, though its backend may still be in TIME-WAIT: Linux takes a new connection there at once if its timestamp is
/// the later one, else with the client's second attempt, a second later (RFC 6191, RFC 1337). So may a handshake that got no answer to its first attempts, and a question.
#[inline(always)]
pub const fn yields(protocol: u8, bits: u32, silent: u64) -> bool {
    let least = if is_over(bits) {
        1
    } else if protocol != TCP {
        if bits & state::STEADY != 0 { return false } else { 1 }
    } else if bits & (state::REPLIED | CLOSED) == 0 {
        4
    } else {
        return false;
    };
    silent > least * SECOND
}

/// Have both sides closed the connection, or has one broken it off?
#[inline(always)]
pub const fn is_over(bits: u32) -> bool {
    bits & state::RESET != 0 || bits & CLOSED == CLOSED
}

/// May no flow begin for now? `tracking` is the word in `TRACKING`: zero until the first flow begins, then one, or while the
/// maps of flows are exchanged the second (of `now`'s clock) in which that must have ended.
#[inline(always)]
pub const fn is_held(tracking: u32, now: u64) -> bool {
    tracking > 1 && now / SECOND < tracking as u64
}

/// Is the connection over, so that the client may open a new one from the same port?
#[inline(always)]
pub const fn is_closing(bits: u32) -> bool {
    bits & (state::CLIENT_FIN | state::BACKEND_FIN | state::RESET) != 0
}

/// Value of `FLOWS`: where the client's packets go, and what they claim to come from.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// When a packet of the client was last seen, nanoseconds since the node started, suspended time included.
    pub used: u64,
    /// Some of [`state`].
    pub state: u32,
    /// Key of `BACKENDS`; zero for a flow that leaves the cluster.
    pub backend: u32,
    /// Key of `SERVICES`; zero for a flow that leaves the cluster.
    pub service: u32,
    /// See [`Flow::sealed`].
    pub seal: u32,
    /// The backend's address.
    pub to: Address,
    /// The source the backend sees: the client's own address, or this node's. Of [`dsr::RECEIVED`], where that is the key's:
    /// the address the client asked.
    pub from: Address,
    /// The backend's port, network order.
    pub to_port: u16,
    /// The port that belongs to `from`, network order.
    pub from_port: u16,
    /// One of [`dsr`], or zero.
    pub flags: u32,
}

impl Flow {
    /// Seals this value for its key.
    #[inline(always)]
    pub const fn seal_for(&mut self, key: &Tuple) {
        self.seal = self.checksum(key);
    }

    /// This value, sealed for its key.
    #[inline(always)]
    pub const fn sealed(mut self, key: &Tuple) -> Self {
        self.seal_for(key);
        self
    }

    /// Does this value belong to that key, whole? (`used` and `state` change in place and are not covered.)
    #[inline(always)]
    pub const fn is_sealed_for(&self, key: &Tuple) -> bool {
        self.seal == self.checksum(key)
    }

    /// What this node takes for seen of answers that do not come by it ([`dsr::SENT`]): once the client has closed, the
    /// connection is over.
    #[inline(always)]
    pub const fn unseen(&self) -> u32 {
        if self.flags & dsr::SENT != 0 { state::BACKEND_FIN } else { 0 }
    }

    /// Does it count as an open connection of its backend? Of those of Services, this node counts what it chose the backend for.
    #[inline(always)]
    pub const fn is_open(&self) -> bool {
        self.service != 0 && self.flags & dsr::RECEIVED == 0 && !is_over(self.state | self.unseen())
    }

    /// Key of the entry for the other direction. `key` is this one's.
    #[inline(always)]
    pub const fn reply_key(&self, key: &Tuple) -> Tuple {
        if self.flags & dsr::RECEIVED != 0 {
            return key.reversed();
        }
        Tuple {
            source: self.to,
            destination: self.from,
            source_port: self.to_port,
            destination_port: self.from_port,
            protocol: key.protocol,
            pad: [0; 3],
        }
    }

    /// The entry for the other direction, not sealed yet. `key` is this one's.
    #[inline(always)]
    pub const fn reply(&self, key: &Tuple, used: u64) -> Reply {
        let mut reply = Reply::new(key, used);
        reply.state = self.state;
        reply.flags = self.flags;
        if self.flags & dsr::RECEIVED != 0 {
            reply.frontend = self.from;
            reply.frontend_port = self.from_port;
        }
        reply
    }

    /// Source address and port that a packet with that key leaves with.
    #[inline(always)]
    pub const fn source<'a>(&'a self, key: &'a Tuple) -> (&'a Address, u16) {
        if self.flags & dsr::RECEIVED != 0 { (&key.source, key.source_port) } else { (&self.from, self.from_port) }
    }

    #[inline(always)]
    const fn checksum(&self, key: &Tuple) -> u32 {
        let (t, f) = (self.to, self.from);
        let ports = ((self.to_port as u32) << 16) | self.from_port as u32;
        seal([key.hash(), t[0], t[1], t[2], t[3], f[0], f[1], f[2], f[3], ports, self.backend, self.service])
            ^ self.flags
    }
}

/// Value of `REPLIES`: whom the backend's packets go to, and what they claim to come from.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// When a packet of the backend was last seen (at first: when the flow began), nanoseconds as in [`Flow::used`].
    pub used: u64,
    /// Some of [`state`].
    pub state: u32,
    /// See [`Reply::sealed`].
    pub seal: u32,
    /// The address the client sent to.
    pub frontend: Address,
    /// The client.
    pub client: Address,
    /// The port the client sent to, network order.
    pub frontend_port: u16,
    /// The client's port, network order.
    pub client_port: u16,
    /// One of [`dsr`], or zero.
    pub flags: u32,
}

impl Reply {
    /// For packets of the backend of a flow with that key.
    #[inline(always)]
    pub const fn new(flow: &Tuple, used: u64) -> Self {
        Self {
            used,
            state: 0,
            seal: 0,
            frontend: flow.destination,
            client: flow.source,
            frontend_port: flow.destination_port,
            client_port: flow.source_port,
            flags: 0,
        }
    }

    /// Seals this value for its key.
    #[inline(always)]
    pub const fn seal_for(&mut self, key: &Tuple) {
        self.seal = self.checksum(key);
    }

    /// This value, sealed for its key.
    #[inline(always)]
    pub const fn sealed(mut self, key: &Tuple) -> Self {
        self.seal_for(key);
        self
    }

    /// Does this value belong to that key, whole? (`used` and `state` change in place and are not covered.)
    #[inline(always)]
    pub const fn is_sealed_for(&self, key: &Tuple) -> bool {
        self.seal == self.checksum(key)
    }

    /// Key of the entry for the other direction. `key` is this one's.
    #[inline(always)]
    pub const fn flow_key(&self, key: &Tuple) -> Tuple {
        if self.flags & dsr::RECEIVED != 0 {
            return key.reversed();
        }
        Tuple {
            source: self.client,
            destination: self.frontend,
            source_port: self.client_port,
            destination_port: self.frontend_port,
            protocol: key.protocol,
            pad: [0; 3],
        }
    }

    #[inline(always)]
    const fn checksum(&self, key: &Tuple) -> u32 {
        let (f, c) = (self.frontend, self.client);
        let ports = ((self.frontend_port as u32) << 16) | self.client_port as u32;
        seal([key.hash(), f[0], f[1], f[2], f[3], c[0], c[1], c[2], c[3], ports]) ^ self.flags
    }
}

/// Key of `FRAGMENTS`: a datagram in pieces, as it arrives.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FragmentKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// The identification all pieces share, as it lies in the packet.
    pub id: u32,
    /// [`crate::TCP`] or [`crate::UDP`].
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// Value of `FRAGMENTS`: the ports, which only the first piece carries.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentPorts {
    /// Source port, network order.
    pub source: u16,
    /// Destination port, network order.
    pub destination: u16,
}

/// Value of `NODE`, the only entry: what the per-packet programs know of this node.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// IPv4 address (mapped) for translated sources; zero for the address the client sent to, if that is the node's own.
    pub ip4: Address,
    /// The same for IPv6.
    pub ip6: Address,
    /// IPv4 address (mapped) for translated sources of packets that leave by the tunnel to other nodes.
    pub tunnel4: Address,
    /// The same for IPv6.
    pub tunnel6: Address,
    /// Number of the tunnel's device; zero if there is none.
    pub tunnel: u32,
    /// First port for translated sources, host order. Zero for [`Node::FIRST_PORT`].
    pub first_port: u16,
    /// Last port for translated sources, host order. Zero for [`Node::LAST_PORT`].
    pub last_port: u16,
    /// Not zero: what pods send to addresses that are not in `INSIDE` gets the node's address.
    pub masquerade: u16,
    /// Whose answers go to clients past this node: some of [`Node::DSR_TCP`] and [`Node::DSR_UDP`].
    pub dsr: u16,
}

/// Values of `INSIDE`.
pub mod inside {
    /// A range of the cluster's own.
    pub const RANGE: u32 = 1;
    /// The address of a node.
    pub const NODE: u32 = 2;
}

impl Node {
    /// Bit of [`Node::dsr`].
    pub const DSR_TCP: u16 = 1;
    /// Bit of [`Node::dsr`].
    pub const DSR_UDP: u16 = 2;
    /// Above Linux' default range of ephemeral ports, which ends at 60999.
    pub const FIRST_PORT: u16 = 61_000;
    /// The highest port.
    pub const LAST_PORT: u16 = 65_535;
}

#[cfg(feature = "user")]
mod pod {
    use super::*;

    macro_rules! pod {
        ($($type:ty),+ $(,)?) => {
            $(
                // SAFETY: repr(C), made of integers only, and its padding is spelled out (see the size tests), so every
                // byte is initialised and any bit pattern is a value.
                unsafe impl aya::Pod for $type {}
            )+
        };
    }

    pod!(Tuple, Flow, Reply, FragmentKey, FragmentPorts, Node);
}

#[cfg(test)]
mod tests {
    use core::mem::size_of;

    use super::*;
    use crate::UDP;

    const TUPLE: Tuple = Tuple {
        source: [1, 2, 3, 4],
        destination: [5, 6, 7, 8],
        source_port: 9,
        destination_port: 10,
        protocol: TCP,
        pad: [0; 3],
    };

    #[test]
    fn layouts_have_no_hidden_padding() {
        assert_eq!(size_of::<Tuple>(), 2 * 16 + 2 + 2 + 1 + 3);
        assert_eq!(size_of::<Flow>(), 8 + 4 * 4 + 2 * 16 + 2 * 2 + 4);
        assert_eq!(size_of::<Reply>(), 8 + 2 * 4 + 2 * 16 + 2 * 2 + 4);
        assert_eq!(size_of::<FragmentKey>(), 2 * 16 + 4 + 1 + 3);
        assert_eq!(size_of::<FragmentPorts>(), 4);
        assert_eq!(size_of::<Node>(), 4 * 16 + 4 + 2 * 2 + 2 * 2);
    }

    #[test]
    fn both_entries_of_a_flow_lead_to_each_other() {
        let flow = Flow {
            used: 0,
            state: 0,
            backend: 1,
            service: 2,
            seal: 0,
            to: [1; 4],
            from: [2; 4],
            to_port: 3,
            from_port: 4,
            flags: 0,
        }
        .sealed(&TUPLE);
        let key = flow.reply_key(&TUPLE);
        let reply = flow.reply(&TUPLE, 0).sealed(&key);
        assert_eq!(reply.flow_key(&key), TUPLE);
        assert_eq!((key.source, key.destination, key.source_port, key.destination_port), ([1; 4], [2; 4], 3, 4));
        assert_eq!((reply.frontend, flow.source(&TUPLE)), (TUPLE.destination, (&[2; 4], 4)));
        let received = Flow { flags: dsr::RECEIVED, ..flow }.sealed(&TUPLE);
        let key = received.reply_key(&TUPLE);
        assert_eq!(key, TUPLE.reversed());
        let reply = received.reply(&TUPLE, 0).sealed(&key);
        assert_eq!(reply.flow_key(&key), TUPLE);
        assert_eq!((reply.frontend, reply.frontend_port, reply.client), ([2; 4], 4, TUPLE.source));
        assert_eq!(received.source(&TUPLE), (&TUPLE.source, TUPLE.source_port));
        assert_eq!(TUPLE.reversed().reversed(), TUPLE);
    }

    #[test]
    fn seals_cover_the_key_and_everything_that_steers() {
        let flow = Flow {
            used: 1,
            state: 1,
            backend: 1,
            service: 2,
            seal: 0,
            to: [1; 4],
            from: [2; 4],
            to_port: 3,
            from_port: 4,
            flags: 0,
        }
        .sealed(&TUPLE);
        assert!(flow.is_sealed_for(&TUPLE));
        assert!(Flow { used: 2, state: 2, ..flow }.is_sealed_for(&TUPLE));
        assert!(!flow.is_sealed_for(&TUPLE.reversed()));
        for torn in [
            Flow { backend: 9, ..flow },
            Flow { service: 9, ..flow },
            Flow { to: [9; 4], ..flow },
            Flow { from: [9; 4], ..flow },
            Flow { to_port: 9, ..flow },
            Flow { from_port: 9, ..flow },
            Flow { flags: dsr::SENT, ..flow },
        ] {
            assert!(!torn.is_sealed_for(&TUPLE));
        }
        let reply = Reply::new(&TUPLE, 7).sealed(&TUPLE);
        assert!(reply.is_sealed_for(&TUPLE));
        assert!(!reply.is_sealed_for(&TUPLE.reversed()));
        assert!(!Reply { flags: dsr::RECEIVED, ..reply }.is_sealed_for(&TUPLE));
        assert!(!Reply { client_port: 77, ..reply }.is_sealed_for(&TUPLE));
        assert!(!Reply { frontend: [9; 4], ..reply }.is_sealed_for(&TUPLE));
    }

    #[test]
    fn timeouts_follow_the_state_of_the_flow() {
        let seconds = |protocol, bits| timeout(protocol, bits) / SECOND;
        assert_eq!(seconds(UDP, 0), 30);
        assert_eq!(seconds(UDP, state::REPLIED), 30);
        assert_eq!(seconds(UDP, state::REPLIED | state::STEADY), 180);
        assert_eq!(seconds(TCP, 0), 60);
        assert_eq!([seconds(SCTP, 0), seconds(SCTP, state::REPLIED)], [3, 3]);
        let established = state::REPLIED | state::STEADY;
        assert_eq!([seconds(SCTP, established), seconds(SCTP, established | state::CLIENT_FIN)], [210, 3]);
        assert_eq!([seconds(SCTP, established | CLOSED), seconds(SCTP, established | state::RESET)], [10, 10]);
        assert!(!yields(SCTP, established, u64::MAX) && yields(SCTP, established | state::RESET, 2 * SECOND));
        assert_eq!(seconds(TCP, state::REPLIED), 21_600);
        assert_eq!(seconds(TCP, state::REPLIED | state::CLIENT_FIN), 120);
        assert_eq!(seconds(TCP, state::REPLIED | CLOSED), 2);
        assert_eq!(seconds(TCP, state::REPLIED | CLOSED | state::BACKEND_FIRST), 60);
        assert_eq!(seconds(TCP, state::RESET), 2);
    }

    #[test]
    fn packets_tell_what_was_not_known_yet() {
        const ACK: u8 = tcp_flags::ACK;
        const FIN_ACK: u8 = tcp_flags::FIN | ACK;
        assert_eq!(learned(TCP, tcp_flags::SYN, false, 0), 0);
        assert_eq!(learned(TCP, tcp_flags::RST, false, 0), state::RESET);
        let first = state::REPLIED | state::BACKEND_FIN | state::BACKEND_FIRST;
        assert_eq!(learned(TCP, FIN_ACK, true, 0), first);
        assert_eq!(learned(TCP, FIN_ACK, true, first), 0, "sent again");
        assert_eq!(learned(TCP, FIN_ACK, true, state::REPLIED | state::CLIENT_FIN), state::BACKEND_FIN);
        assert_eq!(learned(TCP, FIN_ACK, true, state::REPLIED | CLOSED), 0, "sent again, after the client's");
        assert_eq!(learned(TCP, ACK, false, state::REPLIED), 0);
        assert_eq!(learned(UDP, 0, false, 0), 0);
        assert_eq!(learned(UDP, 0, true, 0), state::REPLIED);
        assert_eq!(learned(UDP, 0, false, state::REPLIED), state::STEADY);
        assert_eq!(implied(TCP, tcp_flags::SYN), 0);
        assert_eq!(implied(TCP, ACK), state::REPLIED);
        assert_eq!(implied(UDP, 0), state::REPLIED);
    }

    #[test]
    fn flows_that_are_over_give_their_ports_away() {
        const SILENT: u64 = SECOND + 1;
        for bits in [state::RESET, state::REPLIED | CLOSED, state::REPLIED | CLOSED | state::BACKEND_FIRST] {
            assert!(yields(TCP, bits, SILENT) && !yields(TCP, bits, SECOND / 2), "{bits}");
        }
        for bits in [state::REPLIED, state::REPLIED | state::CLIENT_FIN, state::REPLIED | state::BACKEND_FIN] {
            assert!(!yields(TCP, bits, 3600 * SECOND), "{bits}");
        }
        assert!(yields(TCP, 0, 5 * SECOND) && !yields(TCP, 0, 3 * SECOND), "a handshake");
        assert!(yields(UDP, state::REPLIED, SILENT) && !yields(UDP, state::REPLIED | state::STEADY, SILENT));
    }
}
