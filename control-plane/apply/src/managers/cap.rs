//! The bound on the number of managers that write by updates.

use super::{Entry, Managed, Manager, Operation};

/// As many managers by update are told apart (upstream: 10).
const MAX_UPDATERS: usize = 10;
/// Who owns what the oldest of too many managers owned.
const ANCIENT: &str = "ancient-changes";

impl Managed {
    /// Unites the oldest managers by update, those of one version each, until there are few enough.
    pub(super) fn cap(&mut self) {
        let is_update = |entry: &Entry| entry.manager.operation == Operation::Update;
        if self.entries.iter().filter(|entry| is_update(entry)).count() <= MAX_UPDATERS {
            return;
        }
        let (mut updaters, appliers): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.entries).into_iter().partition(is_update);
        let seconds = |entry: &Entry| entry.time.as_ref().map_or(0, |time| time.0.as_second());
        updaters.sort_by(|a, b| seconds(a).cmp(&seconds(b)).then_with(|| a.manager.cmp(&b.manager)));
        self.entries = appliers;
        let mut count = updaters.len();
        let mut kept: Vec<Entry> = Vec::with_capacity(MAX_UPDATERS);
        for mut entry in updaters {
            let version = entry.manager.api_version.clone();
            let first = kept.iter().position(|other| other.manager.api_version == version);
            let Some(first) = first.filter(|_| count > MAX_UPDATERS) else {
                kept.push(entry);
                continue;
            };
            let bucket = &mut kept[first];
            bucket.manager = Manager {
                name: ANCIENT.to_owned(),
                operation: Operation::Update,
                api_version: version,
                subresource: String::new(),
            };
            let fields = std::mem::take(entry.set());
            bucket.unite(fields);
            // That of the younger one.
            bucket.time = entry.time;
            count -= 1;
        }
        self.entries.extend(kept);
    }
}
