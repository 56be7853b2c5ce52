//! The CIDRs of one size within a cluster CIDR: which are taken, which is next. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// One bit per node CIDR.
#[derive(Clone, Debug)]
pub(crate) struct CidrSet {
    cluster: IpNet,
    mask: u8,
    taken: Vec<bool>,
    next: usize,
}

impl CidrSet {
    /// All CIDRs of size `mask` in `cluster`. The caller has checked that `mask` fits and that there are not too many.
    pub(crate) fn new(cluster: IpNet, mask: u8) -> Self {
        let bits = u32::from(mask.saturating_sub(cluster.prefix_len())).min(16);
        Self { cluster: cluster.trunc(), mask, taken: vec![false; 1 << bits], next: 0 }
    }

    /// True if both have the same address family.
    pub(crate) fn is_family_of(&self, net: &IpNet) -> bool {
        self.cluster.addr().is_ipv4() == net.addr().is_ipv4()
    }

    /// The cluster CIDR.
    pub(crate) fn cluster(&self) -> IpNet {
        self.cluster
    }

    /// Takes the next free CIDR; None if there is none. Goes round, so that a released CIDR rests before it is reused.
    pub(crate) fn allocate(&mut self) -> Option<IpNet> {
        let count = self.taken.len();
        let index = (0..count).map(|step| (self.next + step) % count).find(|index| !self.taken[*index])?;
        self.taken[index] = true;
        self.next = (index + 1) % count;
        self.at(index)
    }

    /// Marks everything that overlaps `net` as taken. False if `net` is outside the cluster CIDR.
    pub(crate) fn occupy(&mut self, net: &IpNet) -> bool {
        self.mark(net, true)
    }

    /// Gives back what overlaps `net`.
    pub(crate) fn release(&mut self, net: &IpNet) {
        self.mark(net, false);
    }

    fn mark(&mut self, net: &IpNet, taken: bool) -> bool {
        let Some((first, last)) = self.range(net) else { return false };
        self.taken[first..=last].fill(taken);
        true
    }

    fn range(&self, net: &IpNet) -> Option<(usize, usize)> {
        if !self.is_family_of(net) {
            return None;
        }
        if net.contains(&self.cluster) {
            return Some((0, self.taken.len() - 1));
        }
        if !self.cluster.contains(net) {
            return None;
        }
        Some((self.index(net.network())?, self.index(net.broadcast())?))
    }

    fn index(&self, address: IpAddr) -> Option<usize> {
        let offset = number(address).checked_sub(number(self.cluster.network()))?;
        let index = offset.checked_shr(self.host_bits()).unwrap_or(0);
        usize::try_from(index).ok().filter(|index| *index < self.taken.len())
    }

    fn at(&self, index: usize) -> Option<IpNet> {
        let offset = u128::try_from(index).ok()?.checked_shl(self.host_bits()).unwrap_or(0);
        let start = number(self.cluster.network()).checked_add(offset)?;
        let address = match self.cluster {
            IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(start).ok()?)),
            IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(start)),
        };
        IpNet::new(address, self.mask).ok()
    }

    fn host_bits(&self) -> u32 {
        u32::from(self.cluster.max_prefix_len() - self.mask)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn every_cidr_is_handed_out_once_and_then_none() {
        let mut set = CidrSet::new(net("10.244.0.0/22"), 24);
        let all: Vec<_> = std::iter::from_fn(|| set.allocate()).collect();
        assert_eq!(all, ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"].map(net));
        set.release(&net("10.244.2.0/24"));
        assert_eq!(set.allocate(), Some(net("10.244.2.0/24")));
    }

    #[test]
    fn a_larger_occupied_range_blocks_all_its_parts() {
        let mut set = CidrSet::new(net("10.244.0.0/22"), 24);
        assert!(set.occupy(&net("10.244.2.0/23")));
        assert!(set.occupy(&net("10.244.0.128/25")));
        assert!(!set.occupy(&net("192.168.0.0/24")));
        assert_eq!(set.allocate(), Some(net("10.244.1.0/24")));
        assert_eq!(set.allocate(), None);
    }

    #[test]
    fn ipv6_works_the_same() {
        let mut set = CidrSet::new(net("fd00:10::/56"), 64);
        assert_eq!(set.allocate(), Some(net("fd00:10::/64")));
        assert_eq!(set.allocate(), Some(net("fd00:10:0:1::/64")));
        assert!(!set.occupy(&net("10.0.0.0/24")));
    }

    proptest! {
        #[test]
        fn no_cidr_is_ever_given_to_two_nodes(steps in proptest::collection::vec(any::<(bool, u8)>(), 1..300)) {
            let mut set = CidrSet::new(net("10.0.0.0/19"), 24);
            let mut held: Vec<IpNet> = Vec::new();
            for (allocate, which) in steps {
                if allocate {
                    match set.allocate() {
                        Some(cidr) => held.push(cidr),
                        None => prop_assert_eq!(held.len(), 32),
                    }
                } else if !held.is_empty() {
                    let cidr = held.swap_remove(usize::from(which) % held.len());
                    set.release(&cidr);
                }
                prop_assert_eq!(held.iter().collect::<HashSet<_>>().len(), held.len());
            }
        }
    }
}
