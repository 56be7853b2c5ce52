//! `metadata.managedFields`: who owns which fields of an object.

mod cap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry, Time};
use serde_json::Value;

use crate::{
    error::Error,
    set::{Path, Set},
    versions::Changes,
};

/// The type of fields this crate writes.
const FIELDS_TYPE: &str = "FieldsV1";

/// How a manager wrote its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// By server-side apply.
    Apply,
    /// By any other write.
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// Who writes, how, through what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Manager {
    /// Its name (`fieldManager`).
    pub name: String,
    /// How it writes.
    pub operation: Operation,
    /// The version of the object it writes.
    pub api_version: String,
    /// The subresource it writes through; empty for none.
    pub subresource: String,
}

impl Manager {
    /// Whether both are one manager: an applier is the same in all versions.
    pub fn is_same(&self, other: &Self) -> bool {
        self.operation == other.operation
            && self.name == other.name
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }
}

/// What one manager owns.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) manager: Manager,
    pub(crate) time: Option<Time>,
    fields: Fields,
}

/// Stored sets are read only when they change: most writes concern one manager of several.
#[derive(Clone, Debug)]
enum Fields {
    Stored(Value),
    Set(Set),
}

/// What is owned by whom.
#[derive(Clone, Debug, Default)]
pub struct Managed {
    pub(crate) entries: Vec<Entry>,
}

impl Managed {
    /// Reads what an object says; sets are read when they are needed.
    ///
    /// # Errors
    /// When an entry is of no known kind.
    pub fn decode(stored: Vec<ManagedFieldsEntry>) -> Result<Self, Error> {
        let entries = stored.into_iter().enumerate().map(|(at, entry)| Entry::decode(at, entry));
        Ok(Self { entries: entries.collect::<Result<_, _>>()? })
    }

    /// The same for what a client sent, all of it read.
    ///
    /// # Errors
    /// When anything in it cannot be read.
    pub fn decode_all(given: Vec<ManagedFieldsEntry>) -> Result<Self, Error> {
        let mut managed = Self::decode(given)?;
        for entry in &mut managed.entries {
            entry.try_set()?;
        }
        Ok(managed)
    }

    /// What is owned before an update: what the client says of it counts if it can be read (and `[]` or `[{}]` clears it),
    /// else what is stored.
    pub fn of_update(stored: &[ManagedFieldsEntry], given: Option<Vec<ManagedFieldsEntry>>) -> Self {
        let clears = |given: &[ManagedFieldsEntry]| match given {
            [] => true,
            [one] => *one == ManagedFieldsEntry::default(),
            _ => false,
        };
        if given.as_deref().is_some_and(clears) {
            return Self::default();
        }
        let given = given.unwrap_or_default();
        if !given.is_empty()
            && given != stored
            && let Ok(managed) = Self::decode_all(given.clone())
        {
            return managed;
        }
        Self::of_part(stored, given)
    }

    /// The same of an update through a subresource, where what the client says does not count.
    pub fn of_part(stored: &[ManagedFieldsEntry], given: Vec<ManagedFieldsEntry>) -> Self {
        // Most clients send back what they were given: no copy is needed then.
        let stored = if given == stored { given } else { stored.to_vec() };
        Self::decode(stored).unwrap_or_default()
    }

    /// As it is stored; none if nobody owns anything.
    pub fn encode(mut self) -> Option<Vec<ManagedFieldsEntry>> {
        if self.entries.is_empty() {
            return None;
        }
        let seconds = |entry: &Entry| entry.time.as_ref().map_or(0, |time| time.0.as_second());
        self.entries.sort_by(|a, b| {
            let (x, y) = (&a.manager, &b.manager);
            x.operation
                .cmp(&y.operation)
                .then_with(|| seconds(a).cmp(&seconds(b)))
                .then_with(|| x.name.cmp(&y.name))
                .then_with(|| x.api_version.cmp(&y.api_version))
                .then_with(|| x.subresource.cmp(&y.subresource))
        });
        Some(self.entries.into_iter().map(Entry::encode).collect())
    }

    /// Whether nobody owns anything.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn find(&mut self, manager: &Manager) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.manager.is_same(manager))
    }

    /// Notes that `manager` wrote a state that differs by `changes` from what was there: it owns what it added and changed,
    /// others no longer do; what it removed nobody owns. Managers of versions that are no more are forgotten.
    ///
    /// Its time is set only if it wrote something.
    pub fn update(&mut self, changes: &Changes, manager: &Manager, now: Timestamp) {
        debug_assert_eq!(manager.operation, Operation::Update);
        self.release(changes, manager);
        let taken = changes.own().taken.clone().difference(&crate::reset::STRIPPED);
        if !taken.is_empty() {
            let time = Some(whole_seconds(now));
            match self.find(manager) {
                Some(entry) => {
                    entry.unite(taken);
                    entry.time = time;
                }
                None => self.entries.push(Entry { manager: manager.clone(), time, fields: Fields::Set(taken) }),
            }
        }
        self.cap();
    }

    /// What others own of what changed.
    pub(crate) fn conflicts(&mut self, changes: &Changes, manager: &Manager) -> Vec<(Manager, Path)> {
        let mut found = Vec::new();
        for entry in &mut self.entries {
            let change = changes.of(&entry.manager.api_version, &manager.api_version);
            let Some(change) = change.filter(|_| !entry.manager.is_same(manager)) else { continue };
            if entry.overlaps(&change.taken) {
                let paths = entry.set().intersection(&change.taken).paths();
                found.extend(paths.into_iter().map(|path| (entry.manager.clone(), path)));
            }
        }
        found.sort();
        found
    }

    /// Takes what changed from all but `manager`, and what was removed from everyone.
    fn release(&mut self, changes: &Changes, manager: &Manager) {
        self.entries.retain_mut(|entry| {
            let Some(change) = changes.of(&entry.manager.api_version, &manager.api_version) else { return false };
            if !entry.manager.is_same(manager) && entry.overlaps(&change.taken) {
                entry.subtract(&change.taken);
            }
            if entry.overlaps(&change.removed) {
                entry.subtract(&change.removed);
            }
            !entry.set_is_empty()
        });
    }

    /// Takes what changed or was removed from all but `manager`.
    pub(crate) fn release_others(&mut self, changes: &Changes, manager: &Manager) {
        let own: Vec<Entry> = self.entries.extract_if(.., |entry| entry.manager.is_same(manager)).collect();
        self.release(changes, manager);
        self.entries.extend(own);
    }

    /// Makes `set` all that an applier owns.
    pub(crate) fn replace(&mut self, manager: &Manager, set: Set) {
        match self.find(manager) {
            Some(entry) => {
                entry.manager = manager.clone();
                entry.fields = Fields::Set(set);
            }
            None => {
                self.entries.push(Entry { manager: manager.clone(), time: None, fields: Fields::Set(set) });
            }
        }
    }
}

