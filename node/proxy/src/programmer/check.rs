//! Comparing the maps with the mirror, and mending what somebody else changed.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

use aya::{
    Pod,
    maps::{LpmTrie, MapData, lpm_trie::Key},
};
use skep_ebpf_common::{
    Address, AddressValue, BackendValue, FrontendKey, FrontendValue, ServiceInfo, ServiceValue, SlotKey, SlotValue,
    SourceRange, dsr::LocalKey,
};

use super::{
    Plan, Programmer,
    entries::{backend_value, info, range_key, slot_keys},
    locals,
};
use crate::{Error, Result, maps::Table};

/// What the maps should hold.
#[derive(Default)]
struct Wanted {
    frontends: HashMap<FrontendKey, FrontendValue>,
    services: HashMap<u32, ServiceValue>,
    slots: HashMap<SlotKey, SlotValue>,
    backends: HashMap<u32, BackendValue>,
    locals: HashMap<LocalKey, u32>,
    infos: HashMap<u32, ServiceInfo>,
    addresses: HashMap<Address, AddressValue>,
    /// Lengths of prefixes, and their data.
    ranges: HashSet<(u32, SourceRange)>,
}

impl Programmer {
    /// Reads all maps and makes them hold exactly what was written. Returns how many entries were not as they should be:
    /// zero unless somebody else wrote to them.
    ///
    /// # Errors
    /// When a map cannot be read or refuses a write.
    pub fn check(&mut self) -> Result<usize> {
        let mut wanted = Wanted { addresses: self.addresses.entries().collect(), ..Wanted::default() };
        // What is known to be damaged is written anew by the next change.
        for (port, live) in self.services.iter().filter(|(_, live)| live.whole) {
            let id = live.id;
            let plan = Plan::new(&live.service, &live.backends);
            let value = ServiceValue { generation: live.generation, ..plan.value }.sealed(id);
            wanted.services.insert(id, value);
            wanted.infos.insert(id, info(port));
            let keys = slot_keys(id, live.generation, plan.slots.len());
            wanted.slots.extend(keys.zip(&plan.slots).map(|(key, backend)| (key, SlotValue::sealed(&key, *backend))));
            wanted.backends.extend(live.backends.iter().map(|placed| (placed.id, backend_value(id, placed))));
            wanted.locals.extend(locals::entries(id, &live.backends));
            let ranges = live.service.source_ranges.iter().map(|range| range_key(id, *range));
            wanted.ranges.extend(ranges.map(|key| (key.prefix_len(), key.data())));
            for (frontend, kind) in &live.service.frontends {
                let key = frontend.key();
                wanted.frontends.insert(key, FrontendValue::sealed(&key, id, kind.number()));
            }
        }
        // From what is led to, to what leads there.
        let maps = &mut self.maps;
        Ok(mend(&mut maps.backends, &wanted.backends)?
            + mend(&mut maps.locals, &wanted.locals)?
            + mend(&mut maps.slots, &wanted.slots)?
            + mend(&mut maps.info, &wanted.infos)?
            + mend_ranges(&mut maps.source_ranges, &wanted.ranges)?
            + mend(&mut maps.services, &wanted.services)?
            + mend(&mut maps.addresses, &wanted.addresses)?
            + mend(&mut maps.frontends, &wanted.frontends)?)
    }
}

/// Makes a map hold exactly that. Returns how many entries it lacked, had too many or had otherwise.
fn mend<K: Pod + Eq + Hash, V: Pod + PartialEq>(table: &mut Table<K, V>, wanted: &HashMap<K, V>) -> Result<usize> {
    let found: HashMap<K, V> = table.entries()?.into_iter().collect();
    let mut mended = 0;
    for (key, value) in wanted.iter().filter(|(key, value)| found.get(key) != Some(value)) {
        table.insert(key, value)?;
        mended += 1;
    }
    for key in found.keys().filter(|key| !wanted.contains_key(key)) {
        table.remove(key)?;
        mended += 1;
    }
    tell(table.name(), mended);
    Ok(mended)
}

/// The same for the source ranges, whose values say nothing.
fn mend_ranges(map: &mut LpmTrie<MapData, SourceRange, u32>, wanted: &HashSet<(u32, SourceRange)>) -> Result<usize> {
    let name = "SOURCE_RANGES";
    let keys: Vec<Key<SourceRange>> = map.keys().collect::<Result<_, _>>().map_err(Error::map(name))?;
    let found: HashSet<(u32, SourceRange)> = keys.iter().map(|key| (key.prefix_len(), key.data())).collect();
    for (length, data) in wanted.difference(&found) {
        map.insert(&Key::new(*length, *data), 1, 0).map_err(Error::map(name))?;
    }
    for (length, data) in found.difference(wanted) {
        map.remove(&Key::new(*length, *data)).map_err(Error::map(name))?;
    }
    let mended = wanted.symmetric_difference(&found).count();
    tell(name, mended);
    Ok(mended)
}

fn tell(map: &str, entries: usize) {
    if entries > 0 {
        tracing::error!(map, entries, "a service map was changed by somebody else; mended");
    }
}
