//! Keys and values of the Service maps.

use crate::{Address, seal};

/// Key of `FRONTENDS`: an address, port and protocol at which a service port is reached. A node port has the unspecified
/// address of its family.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    /// Address.
    pub address: Address,
    /// Port, network order.
    pub port: u16,
    /// [`crate::TCP`] or [`crate::UDP`].
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

impl FrontendKey {
    /// A key from parts that are already in the maps' byte order.
    #[inline(always)]
    pub const fn new(address: Address, port: u16, protocol: u8) -> Self {
        Self { address, port, protocol, pad: 0 }
    }
}

/// Kinds of frontends, as in [`FrontendValue::kind`].
pub mod kind {
    /// The Service's address inside the cluster.
    pub const CLUSTER_IP: u32 = 1;
    /// A port of every node.
    pub const NODE_PORT: u32 = 2;
    /// An address of a load balancer.
    pub const LOAD_BALANCER: u32 = 3;
    /// An external address the Service names.
    pub const EXTERNAL_IP: u32 = 4;
    /// A port of this node that belongs to one pod.
    pub const HOST_PORT: u32 = 5;
}

/// Value of `FRONTENDS`: whose it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontendValue {
    /// Key of `SERVICES`.
    pub service: u32,
    /// One of [`kind`].
    pub kind: u32,
    /// Reserved, zero.
    pub flags: u32,
    /// See [`FrontendValue::sealed`].
    pub seal: u32,
}

impl FrontendValue {
    /// A value sealed for its key.
    #[inline(always)]
    pub const fn sealed(key: &FrontendKey, service: u32, kind: u32) -> Self {
        let mut value = Self { service, kind, flags: 0, seal: 0 };
        value.seal = value.checksum(key);
        value
    }

    /// Does this value belong to that key, whole?
    #[inline(always)]
    pub const fn is_sealed_for(&self, key: &FrontendKey) -> bool {
        self.seal == self.checksum(key)
    }

    #[inline(always)]
    const fn checksum(&self, key: &FrontendKey) -> u32 {
        let port = ((key.port as u32) << 8) | key.protocol as u32;
        let a = key.address;
        seal([a[0], a[1], a[2], a[3], port, self.service, self.kind, self.flags])
    }
}

/// Bits of [`AddressValue::bits`].
pub mod address_bits {
    /// A Service's own: what is no frontend of it is refused.
    pub const WHOLE: u32 = 1;
    /// Shared with others: what is no frontend passes.
    pub const PARTIAL: u32 = 2;
    /// This node's: node ports are served here.
    pub const NODE: u32 = 4;
}

/// Value of `ADDRESSES`, keyed by [`Address`]: what is known of an address besides its frontends.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressValue {
    /// Some of [`address_bits`].
    pub bits: u32,
    /// Zero.
    pub pad: u32,
    /// If not zero, the node port bit counts only in the network namespace with this cookie: a loopback address means
    /// somebody else in every other one.
    pub netns: u64,
}

/// A run of slots within one generation.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// First slot.
    pub start: u32,
    /// Number of slots. Zero refuses.
    pub count: u32,
}

/// Bits of [`ServiceValue::flags`].
pub mod service_flags {
    /// A client keeps its backend for [`super::ServiceValue::affinity`] seconds after it last used it.
    pub const AFFINITY: u32 = 1;
    /// At addresses of load balancers only the sources in `SOURCE_RANGES` are served, or with [`DENY_RANGES`] all others.
    pub const SOURCE_RANGES: u32 = 2;
    /// External traffic chooses by hash from [`super::ServiceValue::maglev`].
    pub const MAGLEV: u32 = 4;
    /// `externalTrafficPolicy: Local`: external traffic keeps its source address.
    pub const EXTERNAL_LOCAL: u32 = 8;
    /// `internalTrafficPolicy: Local`.
    pub const INTERNAL_LOCAL: u32 = 16;
    /// Somewhere in the cluster there is a backend, even if not in the segment at hand.
    pub const HAS_ANY: u32 = 32;
    /// The sources in `SOURCE_RANGES` are those that are not served.
    pub const DENY_RANGES: u32 = 64;
}

