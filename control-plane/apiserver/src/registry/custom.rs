//! Custom resources: what CustomResourceDefinitions define.

mod build;
mod conversion;
mod definition;
pub(crate) mod definitions;
mod object;
mod shown;
mod strategy;
pub(crate) mod webhook;

use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::Value;
use skep_api::status::StatusError;
use tokio_util::sync::CancellationToken;

pub(crate) use definition::CustomResourceDefinitions;

/// How objects of a custom resource are stored in another form than served: in another version, with fields the schema
/// no longer knows, without defaults it has now.
pub(crate) trait Conversion: Send + Sync {
    /// Names of the fields this version can be selected by, besides name and namespace.
    fn selectable(&self) -> Box<dyn Iterator<Item = &str> + '_>;

    /// Whether whatever is stored is shown as it is.
    fn is_identity(&self) -> bool;

    /// Whether someone else must be asked: then only [`show`](Self::show) shows every object.
    fn is_remote(&self) -> bool;

    /// Stored objects as this version shows them, in the same order.
    fn show<'a>(&'a self, stored: &'a [Bytes]) -> BoxFuture<'a, Result<Vec<Bytes>, StatusError>>;

    /// A stored object as this version shows it, if no one must be asked.
    fn present(&self, stored: &Bytes) -> Result<Bytes, StatusError>;

    /// The JSON of an object of this version as it is to be stored.
    fn store(&self, served: Vec<u8>) -> BoxFuture<'_, Result<Vec<u8>, StatusError>>;

    /// An object of this version in another version of the definition; none if it has no such version.
    fn in_version<'a>(&'a self, object: &'a Value, to: &'a str) -> BoxFuture<'a, Result<Option<Value>, StatusError>>;

    /// The type of objects in a version of the definition, as far as owners of fields are concerned.
    fn field_type_in(&self, api_version: &str) -> skep_apply::Type<'_>;

    /// Whether nothing new may be created: the definition is being deleted.
    fn is_closed(&self) -> bool;

    /// What clients of this version are warned of.
    fn deprecation(&self) -> Option<&str>;

    /// Cancelled when this version is served another way; ends watches.
    fn ended(&self) -> &CancellationToken;
}
