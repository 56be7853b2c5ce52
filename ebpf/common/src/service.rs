//! Keys and values of the Service maps.

use crate::seal;

/// Key of `SERVICES`: one port of one virtual address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// Virtual address, network order.
    pub vip: u32,
    /// Port, network order.
    pub port: u16,
    /// [`crate::TCP`] or [`crate::UDP`].
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

impl ServiceKey {
    /// A key from parts that are already in the maps' byte order.
    #[inline(always)]
    pub const fn new(vip: u32, port: u16, protocol: u8) -> Self {
        Self { vip, port, protocol, pad: 0 }
    }
}

/// Value of `SERVICES`: which slots are live. Replacing this value is the flip that makes a change visible.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceValue {
    /// Stable number of the service port; key of `SERVICE_INFO` and part of the slots' keys.
    pub id: u32,
    /// Which set of slots is live.
    pub generation: u32,
    /// Number of slots in that set. Zero refuses every connection.
    pub count: u32,
    /// Reserved, zero.
    pub flags: u32,
    /// See [`ServiceValue::sealed`].
    pub seal: u32,
}

impl ServiceValue {
    /// A value sealed for its key.
    #[inline(always)]
    pub const fn sealed(key: &ServiceKey, id: u32, generation: u32, count: u32) -> Self {
        let mut value = Self { id, generation, count, flags: 0, seal: 0 };
        value.seal = value.checksum(key);
        value
    }

    /// Does this value belong to that key, whole?
    #[inline(always)]
    pub const fn is_sealed_for(&self, key: &ServiceKey) -> bool {
        self.seal == self.checksum(key)
    }

    #[inline(always)]
    const fn checksum(&self, key: &ServiceKey) -> u32 {
        let port = ((key.port as u32) << 8) | key.protocol as u32;
        seal([key.vip, port, self.id, self.generation, self.count, self.flags])
    }
}

/// Key of `SLOTS`: a place in one generation of one service.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotKey {
    /// [`ServiceValue::id`].
    pub service: u32,
    /// [`ServiceValue::generation`].
    pub generation: u32,
    /// `0..count`.
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
    /// Address, network order.
    pub address: u32,
    /// Port, network order.
    pub port: u16,
    /// Reserved, zero.
    pub flags: u16,
    /// [`ServiceValue::id`] of the service it belongs to.
    pub service: u32,
    /// See [`BackendValue::sealed`].
    pub seal: u32,
}

impl BackendValue {
    /// A value sealed for its key. `address` and `port` are in the maps' byte order.
    #[inline(always)]
    pub const fn sealed(id: u32, service: u32, address: u32, port: u16) -> Self {
        let mut value = Self { address, port, flags: 0, service, seal: 0 };
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
        seal([id, self.address, port, self.service])
    }
}

/// Key of `STICKY`: what an unconnected UDP socket sent to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StickyKey {
    /// Socket cookie.
    pub cookie: u64,
    /// Virtual address, network order.
    pub vip: u32,
    /// Port, network order.
    pub port: u16,
    /// Zero.
    pub pad: u16,
}

/// Value of `STICKY`: the backend chosen for it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StickyValue {
    /// [`ServiceValue::id`] at the time of the choice.
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
    /// Backend address, network order.
    pub address: u32,
    /// Backend port, network order.
    pub port: u16,
    /// Zero.
    pub pad: u16,
}

/// Value of `UDP_PEERS` and `TCP_PEERS`: the virtual address the program behind the socket asked for.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerValue {
    /// Virtual address, network order.
    pub vip: u32,
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
    pub const fn sealed(key: &PeerKey, vip: u32, port: u16) -> Self {
        let mut value = Self { vip, port, pad: 0, seal: 0 };
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
        seal([key.cookie as u32, (key.cookie >> 32) as u32, key.address, ports, self.vip])
    }
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
}