/// Value of `SERVICES`, keyed by service id: which slots are live, for every frontend of the service port. Replacing this
/// value is the flip that makes a change visible.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceValue {
    /// Which set of slots is live.
    pub generation: u32,
    /// Backends anywhere: what clients inside the cluster choose from at other addresses than the ClusterIP.
    pub cluster: Segment,
    /// What clients inside the cluster choose from at the ClusterIP.
    pub internal: Segment,
    /// What clients outside the cluster choose from.
    pub external: Segment,
    /// The Maglev table of the external choice, if there is one.
    pub maglev: Segment,
    /// Some of [`service_flags`].
    pub flags: u32,
    /// How long a client keeps its backend, seconds.
    pub affinity: u32,
    /// See [`ServiceValue::sealed`].
    pub seal: u32,
}

impl ServiceValue {
    /// This value, sealed for its key.
    #[inline(always)]
    pub const fn sealed(mut self, id: u32) -> Self {
        self.seal = self.checksum(id);
        self
    }

    /// Does this value belong to that id, whole?
    #[inline(always)]
    pub const fn is_sealed_for(&self, id: u32) -> bool {
        self.seal == self.checksum(id)
    }

    #[inline(always)]
    const fn checksum(&self, id: u32) -> u32 {
        let (c, i, e, m) = (self.cluster, self.internal, self.external, self.maglev);
        seal([
            id,
            self.generation,
            c.start,
            c.count,
            i.start,
            i.count,
            e.start,
            e.count,
            m.start,
            m.count,
            self.flags,
            self.affinity,
        ])
    }
}

/// Key of `SLOTS`: a place in one generation of one service.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotKey {
    /// Key of `SERVICES`.
    pub service: u32,
    /// [`ServiceValue::generation`].
    pub generation: u32,
    /// A place in one of the value's segments.
    pub slot: u32,
}

/// Value of `SLOTS`: the backend in that place.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotValue {
    /// Key of `BACKENDS`.
    pub backend: u32,
    /// See [`SlotValue::sealed`].
    pub seal: u32,
}

impl SlotValue {
    /// A value sealed for its key.
    #[inline(always)]
    pub const fn sealed(key: &SlotKey, backend: u32) -> Self {
        Self { backend, seal: seal([key.service, key.generation, key.slot, backend]) }
    }

    /// Does this value belong to that key, whole?
    #[inline(always)]
    pub const fn is_sealed_for(&self, key: &SlotKey) -> bool {
        self.seal == seal([key.service, key.generation, key.slot, self.backend])
    }
}

/// Value of `BACKENDS`, keyed by backend id. A backend belongs to one service port: when it leaves that service its id
/// goes, and with it every remembered choice of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendValue {
    /// Address.
    pub address: Address,
    /// Port, network order.
    pub port: u16,
    /// [`BackendValue::LOCAL`] or zero.
    pub flags: u16,
    /// Key of `SERVICES`: the service port it belongs to.
    pub service: u32,
    /// See [`BackendValue::sealed`].
    pub seal: u32,
}

impl BackendValue {
    /// In `flags`: it runs on this node.
    pub const LOCAL: u16 = 1;

    /// A value sealed for its key. `address` and `port` are in the maps' byte order.
    #[inline(always)]
    pub const fn sealed(id: u32, service: u32, address: Address, port: u16, flags: u16) -> Self {
        let mut value = Self { address, port, flags, service, seal: 0 };
        value.seal = value.checksum(id);
        value
    }

    /// Does this value belong to that id, whole?
    #[inline(always)]
    pub const fn is_sealed_for(&self, id: u32) -> bool {
        self.seal == self.checksum(id)
    }

