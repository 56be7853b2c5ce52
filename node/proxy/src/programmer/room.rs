//! How large the maps should be.

use std::path::Path;

use super::Programmer;
use crate::{
    Error, MapSizes, Result,
    growth::Larger,
    maps::{self, Part, ServiceMaps},
};

/// A map this full shall be made larger, in fourths.
const FULL: usize = 3;

/// Maps that have an entry for each of another one's, at most.
const COMPANIONS: [(&str, &str); 5] = [
    ("SERVICES", "SERVICE_INFO"),
    ("SERVICES", "SERVICE_STATS"),
    ("SERVICES", "SOURCE_RANGES"),
    ("BACKENDS", "BACKEND_STATS"),
    ("BACKENDS", maps::LOADS),
];

/// What a map had no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    map: &'static str,
    capacity: usize,
    /// Entries the change needed.
    wanted: usize,
}

impl Refused {
    /// The map that had no room.
    pub(crate) fn map(self) -> &'static str {
        self.map
    }

    /// If that is what an error says.
    pub(crate) fn of(error: &Error) -> Option<Self> {
        match error {
            Error::MapFull { map, capacity, wanted, .. } => Some(Self { map, capacity: *capacity, wanted: *wanted }),
            _ => None,
        }
    }
}

impl Programmer {
    /// The maps that should be larger, if so many service ports `more` come that are like those that are there: twice what
    /// they will hold, but no more than for `most`. Nothing is refused and nothing nearly full: none.
    pub(crate) fn larger(&self, refused: Option<Refused>, more: usize, most: &MapSizes, maglev: u32) -> Larger {
        let ceilings: Larger = maps::pinned(Part::Sockets { maglev }, most)
            .into_iter()
            .filter_map(|(name, capacity)| Some((name, capacity?)))
            .collect();
        let mut larger = Larger::new();
        let mut make = |map: &'static str, has: usize, wanted: usize| {
            let wanted = wanted.checked_next_power_of_two().and_then(|wanted| u32::try_from(wanted).ok());
            let ceiling = ceilings.get(map).copied().unwrap_or_default();
            let wanted = wanted.unwrap_or(u32::MAX).min(ceiling);
            if wanted as usize > has {
                larger.insert(map, wanted);
            }
        };
        let there = self.services.len().max(1);
        for fill in self.fill() {
            let refused = refused.filter(|refused| refused.map == fill.map);
            let used = fill.used + refused.map_or(0, |refused| refused.wanted);
            let expected = used.saturating_mul(there + more).div_ceil(there);
            if refused.is_some() || expected.saturating_mul(4) > fill.capacity.saturating_mul(FULL) {
                make(fill.map, fill.capacity, expected.saturating_mul(2));
            }
        }
        if let Some(refused) = refused.filter(|refused| refused.map == "SOURCE_RANGES") {
            // Nobody counts what is in it.
            make(refused.map, refused.capacity, (refused.capacity + refused.wanted).saturating_mul(2));
        }
        for (leader, companion) in COMPANIONS {
            if let Some(capacity) = larger.get(leader).copied() {
                let companion = larger.entry(companion).or_default();
                *companion = capacity.max(*companion);
            }
        }
        larger
    }

    /// Goes on with the maps that are pinned in `folder` by now, which hold the same.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub(crate) fn reopen(&mut self, folder: &Path) -> Result<()> {
        self.maps = ServiceMaps::open(folder)?;
        Ok(())
    }
}