impl ServiceInfo {
    /// From text; what does not fit is cut.
    pub fn new(namespace: &str, name: &str, port_name: &str) -> Self {
        Self { namespace: text(namespace), name: text(name), port_name: text(port_name) }
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
        ServiceKey,
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
    use crate::{TCP, UDP, address, host_port, octets, port};

    #[test]
    fn layouts_are_those_of_version_1_and_have_no_hidden_padding() {
        assert_eq!(crate::LAYOUT_VERSION, 1);
        assert_eq!(size_of::<ServiceKey>(), 4 + 2 + 1 + 1);
        assert_eq!(size_of::<ServiceValue>(), 5 * 4);
        assert_eq!(size_of::<SlotKey>(), 3 * 4);
        assert_eq!(size_of::<SlotValue>(), 2 * 4);
        assert_eq!(size_of::<BackendValue>(), 4 + 2 + 2 + 4 + 4);
        assert_eq!(size_of::<StickyKey>(), 8 + 4 + 2 + 2);
        assert_eq!(size_of::<StickyValue>(), 2 * 4);
        assert_eq!(size_of::<PeerKey>(), 8 + 4 + 2 + 2);
        assert_eq!(size_of::<PeerValue>(), 4 + 2 + 2 + 4);
        assert_eq!(size_of::<ServiceCounters>(), 2 * 8);
        assert_eq!(size_of::<ServiceInfo>(), 3 * NAME_LEN);
        assert!(align_of::<StickyKey>() == 8 && align_of::<ServiceKey>() == 4);
    }

    #[test]
    fn addresses_and_ports_lie_in_memory_in_network_order() {
        assert_eq!(address([10, 96, 0, 1]).to_ne_bytes(), [10, 96, 0, 1]);
        assert_eq!(octets(address([10, 96, 0, 1])), [10, 96, 0, 1]);
        assert_eq!(port(0x1234).to_ne_bytes(), [0x12, 0x34]);
        assert_eq!(host_port(port(443)), 443);
    }

    #[test]
    fn a_seal_breaks_when_any_field_or_the_key_differs() {
        let key = ServiceKey::new(address([10, 96, 0, 1]), port(80), TCP);
        let value = ServiceValue::sealed(&key, 1, 2, 3);
        assert!(value.is_sealed_for(&key));
        for other in [
            ServiceKey { vip: address([10, 96, 0, 2]), ..key },
            ServiceKey { port: port(81), ..key },
            ServiceKey { protocol: UDP, ..key },
        ] {
            assert!(!value.is_sealed_for(&other));
        }
        for torn in [
            ServiceValue { id: 9, ..value },
            ServiceValue { generation: 9, ..value },
            ServiceValue { count: 9, ..value },
            ServiceValue { flags: 9, ..value },
        ] {
            assert!(!torn.is_sealed_for(&key));
        }

        let key = SlotKey { service: 1, generation: 1, slot: 0 };
        let value = SlotValue::sealed(&key, 7);
        assert!(value.is_sealed_for(&key));
        assert!(!value.is_sealed_for(&SlotKey { slot: 1, ..key }));
        assert!(!SlotValue { backend: 8, ..value }.is_sealed_for(&key));

        let value = BackendValue::sealed(7, 1, address([10, 0, 0, 1]), port(80));
        assert!(value.is_sealed_for(7));
        assert!(!value.is_sealed_for(8));
        assert!(!BackendValue { service: 2, ..value }.is_sealed_for(7));
        assert!(!BackendValue { port: port(81), ..value }.is_sealed_for(7));

        let key = PeerKey { cookie: 1 << 40, address: address([10, 0, 0, 1]), port: port(80), pad: 0 };
        let value = PeerValue::sealed(&key, address([10, 96, 0, 1]), port(443));
        assert!(value.is_sealed_for(&key));
        assert!(!value.is_sealed_for(&PeerKey { cookie: 1, ..key }));
    }

    #[test]
    fn names_survive_the_fixed_fields_and_are_cut_at_a_character() {
        let info = ServiceInfo::new("kube-system", "kube-dns", "dns-tcp");
        assert_eq!(info.names(), ("kube-system", "kube-dns", "dns-tcp"));
        let long = "é".repeat(40);
        assert_eq!(ServiceInfo::new("", &long, "").names().1, "é".repeat(32));
    }
}
