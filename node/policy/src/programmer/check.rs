//! Comparing the maps with what was written, and putting right what somebody else changed.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use skep_ebpf_common::policy::DeviceKey;

use super::{ALL_IP4, Programmer};
use crate::{Identity, Result, kernel::maps::Rule};

impl Programmer {
    /// Compares all maps; how many entries had to be put right.
    pub(crate) fn check(&mut self) -> Result<usize> {
        if !self.is_in_force() {
            return Ok(0);
        }
        let state = usize::from(self.maps.state()? != self.state);
        if state > 0 {
            self.write_state(self.state)?;
        }
        self.maps.remove_other_generations(self.generation)?;
        let mended = state + self.check_devices()? + self.check_identities()? + self.check_rules()?;
        if mended > 0 {
            self.metrics.mended.inc_by(mended as u64);
            tracing::warn!(entries = mended, "somebody else changed what enforces NetworkPolicy: put right");
            self.settle(true)?;
        }
        Ok(mended)
    }

    fn check_devices(&mut self) -> Result<usize> {
        let found: BTreeMap<u32, _> = self.maps.devices_of(self.generation)?.into_iter().collect();
        let mut mended = 0;
        for index in found.keys().chain(self.devices.keys()).copied().collect::<BTreeSet<u32>>() {
            let wanted = self.devices.get(&index).copied();
            // The map's values have seals.
            let sealed = wanted.map(|value| value.sealed(&DeviceKey { generation: self.generation, index }));
            if found.get(&index) != sealed.as_ref() {
                self.maps.set_device(self.generation, index, wanted)?;
                mended += 1;
            }
        }
        Ok(mended)
    }

    fn check_identities(&mut self) -> Result<usize> {
        let found = self.maps.identities_of(self.generation)?;
        let mut wanted = self.wanted.identities.clone();
        wanted.entry(ALL_IP4).or_insert(Identity::WORLD);
        wanted.retain(|prefix, _| !self.failed_prefixes.contains(prefix));
        let mut wrong: HashSet<_> =
            found.iter().filter(|(prefix, identity)| wanted.get(prefix) != Some(*identity)).map(|(p, _)| *p).collect();
        wrong.extend(wanted.keys().filter(|prefix| !found.contains_key(prefix)));
        for prefix in &wrong {
            self.write_identity(*prefix);
        }
        Ok(wrong.len())
    }

    fn check_rules(&mut self) -> Result<usize> {
        let found = self.maps.rules_of(self.generation)?;
        let failed = |table, entry: &_| self.failed_rules.contains(&(table, *entry));
        let wanted: BTreeSet<Rule> = self
            .wanted
            .tables
            .iter()
            .flat_map(|(table, entries)| entries.iter().map(move |entry| (*table, entry)))
            .filter(|(table, entry)| !failed(*table, entry))
            .flat_map(|(table, entry)| Rule::all(self.generation, table, entry))
            .collect();
        let missing: Vec<Rule> = wanted.difference(&found).copied().collect();
        for rule in &missing {
            self.maps.set_rule(rule, true)?;
        }
        // What belongs to an entry that did not find room as a whole is there for good.
        let whole = self.failed_rules.is_empty();
        let extra: Vec<Rule> = found.difference(&wanted).copied().filter(|_| whole).collect();
        for rule in &extra {
            self.maps.set_rule(rule, false)?;
        }
        Ok(missing.len() + extra.len())
    }
}