    #[inline(always)]
    const fn checksum(&self, id: u32) -> u32 {
        let port = ((self.port as u32) << 16) | self.flags as u32;
        let a = self.address;
        seal([id, a[0], a[1], a[2], a[3], port, self.service])
    }
}

/// Key of `STICKY`: what an unconnected UDP socket sent to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StickyKey {
    /// Socket cookie.
    pub cookie: u64,
    /// Frontend address.
    pub address: Address,
    /// Port, network order.
    pub port: u16,
    /// Zero.
    pub pad: [u16; 3],
}

/// Value of `STICKY`: the backend chosen for it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StickyValue {
    /// The service port at the time of the choice.
    pub service: u32,
    /// Key of `BACKENDS`; the choice holds while that backend exists.
    pub backend: u32,
}

/// Key of `UDP_PEERS` and `TCP_PEERS`: a socket and the backend it talks to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey {
    /// Socket cookie.
    pub cookie: u64,
    /// Backend address.
    pub address: Address,
    /// Backend port, network order.
    pub port: u16,
    /// Zero.
    pub pad: [u16; 3],
}

/// Value of `UDP_PEERS` and `TCP_PEERS`: the virtual address the program behind the socket asked for.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerValue {
    /// Frontend address.
    pub address: Address,
    /// Port, network order.
    pub port: u16,
    /// Zero.
    pub pad: u16,
    /// See [`PeerValue::sealed`].
    pub seal: u32,
}

impl PeerValue {
    /// A value sealed for its key.
    #[inline(always)]
    pub const fn sealed(key: &PeerKey, address: Address, port: u16) -> Self {
        let mut value = Self { address, port, pad: 0, seal: 0 };
        value.seal = value.checksum(key);
        value
    }

    /// Does this value belong to that key, whole?
    #[inline(always)]
    pub const fn is_sealed_for(&self, key: &PeerKey) -> bool {
        self.seal == self.checksum(key)
    }

    #[inline(always)]
    const fn checksum(&self, key: &PeerKey) -> u32 {
        let ports = ((key.port as u32) << 16) | self.port as u32;
        let (b, a) = (key.address, self.address);
        let cookie = [key.cookie as u32, (key.cookie >> 32) as u32];
        seal([cookie[0], cookie[1], b[0], b[1], b[2], b[3], ports, a[0], a[1], a[2], a[3]])
    }
}

/// Key of `AFFINITY`: a client of a service port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AffinityKey {
    /// The client's address, or [`AffinityKey::netns`] for one that is served at its socket.
    pub client: Address,
    /// Key of `SERVICES`.
    pub service: u32,
}

impl AffinityKey {
    /// A network namespace, that is a pod, as a client: `0:0:ffff:ffff` and the cookie, which is nobody's address.
    #[inline(always)]
    pub const fn netns(cookie: u64) -> Address {
        [0, u32::MAX, cookie as u32, (cookie >> 32) as u32]
    }
}

/// Value of `AFFINITY`: the backend it had.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AffinityValue {
    /// Key of `BACKENDS`.
    pub backend: u32,
    /// When it was last chosen, seconds since the node started.
    pub used: u32,
}

/// Data of a key of `SOURCE_RANGES` (a prefix trie, value 1). The prefix covers all of `service`, so its length is 32 more
/// than the range's; an IPv4 range's 96 more again.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceRange {
    /// Key of `SERVICES`.
    pub service: u32,
    /// First address of the range.
    pub address: Address,
}

/// Value of `SERVICE_STATS`, per CPU, keyed by service id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceCounters {
    /// Choices of a backend: connects, and first datagrams of unconnected sockets.
    pub connections: u64,
    /// Attempts refused because no backend was ready.
    pub refused: u64,
}

/// Longest text a [`ServiceInfo`] field holds. Namespaces, service names and port names end at 63 bytes.
pub const NAME_LEN: usize = 64;

