//! Commits one object, and whatever its strategy reserves with it, to etcd.

use bytes::Bytes;
use skep_api::{resource::ResourceInfo, status::StatusError};
use skep_storage::{Compare, Error, Op, Txn};

use super::Registry;
use crate::registry::strategy::Reservation;

/// What the transaction does to the object's key.
pub(crate) enum Write {
    /// The key must be absent.
    Create(Bytes),
    /// The key must be at this revision.
    Update(i64, Bytes),
    /// The key must be at this revision.
    Delete(i64),
}

/// How a transaction ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Applied at this revision.
    Committed(i64),
    /// The object's own key was not as the write said. Nothing was written.
    Stale,
    /// Keys of the reservation are held by someone else. Nothing was written.
    Lost(Vec<String>),
}

impl Registry {
    /// Commits `write` together with `reservation`.
    pub(crate) async fn commit(
        &self,
        key: &str,
        write: Write,
        reservation: &Reservation,
    ) -> Result<Outcome, StatusError> {
        let mut txn = match write {
            Write::Create(value) => {
                Txn::new().compare(Compare::Absent(key.to_owned())).put(key, value, self.strategy.ttl())
            }
            Write::Update(revision, value) => Txn::new()
                .compare(Compare::AtRevision(key.to_owned(), revision))
                .put(key, value, self.strategy.ttl()),
            Write::Delete(revision) => Txn::new().delete(key, revision),
        };
        for (taken, value) in &reservation.take {
            txn = txn.create(taken.clone(), value.clone());
        }
        txn.ops.extend(reservation.release.iter().map(|key| Op::Delete { key: key.clone() }));
        match self.storage.commit(txn).await {
            Ok(committed) => Ok(Outcome::Committed(committed.revision)),
            Err(Error::Conflict(conflict)) => {
                let failed: Vec<&str> = conflict.failed.iter().map(|failed| failed.compare.key()).collect();
                if failed.contains(&key) {
                    return Ok(Outcome::Stale);
                }
                Ok(Outcome::Lost(failed.into_iter().map(str::to_owned).collect()))
            }
            Err(error) => Err(write_error(self.info(), error)),
        }
    }
}

/// What a failed write tells the client.
fn write_error(info: &ResourceInfo, error: Error) -> StatusError {
    match error {
        // Whether it was written is not known: upstream's ServerTimeout says "try again" without saying "not done".
        Error::OutcomeUnknown(why) => {
            tracing::warn!(resource = %info.plural, %why, "outcome of a write is unknown");
            StatusError::server_timeout(info, "write", 2)
        }
        error => storage_error(error),
    }
}

/// What an error of storage tells the client.
pub(crate) fn storage_error(error: Error) -> StatusError {
    match error {
        Error::Unavailable(_) | Error::Closed => StatusError::service_unavailable(error.to_string()),
        Error::Timeout { .. } | Error::OutcomeUnknown(_) => StatusError::timeout(&error, 2),
        Error::TooLarge => StatusError::request_entity_too_large(&error),
        Error::Expired { requested, oldest } => {
            StatusError::too_old_resource_version(requested.unsigned_abs(), oldest.unsigned_abs())
        }
        Error::Compacted { .. } => StatusError::expired(
            "The provided resource version is too old: the history it refers to has been compacted.",
        ),
        Error::TooLargeRevision { requested, current } => {
            StatusError::too_large_resource_version(requested.unsigned_abs(), current.unsigned_abs(), 1)
        }
        error => {
            tracing::error!(%error, "storage failed");
            StatusError::internal_error(error)
        }
    }
}
