//! Who has an identity, and who speaks of it.

use std::collections::HashMap;

use crate::{Changes, Identity, Mirror};

/// How often identities are used. An identity is in here while something uses it.
#[derive(Debug, Default)]
pub(super) struct Uses {
    /// By prefixes.
    prefixes: HashMap<Identity, usize>,
    /// By entries of tables.
    entries: HashMap<Identity, usize>,
}

impl Uses {
    /// Takes changes over; `before` is what all former ones add up to. Identities that no prefix has any more are returned.
    pub(super) fn apply(&mut self, before: &Mirror, changes: &Changes) -> Vec<Identity> {
        for change in &changes.tables {
            change.added.iter().for_each(|entry| more(&mut self.entries, entry.identity));
            for entry in &change.removed {
                less(&mut self.entries, entry.identity);
            }
        }
        let mut gone = Vec::new();
        for (prefix, new) in &changes.identities {
            new.iter().for_each(|identity| more(&mut self.prefixes, *identity));
            let old = before.identities.get(prefix).copied();
            gone.extend(old.filter(|identity| less(&mut self.prefixes, *identity)));
        }
        gone
    }

    /// Does an address lose an identity that a table speaks of? Then connections that are open may not be allowed any more.
    pub(super) fn loses(&self, before: &Mirror, changes: &Changes) -> bool {
        changes.identities.iter().any(|(prefix, new)| {
            let old = before.identities.get(prefix);
            old.is_some_and(|old| Some(*old) != *new && self.entries.contains_key(old))
        })
    }

    /// Has any prefix this identity?
    pub(super) fn has(&self, identity: Identity) -> bool {
        self.prefixes.contains_key(&identity)
    }
}

fn more(uses: &mut HashMap<Identity, usize>, identity: Identity) {
    *uses.entry(identity).or_default() += 1;
}

/// Was it the last use?
fn less(uses: &mut HashMap<Identity, usize>, identity: Identity) -> bool {
    let Some(count) = uses.get_mut(&identity) else { return false };
    *count -= 1;
    let last = *count == 0;
    if last {
        uses.remove(&identity);
    }
    last
}
