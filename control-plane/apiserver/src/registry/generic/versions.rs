//! An object in the other versions of its resource, for owners of fields who know it in those.

use std::fmt;

use serde_json::Value;
use skep_api::status::StatusError;
use skep_apply::{Changes, Comparison, Error, Managed, Type, Versions, compare, reset::Ignored};

use super::{Registry, ownership::without_owners};
use crate::registry::{erased::UnknownFields, table, version::AnyVersion};

impl Registry {
    /// An object of this version in another; none if there is no such version.
    async fn in_version(&self, object: &Value, to: &str) -> Result<Option<Value>, StatusError> {
        match &self.conversion {
            Some(conversion) => conversion.in_version(object, to).await,
            None => self.built_in_version(object, to).map_err(StatusError::internal_error),
        }
    }

    fn built_in_version(&self, object: &Value, to: &str) -> serde_json::Result<Option<Value>> {
        let stored = match &self.version {
            None => serde_json::to_vec(object)?,
            Some(version) => version.decode_value(object.clone(), &mut UnknownFields::new())?.to_json()?,
        };
        if self.strategy.info().api_version() == to {
            return serde_json::from_slice(&stored).map(Some);
        }
        match self.sibling(to) {
            Some(version) => serde_json::from_slice(&version.present(&stored)?).map(Some),
            None => Ok(None),
        }
    }

    /// A further version of a built-in resource.
    fn sibling(&self, api_version: &str) -> Option<Box<dyn AnyVersion>> {
        let prefix = self.strategy.prefix();
        let of_this = |strategy: &str, version: &dyn AnyVersion| {
            strategy == prefix && version.info().api_version() == api_version
        };
        let mut all = table::versions().into_iter();
        all.find(|(strategy, version)| of_this(strategy.prefix(), &**version)).map(|(_, version)| version)
    }

    /// The type of this resource's objects in a version.
    fn field_type_in(&self, api_version: &str) -> Type<'_> {
        if let Some(conversion) = &self.conversion {
            return conversion.field_type_in(api_version);
        }
        if self.strategy.info().api_version() == api_version {
            return self.strategy.field_type(self.strategy.info());
        }
        let version = self.sibling(api_version);
        version.map_or(Type::Deduced, |version| {
            let info = version.info();
            Type::of_kind(&info.group, &info.version, &info.kind)
        })
    }

    /// What a write changes, seen in each version that owners of fields know.
    pub(super) async fn changes(
        &self,
        own: Comparison,
        (old, new): (&[u8], &[u8]),
        managed: &Managed,
        ignored: Ignored,
    ) -> Result<Changes, StatusError> {
        let others = managed.versions_beside(&self.info().api_version());
        let same = own.is_same();
        let mut changes = Changes::new(own, ignored);
        if others.is_empty() || same {
            return Ok(changes);
        }
        let (old, new) = (without_owners(old)?, without_owners(new)?);
        for version in others {
            let before = self.in_version(&old, &version).await?;
            let comparison = match before {
                None => None,
                Some(before) => {
                    let after = self.in_version(&new, &version).await?;
                    after.map(|after| compare(self.field_type_in(&version), &before, &after))
                }
            };
            changes.add(&version, comparison, ignored);
        }
        Ok(changes)
    }
}

/// Objects in other versions, as far as somebody was asked for them.
pub(super) struct Converted<'a> {
    registry: &'a Registry,
    known: Vec<(Value, String, Option<Value>)>,
}

impl<'a> Converted<'a> {
    pub(super) fn new(registry: &'a Registry) -> Self {
        Self { registry, known: Vec::new() }
    }

    /// Asks for what an apply lacked.
    pub(super) async fn ask(&mut self, object: Value, to: String) -> Result<(), StatusError> {
        let found = self.registry.in_version(&object, &to).await?;
        self.known.push((object, to, found));
        Ok(())
    }
}

impl fmt::Debug for Converted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Converted").field("known", &self.known).finish_non_exhaustive()
    }
}

impl Versions for Converted<'_> {
    fn convert(&self, object: &Value, to: &str) -> Result<Option<Value>, Error> {
        let known = self.known.iter().find(|(from, version, _)| version == to && from == object);
        match known {
            Some((_, _, found)) => Ok(found.clone()),
            None => Err(Error::Unconverted { object: Box::new(object.clone()), to: to.to_owned() }),
        }
    }

    fn type_of(&self, api_version: &str) -> Type<'_> {
        self.registry.field_type_in(api_version)
    }
}
