//! Keys and values of the maps that enforce NetworkPolicy (`networking.k8s.io/v1`).
//!
//! ```text
//! POLICY_STATE       the only entry ──► generation, revision, flags       read first
//! POLICY_DEVICES     generation, device of a pod ──► its addresses, its table, which directions are isolated
//! POLICY_IDENTITIES  generation, prefix ──► identity                      longest match; no match is the world
//! POLICY_RULES       generation, table, identity or any, direction, protocol or all, ports ──► allowed
//! POLICY_FLOWS       addresses, ports, protocol ──► connection whose packets pass
//! ```
//!
//! A new daemon writes everything anew under the next generation and switches with one write. A change within a
//! generation adds rules, waits until no program runs that began before, switches identities and devices, waits again and
//! removes rules: a packet is judged by the old rules or by the new ones, never by a part of both.

use crate::{Address, conntrack::Tuple, seal};

/// Version of the pinned layout, below `<bpf root>/policy/v<POLICY_LAYOUT_VERSION>`.
pub const POLICY_LAYOUT_VERSION: u32 = 1;

/// `__sk_buff.tc_index` of what an isolated pod may send because it ends at its own node: no program after may send it
/// somewhere else, or a pod would reach backends of a node port that its policies refuse.
pub const FOR_THIS_NODE: u32 = 0x5b0c;

/// An identity: a number for all peers that policies cannot tell apart.
pub mod identity {
    /// In a rule: every peer.
    pub const ANY: u32 = 0;
    /// An address that no prefix of the map covers.
    pub const WORLD: u32 = 1;
    /// The node that enforces: it and its own pods always reach each other.
    pub const HOST: u32 = 2;
    /// Another node, at an address in no `ipBlock`.
    pub const REMOTE_NODE: u32 = 3;
    /// Set in the number of another node at an address in one.
    pub const NODE_BIT: u32 = 1 << 31;

    /// Is it a node?
    #[inline(always)]
    pub const fn is_node(identity: u32) -> bool {
        identity == HOST || identity == REMOTE_NODE || identity & NODE_BIT != 0
    }
}

/// Bits of [`PolicyState::flags`].
pub mod state_flags {
    /// Packets are judged. Without it all pass.
    pub const ON: u32 = 1;
    /// Some identity could not be written: no rule is believed, so isolated pods reach nobody but their node.
    pub const CLOSED: u32 = 2;
    /// A pod that policies select has no entry yet: a device without one is isolated until it has.
    pub const UNKNOWN_CLOSED: u32 = 4;
}

/// Value of `POLICY_STATE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyState {
    /// Which entries of the other maps count.
    pub generation: u32,
    /// Counts changes; never zero. A flow judged under another one is judged again.
    pub revision: u32,
    /// Some of [`state_flags`].
    pub flags: u32,
    /// UDP port of the tunnel between nodes, network order; zero if there is none. No pod may send to it at a node: what it
    /// put inside would come out as if another node's pod had sent it.
    pub tunnel: u32,
}

/// Key of `POLICY_DEVICES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceKey {
    /// As in [`PolicyState::generation`].
    pub generation: u32,
    /// The kernel's number of the host's end of the pod's device.
    pub index: u32,
}

/// Bits of [`DeviceValue::flags`].
pub mod device_flags {
    /// Only what the table allows reaches the pod.
    pub const INGRESS: u32 = 1;
    /// Only what the table allows leaves the pod.
    pub const EGRESS: u32 = 2;
}

/// Value of `POLICY_DEVICES`: a local pod.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceValue {
    /// The pod's addresses, IPv4 first; zero where it has none of the family.
    pub addresses: [Address; 2],
    /// As in [`RuleKey::table`].
    pub table: u32,
    /// Some of [`device_flags`].
    pub flags: u32,
    /// See [`DeviceValue::sealed`].
    pub seal: u32,
    /// Zero.
    pub pad: u32,
}

impl DeviceValue {
    /// This value, sealed for its key.
    #[inline(always)]
    pub const fn sealed(mut self, key: &DeviceKey) -> Self {
        self.seal = self.checksum(key);
        self
    }

