//! A cached object: what selectors need, and the bytes clients get.

use crate::error::Result;
use bytes::Bytes;
use std::sync::Arc;

/// One object as the cache keeps it. Immutable; shared by the state, its snapshots and the history.
#[derive(Debug)]
pub struct Object {
    pub(crate) key: Arc<str>,
}

/// The labels of an object.
#[derive(Clone, Copy, Debug)]
pub struct Labels<'a>(&'a Object);

impl Object {
    /// Full etcd key, such as `/registry/pods/default/web-0`.
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }
    /// Namespace by the key; `None` for a cluster-scoped object.
    pub fn namespace(&self) -> Option<&str> {
        unreachable!()
    }
    /// Name by the key.
    pub fn name(&self) -> &str {
        unreachable!()
    }
    /// `metadata.uid`, empty if it has none.
    pub fn uid(&self) -> &str {
        unreachable!()
    }
    /// Revision of the last write: the number inside `metadata.resourceVersion`. For the object of a `Deleted` event: the deletion's.
    pub fn mod_revision(&self) -> i64 {
        unreachable!()
    }
    /// Revision of the creation.
    pub fn create_revision(&self) -> i64 {
        unreachable!()
    }
    /// Its labels.
    pub fn labels(&self) -> Labels<'_> {
        Labels(self)
    }
    /// The value of a label.
    pub fn label(&self, _key: &str) -> Option<&str> {
        unreachable!()
    }
    /// The value of a selectable field (`metadata.name`, `metadata.namespace` or one of the schema's); `None`: not selectable.
    pub fn field(&self, _name: &str) -> Option<&str> {
        unreachable!()
    }
    /// Final response bytes: the stored JSON with `"resourceVersion":"N"` in its metadata.
    pub fn json(&self) -> &Bytes {
        unreachable!()
    }
    /// The same content with another resourceVersion.
    pub fn json_at(&self, _revision: i64) -> Bytes {
        unreachable!()
    }
}

impl<'a> Labels<'a> {
    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.0.label(key)
    }
    /// All of them, in stored order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        std::iter::empty()
    }
}

/// Response bytes of a value just written at `revision`: `stored` with `metadata.resourceVersion` put in (or replaced).
/// A scan up to `metadata`, no parse of the rest.
pub fn response_bytes(_stored: &[u8], _revision: i64) -> Result<Bytes> {
    unreachable!()
}
