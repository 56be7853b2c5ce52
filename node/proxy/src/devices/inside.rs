//! The ranges of the cluster's own addresses. What pods send elsewhere gets the node's address.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
};

use aya::maps::{LpmTrie, Map, MapData, lpm_trie::Key};
use skep_ebpf_common::{Address, conntrack::inside};

use crate::{Error, Result, maps::INSIDE, service::from_map, service::to_map};

/// An address and the length of its prefix.
pub type Range = (IpAddr, u8);

/// The map, and what is in it.
pub(super) struct Inside {
    map: LpmTrie<MapData, Address, u32>,
    /// Each with one of [`inside`].
    ranges: BTreeMap<Range, u32>,
}

impl Inside {
    /// Opens the map pinned in `maps`, and reads it.
    pub(super) fn open(maps: &Path) -> Result<Self> {
        let failed = |source| Error::Map { name: INSIDE, source };
        let data = MapData::from_pin(maps.join(INSIDE)).map_err(failed)?;
        let map = Map::from_map_data(data).map_err(failed)?;
        let map: LpmTrie<MapData, Address, u32> = map.try_into().map_err(failed)?;
        let ranges = map.iter().map(|entry| entry.map(|(key, what)| (range(&key), what)));
        let ranges = ranges.collect::<Result<_, _>>().map_err(failed)?;
        Ok(Self { map, ranges })
    }

    /// Makes the map hold these ranges and nodes. What comes is there before what goes is gone.
    pub(super) fn set(&mut self, ranges: &BTreeSet<Range>, nodes: &BTreeSet<IpAddr>) -> Result<()> {
        let failed = |source| Error::Map { name: INSIDE, source };
        let mut wanted: BTreeMap<Range, u32> = ranges.iter().map(|range| (*range, inside::RANGE)).collect();
        wanted.extend(nodes.iter().map(|node| ((*node, if node.is_ipv4() { 32 } else { 128 }), inside::NODE)));
        for (range, what) in &wanted {
            if self.ranges.get(range) != Some(what) {
                self.map.insert(&key(*range), *what, 0).map_err(failed)?;
                self.ranges.insert(*range, *what);
            }
        }
        let old: Vec<Range> = self.ranges.keys().filter(|range| !wanted.contains_key(range)).copied().collect();
        for old in old {
            self.map.remove(&key(old)).map_err(failed)?;
            self.ranges.remove(&old);
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