    /// Does this value belong to that key, whole?
    #[inline(always)]
    pub const fn is_sealed_for(&self, key: &DeviceKey) -> bool {
        self.seal == self.checksum(key)
    }

    #[inline(always)]
    const fn checksum(&self, key: &DeviceKey) -> u32 {
        let [a, b] = self.addresses;
        seal([key.generation, key.index, a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], self.table, self.flags])
    }
}

/// Key of `POLICY_IDENTITIES`, looked up by longest prefix.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentityKey {
    /// As in [`PolicyState::generation`]; always covered by the prefix.
    pub generation: u32,
    /// Network address.
    pub address: Address,
}

impl IdentityKey {
    /// Bits of a key that names one address.
    pub const BITS: u32 = 32 + 128;
    /// Bits before those of an IPv4 address.
    pub const BITS_BEFORE_IP4: u32 = 32 + 96;
    /// Bits before those of an IPv6 address.
    pub const BITS_BEFORE_IP6: u32 = 32;
}

/// Directions of [`RuleKey::direction`], seen from the pod the table is for.
pub mod direction {
    /// To the pod.
    pub const INGRESS: u8 = 1;
    /// From the pod.
    pub const EGRESS: u8 = 2;
}

/// Key of `POLICY_RULES`, looked up by longest prefix: of the port for a range, up to the direction for every protocol.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleKey {
    /// As in [`PolicyState::generation`].
    pub generation: u32,
    /// As in [`DeviceValue::table`].
    pub table: u32,
    /// One of [`identity`] or above.
    pub identity: u32,
    /// One of [`direction`].
    pub direction: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// Port of the destination, network order.
    pub port: u16,
}

impl RuleKey {
    /// Bits of a key that names one port.
    pub const BITS: u32 = 3 * 32 + 8 + 8 + 16;
    /// Bits of a key that allows every protocol, those without ports too.
    pub const BITS_ALL: u32 = 3 * 32 + 8;
    /// Bits before those of the port.
    pub const BITS_BEFORE_PORT: u32 = Self::BITS_ALL + 8;
}

/// Value of `POLICY_FLOWS`, keyed by the [`Tuple`] of who opened the connection: its packets pass, and the answers to them.
///
/// An echo request has its identifier for a source port; other packets without ports have zeros.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyFlow {
    /// When a packet of either side was last seen, nanoseconds since the node started; kept to a second.
    pub used: u64,
    /// Some of [`crate::conntrack::state`]; the client is who opened it.
    pub state: u32,
    /// The revision by which the opener's own policies allowed it. Zero: they did not, or it is no pod of this node.
    pub egress: u32,
    /// The same for the pod it goes to.
    pub ingress: u32,
    /// See [`PolicyFlow::sealed`].
    pub seal: u32,
}

impl PolicyFlow {
    /// This value, sealed for its key.
    #[inline(always)]
    pub const fn sealed(mut self, key: &Tuple) -> Self {
        self.seal = self.checksum(key);
        self
    }

    /// Does this value belong to that key, whole? (`used` and `state` change in place and are not covered.)
    #[inline(always)]
    pub const fn is_sealed_for(&self, key: &Tuple) -> bool {
        self.seal == self.checksum(key)
    }

    #[inline(always)]
    const fn checksum(&self, key: &Tuple) -> u32 {
        seal([key.hash(), self.egress, self.ingress])
    }
}

/// Why a packet passed or was dropped: [`PolicyEvent::verdict`], and index into `POLICY_COUNTERS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Verdict {
    /// A new connection that the pod's policies allow.
    Allowed = 0,
    /// No policy of the isolated pod allows it.
    Denied = 1,
    /// A pod sent it under an address that is not its own.
    Spoofed = 2,
    /// It is cut short, or has more headers than any honest packet.
    Malformed = 3,
    /// A later fragment whose first one was not allowed, or not seen.
    Fragment = 4,
    /// Events that were not told because there were too many.
    Untold = 5,
    /// For the tunnel between nodes, but not of a node.
    Tunnel = 6,
}

impl Verdict {
    /// Every verdict, by its number.
    pub const ALL: [Self; 7] =
        [Self::Allowed, Self::Denied, Self::Spoofed, Self::Malformed, Self::Fragment, Self::Untold, Self::Tunnel];

