//! Blocks cut the address space into regions: an address belongs to the smallest prefix named by any block, as its CIDR
//! or as an exception. Whether a block allows an address depends on the address's region alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

/// A region, by number; 0 is outside of every block.
pub(super) type Region = u32;

/// All prefixes that blocks name.
#[derive(Debug, Default)]
pub(super) struct Regions {
    /// Prefix → (region, how many blocks name it).
    prefixes: BTreeMap<IpNet, (Region, usize)>,
    /// How many prefixes there are of each (is IPv6, length): a lookup tries only those.
    lengths: BTreeMap<(bool, u8), usize>,
    last: Region,
}

impl Regions {
    /// Names a prefix once more. The new region if it was not named before.
    pub(super) fn add(&mut self, prefix: IpNet) -> Option<Region> {
        if let Some((_, uses)) = self.prefixes.get_mut(&prefix) {
            *uses += 1;
            return None;
        }
        self.last += 1;
        self.prefixes.insert(prefix, (self.last, 1));
        *self.lengths.entry(kind(&prefix)).or_default() += 1;
        Some(self.last)
    }

    /// Names a prefix once less. The region if nobody names it any more.
    pub(super) fn remove(&mut self, prefix: IpNet) -> Option<Region> {
        let (region, uses) = self.prefixes.get_mut(&prefix)?;
        *uses -= 1;
        if *uses > 0 {
            return None;
        }
        let region = *region;
        self.prefixes.remove(&prefix);
        if let Some(count) = self.lengths.get_mut(&kind(&prefix)) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&kind(&prefix));
            }
        }
        Some(region)
    }

    /// The region of exactly this prefix.
    pub(super) fn named(&self, prefix: &IpNet) -> Option<Region> {
        self.prefixes.get(prefix).map(|&(region, _)| region)
    }

    /// The prefix of a region. Looks through all of them: for people.
    pub(super) fn prefix(&self, region: Region) -> Option<IpNet> {
        // Most addresses are in none.
        let named = (region != 0).then_some(&self.prefixes);
        named?.iter().find(|(_, (other, _))| *other == region).map(|(prefix, _)| *prefix)
    }

    /// The smallest prefix around an address.
    pub(super) fn of(&self, address: IpAddr) -> Region {
        let family = address.is_ipv6();
        let tried = self.lengths.range((family, 0)..=(family, 128)).rev();
        tried
            .filter_map(|(&(_, bits), _)| self.prefixes.get(&IpNet::new(address, bits).ok()?.trunc()))
            .map(|&(region, _)| region)
            .next()
            .unwrap_or(0)
    }

    /// Regions whose addresses are in the block.
    pub(super) fn within(&self, cidr: &IpNet, except: &[IpNet]) -> BTreeSet<Region> {
        let last = IpNet::from(cidr.broadcast());
        // By address, shorter prefixes first: everything inside of the CIDR lies between it and its last address.
        let inside = self.prefixes.range(*cidr..=last);
        inside.filter(|(prefix, _)| covers(cidr, except, prefix)).map(|(_, &(region, _))| region).collect()
    }
}

/// Is the region of this prefix in the block?
pub(super) fn covers(cidr: &IpNet, except: &[IpNet], prefix: &IpNet) -> bool {
    cidr.contains(prefix) && !except.iter().any(|hole| hole.contains(prefix))
}

fn kind(prefix: &IpNet) -> (bool, u8) {
    (prefix.addr().is_ipv6(), prefix.prefix_len())
}
