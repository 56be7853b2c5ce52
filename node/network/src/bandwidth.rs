//! Bandwidth limits of pods, which the runtime reads from `kubernetes.io/ingress-bandwidth` and `egress-bandwidth` and hands
//! over as the capability `bandwidth`.
//! <https://www.cni.dev/docs/conventions/#well-known-capabilities>

use serde::{Deserialize, Serialize};

use crate::netlink::Netlink;
use crate::{Error, Lease, Result, netns, pod_link};

/// The least burst: a packet as large as a device may hand over whole.
const MIN_BURST: u64 = 64 * 1024;
const MAX_BURST: u64 = 512 * 1024 * 1024;

/// `runtimeConfig.bandwidth`: what a pod may receive and send; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bandwidth {
    /// Bits a second towards the pod.
    pub ingress_rate: u64,
    /// Bits towards the pod at once.
    pub ingress_burst: u64,
    /// Bits a second from the pod.
    pub egress_rate: u64,
    /// Bits from the pod at once.
    pub egress_burst: u64,
}

/// Limits what a connected pod receives (at the node's end) and sends (at its own), as its lease says.
pub(crate) fn limit(lease: &Lease) -> Result<()> {
    let bandwidth = lease.limits;
    if bandwidth.ingress_rate > 0 {
        let name = pod_link::host_device_name(&lease.container, &lease.interface);
        apply(&mut Netlink::open()?, &name, bandwidth.ingress_rate, bandwidth.ingress_burst)?;
    }
    if bandwidth.egress_rate > 0 {
        let namespace = netns::open(&lease.namespace)?;
        netns::within(&lease.namespace, &namespace, || {
            apply(&mut Netlink::open()?, &lease.interface, bandwidth.egress_rate, bandwidth.egress_burst)
        })?;
    }
    Ok(())
}

fn apply(netlink: &mut Netlink, name: &str, rate: u64, burst: u64) -> Result<()> {
    let link = netlink.link(name)?.ok_or_else(|| Error::Broken(format!("there is no link {name}")))?;
    netlink.limit_rate(link.index, (rate / 8).max(1), burst_bytes(rate, burst))
}

/// Runtimes that know no burst ask for the largest there is, with which a pod would not be limited for its first half
/// gigabyte. No more than a tenth of a second's worth is given.
fn burst_bytes(rate: u64, burst: u64) -> u32 {
    let wanted = if burst == 0 { u64::MAX } else { burst / 8 };
    let bytes = wanted.min(rate / 80).clamp(MIN_BURST, MAX_BURST);
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_no_way_around_the_limit() {
        let unlimited = u64::from(u32::MAX);
        assert_eq!(burst_bytes(1_000_000_000, unlimited), 12_500_000);
        assert_eq!(burst_bytes(1_000_000_000, 8_000_000), 1_000_000);
        assert_eq!(burst_bytes(1_000_000, unlimited), 64 * 1024);
        assert_eq!(burst_bytes(1_000_000, 0), 64 * 1024);
    }
}