    /// A name for metrics and tools.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Spoofed => "spoofed",
            Self::Malformed => "malformed",
            Self::Fragment => "fragment",
            Self::Untold => "untold",
            Self::Tunnel => "tunnel",
        }
    }
}

/// What `POLICY_EVENTS` tells while somebody listens.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyEvent {
    /// Nanoseconds since the node started, suspended time included.
    pub time: u64,
    /// The packet.
    pub tuple: Tuple,
    /// The pod's device.
    pub device: u32,
    /// The pod's table; zero while the pod is not known.
    pub table: u32,
    /// The peer's identity.
    pub identity: u32,
    /// A [`Verdict`].
    pub verdict: u32,
    /// One of [`direction`].
    pub direction: u8,
    /// Zero.
    pub pad: [u8; 7],
}

/// Value of `POLICY_PODS`, keyed by device: the pod's name, for people. Zeros fill both up.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodName {
    /// Namespace.
    pub namespace: [u8; 64],
    /// Name.
    pub name: [u8; 256],
}

/// Value of `POLICY_NAMES`, keyed by identity: what it stands for, for people. Zeros fill it up; longer text is cut.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentityName {
    /// Such as `default {app=web}` or `outside in 10.0.0.0/8`.
    pub text: [u8; 256],
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

    pod!(PolicyState, DeviceKey, DeviceValue, IdentityKey, RuleKey, PolicyFlow, PolicyEvent, PodName, IdentityName);
}

#[cfg(test)]
mod tests {
    use core::mem::size_of;

    use super::*;
    use crate::TCP;

    #[test]
    fn layouts_have_no_hidden_padding() {
        assert_eq!(size_of::<PolicyState>(), 4 * 4);
        assert_eq!(size_of::<DeviceKey>(), 8);
        assert_eq!(size_of::<DeviceValue>(), 2 * 16 + 4 * 4);
        assert_eq!(size_of::<IdentityKey>() as u32 * 8, IdentityKey::BITS);
        assert_eq!(size_of::<RuleKey>() as u32 * 8, RuleKey::BITS);
        assert_eq!(size_of::<PolicyFlow>(), 8 + 4 * 4);
        assert_eq!(size_of::<PolicyEvent>(), 8 + size_of::<Tuple>() + 4 * 4 + 8);
        assert_eq!(size_of::<PodName>(), 64 + 256);
    }

    #[test]
    fn seals_cover_what_lets_packets_pass() {
        let key = DeviceKey { generation: 1, index: 2 };
        let device = DeviceValue { addresses: [[1; 4], [2; 4]], table: 3, flags: 1, seal: 0, pad: 0 }.sealed(&key);
        assert!(device.is_sealed_for(&key));
        assert!(!device.is_sealed_for(&DeviceKey { index: 3, ..key }));
        assert!(!device.is_sealed_for(&DeviceKey { generation: 2, ..key }));
        for torn in [
            DeviceValue { flags: 0, ..device },
            DeviceValue { table: 4, ..device },
            DeviceValue { addresses: [[1; 4], [3; 4]], ..device },
        ] {
            assert!(!torn.is_sealed_for(&key));
        }
        let tuple = Tuple {
            source: [1; 4],
            destination: [2; 4],
            source_port: 1,
            destination_port: 2,
            protocol: TCP,
            pad: [0; 3],
        };
        let flow = PolicyFlow { used: 1, state: 1, egress: 2, ingress: 3, seal: 0 }.sealed(&tuple);
        assert!(flow.is_sealed_for(&tuple));
        assert!(PolicyFlow { used: 2, state: 2, ..flow }.is_sealed_for(&tuple));
        assert!(!PolicyFlow { egress: 3, ..flow }.is_sealed_for(&tuple));
        assert!(!PolicyFlow { ingress: 2, ..flow }.is_sealed_for(&tuple));
        assert!(!flow.is_sealed_for(&tuple.reversed()));
    }

    #[test]
    fn every_verdict_has_its_number_and_a_name_of_its_own() {
        for (number, verdict) in Verdict::ALL.into_iter().enumerate() {
            assert_eq!(verdict as usize, number);
            assert!(Verdict::ALL.into_iter().all(|other| other == verdict || other.name() != verdict.name()));
        }
    }
}
