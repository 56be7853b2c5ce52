//! Managers of other versions: what they own is compared in their own version of the object.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

use serde_json::Value;

use crate::{
    apply::Apply,
    compare::{Comparison, compare},
    error::Error,
    managers::Managed,
    reset::Ignored,
    schema::Type,
    set::Set,
};

/// An object in the other versions of its resource.
pub trait Versions: Debug {
    /// An object in the version `to`; none if there is no such version (any more).
    ///
    /// # Errors
    /// [`Error::Unconverted`] if somebody has to be asked first; what is asked for is then to be done again.
    fn convert(&self, object: &Value, to: &str) -> Result<Option<Value>, Error>;

    /// The type of objects in a version.
    fn type_of(&self, api_version: &str) -> Type<'_>;
}

/// Of a resource that has one version.
#[derive(Clone, Copy, Debug)]
pub struct OneVersion;

impl Versions for OneVersion {
    fn convert(&self, _: &Value, _: &str) -> Result<Option<Value>, Error> {
        Ok(None)
    }

    fn type_of(&self, _: &str) -> Type<'_> {
        Type::Deduced
    }
}

/// What differs between two states of an object, in each version that managers know.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// In the version of the request.
    own: Change,
    /// In other versions; none for one that is no more.
    others: BTreeMap<String, Option<Change>>,
}

/// What differs, by what it means for owners.
#[derive(Clone, Debug, Default)]
pub(crate) struct Change {
    /// Added or changed.
    pub(crate) taken: Set,
    pub(crate) removed: Set,
}

impl Change {
    fn new(comparison: Comparison, ignored: Ignored) -> Self {
        let Comparison { added: mut taken, modified, removed } = comparison.without(ignored);
        taken.unite(modified);
        Self { taken, removed }
    }
}

impl Changes {
    /// What differs in the version of the request, but for what such a request cannot change.
    pub fn new(comparison: Comparison, ignored: Ignored) -> Self {
        Self { own: Change::new(comparison, ignored), others: BTreeMap::new() }
    }

    /// Adds what differs between two states in another version; none if there is no such version.
    pub fn add(&mut self, api_version: &str, comparison: Option<Comparison>, ignored: Ignored) {
        self.others.insert(api_version.to_owned(), comparison.map(|comparison| Change::new(comparison, ignored)));
    }

    pub(crate) fn own(&self) -> &Change {
        &self.own
    }

    /// What differs in a version; none if it is no more. `own` is the version of the request.
    pub(crate) fn of(&self, api_version: &str, own: &str) -> Option<&Change> {
        if api_version == own {
            return Some(&self.own);
        }
        // A version nobody compared has not changed.
        static SAME: Change = Change { taken: Set::EMPTY, removed: Set::EMPTY };
        self.others.get(api_version).map_or(Some(&SAME), Option::as_ref)
    }
}

impl Managed {
    /// The versions, other than `own`, that managers wrote.
    pub fn versions_beside(&self, own: &str) -> BTreeSet<String> {
        let all = self.entries.iter().map(|entry| &entry.manager.api_version);
        all.filter(|version| *version != own).cloned().collect()
    }

    /// All that anyone owns, by version.
    pub(crate) fn by_version(&mut self) -> BTreeMap<String, Set> {
        let mut all = BTreeMap::<String, Set>::new();
        for entry in &mut self.entries {
            let version = entry.manager.api_version.clone();
            all.entry(version).or_default().unite(entry.set().clone());
        }
        all
    }
}

impl Apply<'_> {
    /// An object in a version, which may be its own.
    pub(crate) fn convert<'v>(&self, object: &'v Value, to: &str) -> Result<Option<Cow<'v, Value>>, Error> {
        if object.get("apiVersion").and_then(Value::as_str) == Some(to) {
            return Ok(Some(Cow::Borrowed(object)));
        }
        Ok(self.versions.convert(object, to)?.map(Cow::Owned))
    }

    /// The type of objects in a version.
    pub(crate) fn type_in(&self, api_version: &str) -> Type<'_> {
        if api_version == self.api_version { self.of } else { self.versions.type_of(api_version) }
    }

    /// What differs between two states, in the given versions, too.
    pub(crate) fn changes(
        &self,
        old: &Value,
        new: &Value,
        own: Comparison,
        others: BTreeSet<String>,
    ) -> Result<Changes, Error> {
        let same = own.is_same();
        let mut changes = Changes::new(own, self.ignored);
        for version in others.into_iter().filter(|_| !same) {
            let comparison = match (self.convert(old, &version)?, self.convert(new, &version)?) {
                (Some(old), Some(new)) => Some(compare(self.type_in(&version), &old, &new)),
                _ => None,
            };
            changes.add(&version, comparison, self.ignored);
        }
        Ok(changes)
    }
}
