//! Transactions: the only way to write.

use bytes::Bytes;

/// A condition on one key. All of a transaction's must hold, or nothing is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(String),
    /// The key exists and its last write was this revision.
    AtRevision(String, i64),
}

impl Compare {
    /// The key the condition is about.
    pub fn key(&self) -> &str {
        match self {
            Self::Absent(key) | Self::AtRevision(key, _) => key,
        }
    }
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Create or replace a key.
    Put {
        /// Full etcd key.
        key: String,
        /// Stored bytes: compact JSON without `metadata.resourceVersion`.
        value: Bytes,
        /// Seconds after which etcd removes the key (at the earliest; up to a tenth more).
        ttl: Option<u64>,
    },
    /// Remove a key; removing one that is absent is no error.
    Delete {
        /// Full etcd key.
        key: String,
    },
}

/// Conditions and writes that are applied atomically, several keys at once if need be.
/// A key may be written only once in a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// What must hold.
    pub compares: Vec<Compare>,
    /// What is then written.
    pub ops: Vec<Op>,
}

impl Txn {
    /// An empty transaction.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds: `key` must be absent, and is created with `value`.
    pub fn create(self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        let key = key.into();
        self.compare(Compare::Absent(key.clone())).put(key, value, None)
    }

    /// Adds: `key` must be at `revision`, and is replaced by `value`.
    pub fn update(self, key: impl Into<String>, revision: i64, value: impl Into<Bytes>) -> Self {
        let key = key.into();
        self.compare(Compare::AtRevision(key.clone(), revision)).put(key, value, None)
    }

    /// Adds: `key` must be at `revision`, and is removed.
    pub fn delete(mut self, key: impl Into<String>, revision: i64) -> Self {
        let key = key.into();
        self.ops.push(Op::Delete { key: key.clone() });
        self.compare(Compare::AtRevision(key, revision))
    }

    /// Adds a condition.
    pub fn compare(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    /// Adds an unconditional put; `ttl` in seconds.
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Bytes>, ttl: Option<u64>) -> Self {
        self.ops.push(Op::Put { key: key.into(), value: value.into(), ttl });
        self
    }
}

/// The outcome of a transaction that was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// mod_revision of every key that was put, and the revision of every deletion.
    pub revision: i64,
}

/// A key as etcd has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// Full etcd key.
    pub key: String,
    /// Stored bytes (no resourceVersion inside; see [`crate::response_bytes`]).
    pub value: Bytes,
    /// Revision of the last write.
    pub mod_revision: i64,
    /// Revision of the creation.
    pub create_revision: i64,
}
