//! The addresses of one pod CIDR.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::{Error, Result};

/// The addresses of a CIDR that pods can have: all but the network's own (the node's end of the VXLAN), the one after it
/// (a gateway elsewhere), and IPv4's broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pool {
    pub(super) cidr: IpNet,
    /// The first, as a number.
    first: u128,
    count: u128,
}

impl Pool {
    /// # Errors
    /// When no address is left (longer than /30, of IPv6 /126).
    pub(super) fn new(cidr: IpNet) -> Result<Self> {
        let (cidr, longest) = (cidr.trunc(), cidr.max_prefix_len() - 2);
        if cidr.prefix_len() > longest {
            return Err(Error::Config(format!(
                "the pod CIDR {cidr} has no address for a pod: it must be /{longest} or larger"
            )));
        }
        let first = bits(cidr.network()) + 2;
        let last = bits(cidr.broadcast()) - u128::from(cidr.addr().is_ipv4());
        // The range of all IPv6 has one more than a number can say.
        Ok(Self { cidr, first, count: (last - first).saturating_add(1) })
    }

    /// The first free address after the one given out last; from the start if that is none of the pool.
    pub(super) fn next(&self, last: Option<IpAddr>, used: &HashSet<IpAddr>) -> Result<IpAddr> {
        let after = last.filter(|last| self.cidr.contains(last)).and_then(|last| bits(last).checked_sub(self.first));
        let start = after.map_or(0, |after| after.saturating_add(1));
        // One more than are in use, and one of them is free; unless there are no more.
        let tries = self.count.min(used.len() as u128 + 1);
        (0..tries)
            .map(|n| self.address(self.first + start.wrapping_add(n) % self.count))
            .find(|address| !used.contains(address))
            .ok_or(Error::Exhausted { cidr: self.cidr, used: used.len() })
    }

    fn address(&self, bits: u128) -> IpAddr {
        match self.cidr {
            // What is above 32 bits cannot be: it lies in the CIDR.
            IpNet::V4(_) => Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX)).into(),
            IpNet::V6(_) => Ipv6Addr::from_bits(bits).into(),
        }
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(cidr: &str) -> Pool {
        Pool::new(cidr.parse().unwrap()).unwrap()
    }

    #[test]
    fn the_last_of_an_ipv6_range_is_for_a_pod_too() {
        let pool = pool("fd00::/126");
        let [first, second]: [IpAddr; 2] = ["fd00::2".parse().unwrap(), "fd00::3".parse().unwrap()];
        assert_eq!(pool.next(None, &HashSet::new()).unwrap(), first);
        assert_eq!(pool.next(Some(first), &HashSet::new()).unwrap(), second);
        assert_eq!(pool.next(Some(second), &HashSet::new()).unwrap(), first);
        let error = pool.next(None, &HashSet::from([first, second])).unwrap_err().to_string();
        assert_eq!(error, "no free address in fd00::/126: all 2 are in use by pods of this node");
    }

    #[test]
    fn the_largest_ranges_are_counted_without_overflow() {
        for (cidr, first) in [("::/0", "::2"), ("0.0.0.0/0", "0.0.0.2"), ("fd00::/64", "fd00::2")] {
            assert_eq!(pool(cidr).next(None, &HashSet::new()).unwrap().to_string(), first);
        }
        let last: IpAddr = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap();
        assert!(pool("::/0").next(Some(last), &HashSet::new()).is_ok());
        assert!(Pool::new("fd00::/127".parse().unwrap()).is_err());
    }
}
