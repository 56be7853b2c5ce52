//! Pods of this node, as the programs know them that hand packets straight to a pod's device.
//!
//! ```text
//! PODS   address of a pod ──► the node's end of its device, how long a packet may be, who may use the short way
//! ```

use crate::{Address, seal};

/// Bits of [`PodValue::flags`].
pub mod pod_flags {
    /// What other pods of this node send may be handed to it directly. Not set where something at the node's end must see
    /// the packets: a NetworkPolicy that isolates the pod, a limit of bandwidth.
    pub const DIRECT: u32 = 1;
    /// So may what comes from outside of the node, besides [`DIRECT`].
    pub const FROM_OUTSIDE: u32 = 2;
}

/// Value of `PODS`, keyed by the pod's [`Address`].
///
/// Its shape is the same in every layout: a daemon closes the short way of other versions, too, before it enforces a policy.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodValue {
    /// Number of the node's end of the pod's device.
    pub index: u32,
    /// The longest IP packet that device takes, bytes.
    pub mtu: u32,
    /// Some of [`pod_flags`].
    pub flags: u32,
    /// Checksum over the key and the words before.
    pub seal: u32,
    /// What a frame to the pod begins with: its own hardware address and that of the node's end. Not sealed: the kernel
    /// delivers by the device and the address of the packet.
    pub macs: [[u8; 6]; 2],
}

impl PodValue {
    /// The value with the seal it needs under that key.
    #[must_use]
    pub const fn sealed_for(mut self, key: &Address) -> Self {
        self.seal = self.expected(key);
        self
    }

    /// Is this the value that was written under that key?
    #[inline(always)]
    pub const fn is_sealed_for(&self, key: &Address) -> bool {
        self.seal == self.expected(key)
    }

    #[inline(always)]
    const fn expected(&self, key: &Address) -> u32 {
        seal([key[0], key[1], key[2], key[3], self.index, self.mtu, self.flags])
    }
}

#[cfg(feature = "user")]
mod user {
    // SAFETY: repr(C), made of integers only and without padding (see the size test): any bit pattern is a value.
    unsafe impl aya::Pod for super::PodValue {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_no_padding() {
        assert_eq!(size_of::<PodValue>(), 4 * 4 + 12);
    }

    #[test]
    fn a_seal_covers_the_address_and_what_steers_packets() {
        let key = crate::mapped(1);
        let value = PodValue { index: 7, mtu: 1500, flags: pod_flags::DIRECT, ..PodValue::default() }.sealed_for(&key);
        assert!(value.is_sealed_for(&key));
        assert!(!value.is_sealed_for(&crate::mapped(2)));
        for other in [
            PodValue { index: 8, ..value },
            PodValue { mtu: 1400, ..value },
            PodValue { flags: pod_flags::DIRECT | pod_flags::FROM_OUTSIDE, ..value },
        ] {
            assert!(!other.is_sealed_for(&key), "{other:?}");
        }
    }
}
