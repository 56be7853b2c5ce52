//! Further API versions of a resource that is stored in one.
//!
//! Several versions share a strategy and its objects: a body is converted when it was read, a stored object when it is
//! shown. Everything in between (defaults, validation, storage, tables) knows only the version that is stored.

use serde_json::Value;
use skep_api::{field::Errors, meta::ApiObject, resource::ResourceInfo};

use super::{
    erased::{UnknownFields, read_json, read_value},
    object::Object,
};
use crate::scan;

/// Selectable fields of a version: its name for a field, and the stored version's.
pub(crate) type FieldNames = &'static [(&'static str, &'static str)];

/// One further version of a resource.
pub(crate) trait Version: Send + Sync + 'static {
    /// The type clients of this version speak.
    type Served: ApiObject;
    /// The type of the strategy.
    type Stored: ApiObject;

    /// The row of the resource table.
    fn info(&self) -> &'static ResourceInfo;

    /// How selectable fields are called; empty when they are called as in the stored version.
    fn field_names(&self) -> FieldNames {
        &[]
    }

    /// What a client sent, as it is stored.
    fn to_stored(&self, served: Self::Served) -> Self::Stored;

    /// What is stored, as this version shows it.
    fn to_served(&self, stored: Self::Stored) -> Self::Served;

    /// What this version demands of a new object beyond the strategy.
    fn validate_create(&self, object: &Self::Stored) -> Errors {
        let _ = object;
        Errors::new()
    }

    /// What this version demands of an update beyond the strategy.
    fn validate_update(&self, object: &Self::Stored, old: &Self::Stored) -> Errors {
        let _ = (object, old);
        Errors::new()
    }
}

/// [`Version`] without its types.
pub(crate) trait AnyVersion: Send + Sync {
    fn info(&self) -> &ResourceInfo;
    fn field_names(&self) -> FieldNames;
    fn decode(&self, json: &[u8], unknown: &mut UnknownFields) -> serde_json::Result<Box<dyn Object>>;
    fn decode_value(&self, json: Value, unknown: &mut UnknownFields) -> serde_json::Result<Box<dyn Object>>;
    /// The JSON of a stored object, as this version shows it.
    fn present(&self, stored: &[u8]) -> serde_json::Result<Vec<u8>>;
    fn validate_create(&self, object: &dyn Object) -> Errors;
    fn validate_update(&self, object: &dyn Object, old: &dyn Object) -> Errors;
}

/// A typed version seen through [`AnyVersion`].
pub(crate) struct ErasedVersion<V>(pub(crate) V);

impl<V: Version> ErasedVersion<V> {
    fn typed(object: &dyn Object) -> Option<&V::Stored> {
        object.as_any().downcast_ref()
    }
}

impl<V: Version> AnyVersion for ErasedVersion<V> {
    fn info(&self) -> &ResourceInfo {
        self.0.info()
    }

    fn field_names(&self) -> FieldNames {
        self.0.field_names()
    }

    fn decode(&self, json: &[u8], unknown: &mut UnknownFields) -> serde_json::Result<Box<dyn Object>> {
        Ok(Box::new(self.0.to_stored(read_json(json, unknown)?)))
    }

    fn decode_value(&self, json: Value, unknown: &mut UnknownFields) -> serde_json::Result<Box<dyn Object>> {
        Ok(Box::new(self.0.to_stored(read_value(json, unknown)?)))
    }

    fn present(&self, stored: &[u8]) -> serde_json::Result<Vec<u8>> {
        let served = self.0.to_served(serde_json::from_slice(stored)?);
        Ok(scan::metadata_first(serde_json::to_vec(&served)?))
    }

    fn validate_create(&self, object: &dyn Object) -> Errors {
        Self::typed(object).map(|object| self.0.validate_create(object)).unwrap_or_default()
    }

    fn validate_update(&self, object: &dyn Object, old: &dyn Object) -> Errors {
        match (Self::typed(object), Self::typed(old)) {
            (Some(object), Some(old)) => self.0.validate_update(object, old),
            _ => Errors::new(),
        }
    }
}