/// Value of `SERVICE_INFO`, keyed by service id: whose port it is. Programs never read it; it lets tools, and a daemon
/// that restarts, name what is in the maps without asking anyone.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceInfo {
    /// Namespace, UTF-8, padded with zeros.
    pub namespace: [u8; NAME_LEN],
    /// Name, UTF-8, padded with zeros.
    pub name: [u8; NAME_LEN],
    /// Name of the port (may be empty), UTF-8, padded with zeros.
    pub port_name: [u8; NAME_LEN],
    /// 4 or 6: one port of a dual-stack Service is two service ports here.
    pub family: u32,
}

impl ServiceInfo {
    /// From text; what does not fit is cut.
    pub fn new(namespace: &str, name: &str, port_name: &str, family: u32) -> Self {
        Self { namespace: text(namespace), name: text(name), port_name: text(port_name), family }
    }

    /// The namespace, name and port name. A field that is no UTF-8 reads as empty.
    pub fn names(&self) -> (&str, &str, &str) {
        (untext(&self.namespace), untext(&self.name), untext(&self.port_name))
    }
}

fn text(text: &str) -> [u8; NAME_LEN] {
    let mut end = text.len().min(NAME_LEN);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut bytes = [0; NAME_LEN];
    bytes[..end].copy_from_slice(&text.as_bytes()[..end]);
    bytes
}

fn untext(bytes: &[u8; NAME_LEN]) -> &str {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(NAME_LEN);
    core::str::from_utf8(&bytes[..end]).unwrap_or("")
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

    pod!(
        AddressValue,
        AffinityKey,
        AffinityValue,
        FrontendKey,
        FrontendValue,
        SourceRange,
        ServiceValue,
        SlotKey,
        SlotValue,
        BackendValue,
        StickyKey,
        StickyValue,
        PeerKey,
        PeerValue,
        ServiceCounters,
        ServiceInfo,
    );
}

#[cfg(test)]
mod tests {
    use core::mem::{align_of, size_of};

    use super::*;
    use crate::{TCP, UDP, address, host_port, is_mapped, mapped, octets, port, unspecified};

    fn ip4(octets: [u8; 4]) -> Address {
        mapped(u32::from_ne_bytes(octets))
    }

    #[test]
    fn layouts_are_those_of_version_3_and_have_no_hidden_padding() {
        assert_eq!(crate::LAYOUT_VERSION, 3);
        assert_eq!(size_of::<FrontendKey>(), 16 + 2 + 1 + 1);
        assert_eq!(size_of::<FrontendValue>(), 4 * 4);
        assert_eq!(size_of::<AddressValue>(), 4 + 4 + 8);
        assert_eq!(size_of::<ServiceValue>(), 4 + 4 * 8 + 3 * 4);
        assert_eq!(size_of::<SlotKey>(), 3 * 4);
        assert_eq!(size_of::<SlotValue>(), 2 * 4);
        assert_eq!(size_of::<BackendValue>(), 16 + 2 + 2 + 4 + 4);
        assert_eq!(size_of::<StickyKey>(), 8 + 16 + 2 + 6);
        assert_eq!(size_of::<StickyValue>(), 2 * 4);
        assert_eq!(size_of::<PeerKey>(), 8 + 16 + 2 + 6);
        assert_eq!(size_of::<PeerValue>(), 16 + 2 + 2 + 4);
        assert_eq!(size_of::<AffinityKey>(), 16 + 4);
        assert_eq!(size_of::<AffinityValue>(), 2 * 4);
        assert_eq!(size_of::<SourceRange>(), 4 + 16);
        assert_eq!(size_of::<ServiceCounters>(), 2 * 8);
        assert_eq!(size_of::<ServiceInfo>(), 3 * NAME_LEN + 4);
        assert!(align_of::<StickyKey>() == 8 && align_of::<FrontendKey>() == 4);
    }

