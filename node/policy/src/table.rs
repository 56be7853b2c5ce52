//! Verdict tables: what a local pod's connections are looked up in.

use std::collections::BTreeMap;

/// Which way a connection goes, seen from the pod the table is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// To the pod.
    Ingress,
    /// From the pod.
    Egress,
}

/// Number of all peers that policies cannot tell apart. Never given to something else while it is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(pub u32);

impl Identity {
    /// In a table's entry: every peer. No peer has it.
    pub const ANY: Self = Self(0);
    /// An address that is nobody's in the cluster and lies in no `ipBlock`.
    pub const WORLD: Self = Self(1);
    /// The node that enforces. Traffic between it and its own pods is always allowed.
    pub const HOST: Self = Self(2);
    /// Another node, at an address in no `ipBlock`.
    pub const REMOTE_NODE: Self = Self(3);
    /// The first number for everything else.
    pub const FIRST: Self = Self(256);
    /// Set in the numbers of other nodes at addresses in `ipBlock`s.
    pub const NODE_BIT: u32 = 1 << 31;
}

/// Number of a verdict table. Pods of the same labels and named ports in one namespace share one.
pub type TableId = u32;

/// What a local pod's address leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The table, of meaning where one of the flags is set.
    pub table: TableId,
    /// Is only what the table says allowed to reach the pod?
    pub ingress: bool,
    /// Is only what the table says allowed to leave the pod?
    pub egress: bool,
}

impl Endpoint {
    /// Is this direction looked up at all?
    pub fn isolated(&self, direction: Direction) -> bool {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }
}

/// Something a table allows. There are no entries that refuse: an isolated pod is refused what no entry allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entry {
    /// Which way.
    pub direction: Direction,
    /// The peer, or [`Identity::ANY`].
    pub identity: Identity,
    /// IP protocol number; 0 is every protocol, those without ports too.
    pub protocol: u8,
    /// First port allowed; 0 where `protocol` is 0.
    pub low: u16,
    /// Last port allowed; 65535 where `protocol` is 0.
    pub high: u16,
}

/// A compiled table: sorted entries, ranges of one peer and protocol neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// As [`Endpoint::ingress`].
    pub ingress: bool,
    /// As [`Endpoint::egress`].
    pub egress: bool,
    entries: Box<[Entry]>,
}

impl Table {
    /// From entries in any order, with repetitions: merges ranges and drops what a wider entry already says.
    pub(crate) fn new(ingress: bool, egress: bool, entries: Vec<Entry>) -> Self {
        let mut ranges: BTreeMap<(Direction, Identity, u8), Vec<(u16, u16)>> = BTreeMap::new();
        for entry in entries {
            ranges.entry((entry.direction, entry.identity, entry.protocol)).or_default().push((entry.low, entry.high));
        }
        for list in ranges.values_mut() {
            list.sort_unstable();
            list.dedup_by(|next, kept| {
                let joined = u32::from(next.0) <= u32::from(kept.1) + 1;
                if joined {
                    kept.1 = kept.1.max(next.1);
                }
                joined
            });
        }
        let whole = |direction, identity| ranges.contains_key(&(direction, identity, 0));
        let mut kept = Vec::new();
        for (&(direction, identity, protocol), list) in &ranges {
            if identity != Identity::ANY && whole(direction, Identity::ANY)
                || protocol != 0 && whole(direction, identity)
            {
                continue;
            }
            kept.extend(list.iter().map(|&(low, high)| Entry { direction, identity, protocol, low, high }));
        }
        Self { ingress, egress, entries: kept.into() }
    }

    /// What it allows, sorted.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What `self` has and `other` has not.
    pub(crate) fn beyond(&self, other: &Self) -> Vec<Entry> {
        self.entries.iter().filter(|entry| other.entries.binary_search(entry).is_err()).copied().collect()
    }
}

/// A range of ports as (port, bits of it that count), the fewest there are; at most 30. What a trie can look up.
pub fn prefixes(low: u16, high: u16) -> Vec<(u16, u8)> {
    let (mut next, end) = (u32::from(low), u32::from(high) + 1);
    let mut found = Vec::new();
    while next < end {
        // The largest block that starts here, then halved until it does not reach past the end.
        let mut size = if next == 0 { 1 << 16 } else { 1 << next.trailing_zeros() };
        while next + size > end {
            size >>= 1;
        }
        found.push((next as u16, 16 - size.trailing_zeros() as u8));
        next += size;
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn covers((port, bits): (u16, u8), probe: u16) -> bool {
        bits == 0 || (port ^ probe) >> (16 - bits) == 0
    }

    #[test]
    fn all_ports_are_one_prefix_of_no_bits() {
        assert_eq!(prefixes(0, 65535), [(0, 0)]);
        assert_eq!(prefixes(80, 80), [(80, 16)]);
        assert_eq!(prefixes(1, 65534).len(), 30);
    }

    #[test]
    fn a_wider_entry_swallows_narrower_ones() {
        let entry =
            |identity, protocol, low, high| Entry { direction: Direction::Ingress, identity, protocol, low, high };
        let a = Identity(300);
        let table = Table::new(true, false, vec![entry(a, 6, 80, 90), entry(a, 6, 91, 99), entry(a, 17, 5, 5)]);
        assert_eq!(table.entries(), [entry(a, 6, 80, 99), entry(a, 17, 5, 5)]);
        let table = Table::new(true, false, vec![entry(a, 6, 80, 90), entry(a, 0, 0, 65535)]);
        assert_eq!(table.entries(), [entry(a, 0, 0, 65535)]);
        let table = Table::new(true, false, vec![entry(a, 0, 0, 65535), entry(Identity::ANY, 0, 0, 65535)]);
        assert_eq!(table.entries(), [entry(Identity::ANY, 0, 0, 65535)]);
    }

    proptest! {
        #[test]
        fn prefixes_cover_their_range_once_and_nothing_else(a: u16, b: u16, probes: [u16; 32]) {
            let (low, high) = (a.min(b), a.max(b));
            let found = prefixes(low, high);
            for probe in probes.into_iter().chain([low, high, low.wrapping_sub(1), high.wrapping_add(1)]) {
                let times = found.iter().filter(|&&prefix| covers(prefix, probe)).count();
                prop_assert_eq!(times, usize::from((low..=high).contains(&probe)));
            }
        }
    }
}
