//! The ranges of the cluster's own addresses. What pods send elsewhere gets the node's address.

use std::{collections::BTreeSet, net::IpAddr, path::Path};

use aya::maps::{LpmTrie, Map, MapData, lpm_trie::Key};
use skep_ebpf_common::Address;

use crate::{Error, Result, maps::INSIDE, service::from_map, service::to_map};

/// An address and the length of its prefix.
pub type Range = (IpAddr, u8);

/// The map, and what is in it.
pub(super) struct Inside {
    map: LpmTrie<MapData, Address, u32>,
    ranges: BTreeSet<Range>,
}

impl Inside {
    /// Opens the map pinned in `maps`, and reads it.
    pub(super) fn open(maps: &Path) -> Result<Self> {
        let failed = |source| Error::Map { name: INSIDE, source };
        let data = MapData::from_pin(maps.join(INSIDE)).map_err(failed)?;
        let map = Map::from_map_data(data).map_err(failed)?;
        let map: LpmTrie<MapData, Address, u32> = map.try_into().map_err(failed)?;
        let ranges = map.keys().map(|key| key.map(|key| range(&key))).collect::<Result<_, _>>().map_err(failed)?;
        Ok(Self { map, ranges })
    }

    /// Makes the map hold these ranges. What comes is there before what goes is gone.
    pub(super) fn set(&mut self, wanted: &BTreeSet<Range>) -> Result<()> {
        let failed = |source| Error::Map { name: INSIDE, source };
        for new in wanted.difference(&self.ranges.clone()) {
            self.map.insert(&key(*new), 1, 0).map_err(failed)?;
            self.ranges.insert(*new);
        }
        for old in self.ranges.clone().difference(wanted) {
            self.map.remove(&key(*old)).map_err(failed)?;
            self.ranges.remove(old);
        }
        Ok(())
    }
}

impl std::fmt::Debug for Inside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inside").field("ranges", &self.ranges).finish_non_exhaustive()
    }
}

/// An IPv4 range is one of mapped addresses.
fn key((address, length): Range) -> Key<Address> {
    let before = if address.is_ipv4() { 96 } else { 0 };
    Key::new(before + u32::from(length), to_map(address))
}

fn range(key: &Key<Address>) -> Range {
    let address = from_map(key.data());
    let before = if address.is_ipv4() { 96 } else { 0 };
    (address, u8::try_from(key.prefix_len().saturating_sub(before)).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_survives_the_way_through_a_key() {
        for (address, length) in
            [("10.1.0.0", 16), ("0.0.0.0", 0), ("fd00::", 48), ("192.0.2.1", 32), ("2001:db8::1", 128)]
        {
            let wanted = (address.parse().unwrap(), length);
            assert_eq!(range(&key(wanted)), wanted, "{address}/{length}");
        }
    }
}