    #[test]
    fn addresses_and_ports_lie_in_memory_in_network_order() {
        let bytes: [u8; 16] = core::array::from_fn(|n| n as u8);
        assert_eq!(address(bytes)[1].to_ne_bytes(), [4, 5, 6, 7]);
        assert_eq!(octets(address(bytes)), bytes);
        let four = ip4([10, 96, 0, 1]);
        assert_eq!(octets(four), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 96, 0, 1]);
        assert!(is_mapped(&four) && !is_mapped(&address(bytes)));
        assert_eq!(unspecified(&four), ip4([0; 4]));
        assert_eq!(unspecified(&address(bytes)), [0; 4]);
        assert_eq!(port(0x1234).to_ne_bytes(), [0x12, 0x34]);
        assert_eq!(host_port(port(443)), 443);
    }

    #[test]
    fn a_seal_breaks_when_any_field_or_the_key_differs() {
        let key = FrontendKey::new(ip4([10, 96, 0, 1]), port(80), TCP);
        let value = FrontendValue::sealed(&key, 1, kind::CLUSTER_IP);
        assert!(value.is_sealed_for(&key));
        for other in [
            FrontendKey { address: ip4([10, 96, 0, 2]), ..key },
            FrontendKey { port: port(81), ..key },
            FrontendKey { protocol: UDP, ..key },
        ] {
            assert!(!value.is_sealed_for(&other));
        }
        for torn in [
            FrontendValue { service: 9, ..value },
            FrontendValue { kind: 9, ..value },
            FrontendValue { flags: 9, ..value },
        ] {
            assert!(!torn.is_sealed_for(&key));
        }

        let value = ServiceValue { generation: 1, ..ServiceValue::default() }.sealed(7);
        assert!(value.is_sealed_for(7) && !value.is_sealed_for(8));
        let segment = Segment { start: 0, count: 9 };
        for torn in [
            ServiceValue { generation: 9, ..value },
            ServiceValue { cluster: segment, ..value },
            ServiceValue { internal: segment, ..value },
            ServiceValue { external: segment, ..value },
            ServiceValue { maglev: segment, ..value },
            ServiceValue { flags: 9, ..value },
            ServiceValue { affinity: 9, ..value },
        ] {
            assert!(!torn.is_sealed_for(7));
        }

        let key = SlotKey { service: 1, generation: 1, slot: 0 };
        let value = SlotValue::sealed(&key, 7);
        assert!(value.is_sealed_for(&key));
        assert!(!value.is_sealed_for(&SlotKey { slot: 1, ..key }));
        assert!(!SlotValue { backend: 8, ..value }.is_sealed_for(&key));

        let value = BackendValue::sealed(7, 1, ip4([10, 0, 0, 1]), port(80), 0);
        assert!(value.is_sealed_for(7));
        assert!(!value.is_sealed_for(8));
        assert!(!BackendValue { service: 2, ..value }.is_sealed_for(7));
        assert!(!BackendValue { port: port(81), ..value }.is_sealed_for(7));
        assert!(!BackendValue { flags: BackendValue::LOCAL, ..value }.is_sealed_for(7));

        let key = PeerKey { cookie: 1 << 40, address: ip4([10, 0, 0, 1]), port: port(80), pad: [0; 3] };
        let value = PeerValue::sealed(&key, ip4([10, 96, 0, 1]), port(443));
        assert!(value.is_sealed_for(&key));
        assert!(!value.is_sealed_for(&PeerKey { cookie: 1, ..key }));
    }

    #[test]
    fn names_survive_the_fixed_fields_and_are_cut_at_a_character() {
        let info = ServiceInfo::new("kube-system", "kube-dns", "dns-tcp", 4);
        assert_eq!(info.names(), ("kube-system", "kube-dns", "dns-tcp"));
        let long = "é".repeat(40);
        assert_eq!(ServiceInfo::new("", &long, "", 4).names().1, "é".repeat(32));
    }
}
