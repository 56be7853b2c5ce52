//! What can go wrong between the API server and etcd.

use crate::txn::{Compare, KeyValue};
use std::fmt;
use std::time::Duration;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything storage can fail with. Cloneable, because one etcd answer may serve many readers.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// At least one compare of a transaction did not hold; nothing was written.
    #[error("{0}")]
    Conflict(Box<Conflict>),
    /// etcd could not be reached or refused the request; nothing was written.
    #[error("etcd is unavailable: {0}")]
    Unavailable(String),
    /// A read took too long, or a write was given up before it was sent; nothing was written.
    #[error("etcd did not answer {operation} within {after:?}")]
    Timeout {
        /// What was asked for.
        operation: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// The request was sent, but its answer was lost: it may or may not have been applied. Read before you retry.
    #[error("the outcome of the write is unknown: {0}")]
    OutcomeUnknown(String),
    /// The request exceeds etcd's limit (1.5 MiB by default).
    #[error("etcdserver: request is too large")]
    TooLarge,
    /// etcd's disk quota is used up; it accepts only deletes until space is made.
    #[error("etcd is out of space (its quota is exceeded): compact and defragment it, then disarm the alarm: {0}")]
    NoSpace(String),
    /// etcd no longer has this revision.
    #[error("etcd has compacted revision {requested}")]
    Compacted {
        /// The revision that was asked for.
        requested: i64,
    },
    /// The watch cache no longer has the history a watch needs: HTTP 410, reason `Expired`.
    #[error("too old resource version: {requested} ({oldest})")]
    Expired {
        /// The revision that was asked for.
        requested: i64,
        /// The oldest one a watch can start from now.
        oldest: i64,
    },
    /// The cache did not reach this revision in time: HTTP 504, "Too large resource version".
    #[error("Too large resource version: {requested}, current: {current}")]
    TooLargeRevision {
        /// The revision that was asked for.
        requested: i64,
        /// The revision the cache stands at.
        current: i64,
    },
    /// A value is not a JSON object with an object `metadata`.
    #[error("the stored value cannot be read: {0}")]
    Undecodable(String),
    /// The caller asked for something that cannot be: no endpoints, a bad key, an unreadable certificate.
    #[error("invalid: {0}")]
    Invalid(String),
    /// The cache was closed because its [`crate::Storage`] was shut down.
    #[error("storage is shut down")]
    Closed,
    /// The supervised etcd could not be started or kept running.
    #[error("{0}")]
    Supervisor(String),
    /// etcd answered with something this crate does not know.
    #[error("etcd: {0}")]
    Etcd(String),
}

/// Which compares of a transaction failed, in the order they were given.
#[derive(Clone, Debug)]
pub struct Conflict {
    /// Never empty.
    pub failed: Vec<FailedCompare>,
    /// Revision of etcd when the transaction was refused.
    pub revision: i64,
}

/// One compare that did not hold, and what etcd has for its key instead.
#[derive(Clone, Debug)]
pub struct FailedCompare {
    /// The compare as it was given.
    pub compare: Compare,
    /// The key's present value; `None`: the key does not exist.
    pub current: Option<KeyValue>,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("conflict: ")?;
        for (i, failed) in self.failed.iter().enumerate() {
            let sep = if i == 0 { "" } else { "; " };
            match (&failed.compare, &failed.current) {
                (Compare::Absent(key), _) => write!(f, "{sep}key {key} already exists")?,
                (Compare::AtRevision(key, _), None) => write!(f, "{sep}key {key} does not exist")?,
                (Compare::AtRevision(key, want), Some(now)) => {
                    write!(f, "{sep}key {key} is at revision {}, not {want}", now.mod_revision)?;
                }
            }
        }
        Ok(())
    }
}