/// Times are stored without fractions of a second.
pub(crate) fn whole_seconds(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// Puts the times of `old` into `new` if that is all they differ in, and says whether it is.
pub fn keep_times(old: &[ManagedFieldsEntry], new: &mut [ManagedFieldsEntry]) -> bool {
    let same = |a: &ManagedFieldsEntry, b: &ManagedFieldsEntry| {
        (&a.manager, &a.operation, &a.api_version, &a.subresource, &a.fields_type, &a.fields_v1)
            == (&b.manager, &b.operation, &b.api_version, &b.subresource, &b.fields_type, &b.fields_v1)
    };
    // A later time may have moved an entry.
    let place = |entry: &ManagedFieldsEntry| new.iter().position(|other| same(entry, other));
    if old.len() != new.len() {
        return false;
    }
    let Some(places) = old.iter().map(place).collect::<Option<Vec<_>>>() else { return false };
    let mut unique = places.clone();
    unique.sort_unstable();
    unique.dedup();
    if unique.len() != old.len() {
        return false;
    }
    new.clone_from_slice(old);
    true
}

// === impl Entry ===

impl Entry {
    fn decode(at: usize, entry: ManagedFieldsEntry) -> Result<Self, Error> {
        let refuse = |why: String| Err(Error::ManagedFields(why));
        let operation = match entry.operation.as_deref() {
            Some("Apply") => Operation::Apply,
            Some("Update") => Operation::Update,
            _ => return refuse("operation must be `Apply` or `Update`".to_owned()),
        };
        let Some(api_version) = entry.api_version.filter(|version| !version.is_empty()) else {
            return refuse("apiVersion must not be empty".to_owned());
        };
        match entry.fields_type.as_deref() {
            Some(FIELDS_TYPE) => {}
            None | Some("") => return refuse(format!("missing fieldsType in managed fields entry {at}")),
            Some(other) => return refuse(format!("invalid fieldsType {other:?} in managed fields entry {at}")),
        }
        let manager = Manager {
            name: entry.manager.unwrap_or_default(),
            operation,
            api_version,
            subresource: entry.subresource.unwrap_or_default(),
        };
        let stored = entry.fields_v1.map_or(Value::Null, |FieldsV1(stored)| stored);
        Ok(Self { manager, time: entry.time, fields: Fields::Stored(stored) })
    }

    fn encode(self) -> ManagedFieldsEntry {
        let Manager { name, operation, api_version, subresource } = self.manager;
        let fields = match self.fields {
            Fields::Stored(stored) => stored,
            Fields::Set(set) => set.to_fields_v1(),
        };
        ManagedFieldsEntry {
            api_version: Some(api_version),
            fields_type: Some(FIELDS_TYPE.to_owned()),
            fields_v1: Some(FieldsV1(fields)),
            manager: Some(name),
            operation: Some(operation.as_str().to_owned()),
            subresource: Some(subresource).filter(|subresource| !subresource.is_empty()),
            time: self.time,
        }
    }

    fn try_set(&mut self) -> Result<&mut Set, Error> {
        if let Fields::Stored(stored) = &self.fields {
            self.fields = Fields::Set(Set::from_fields_v1(stored).map_err(Error::ManagedFields)?);
        }
        match &mut self.fields {
            Fields::Set(set) => Ok(set),
            // Made a set above.
            Fields::Stored(_) => Err(Error::ManagedFields("the set was not read".to_owned())),
        }
    }

    /// The set; a stored one that cannot be read is empty, as upstream takes it.
    pub(crate) fn set(&mut self) -> &mut Set {
        if self.try_set().is_err() {
            self.fields = Fields::Set(Set::default());
        }
        match &mut self.fields {
            Fields::Set(set) => set,
            Fields::Stored(_) => unreachable!("made a set above"),
        }
    }

    pub(crate) fn set_is_empty(&self) -> bool {
        match &self.fields {
            Fields::Stored(stored) => stored.as_object().is_none_or(|members| members.is_empty()),
            Fields::Set(set) => set.is_empty(),
        }
    }

    fn overlaps(&self, other: &Set) -> bool {
        match &self.fields {
            Fields::Stored(stored) => other.overlaps_stored(stored),
            Fields::Set(set) => set.overlaps(other),
        }
    }

    fn subtract(&mut self, other: &Set) {
        let set = self.set();
        *set = std::mem::take(set).difference(other);
    }

    fn unite(&mut self, other: Set) {
        if let Fields::Stored(stored) = &self.fields
            && other.is_within_stored(stored)
        {
            return;
        }
        self.set().unite(other);
    }
}
