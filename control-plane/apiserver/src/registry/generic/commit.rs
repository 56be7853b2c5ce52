//! Commits one object, and whatever its strategy reserves with it, to etcd.

use bytes::Bytes;
use skep_api::status::StatusError;
use skep_storage::{Compare, Error, Op, Txn};

use super::Registry;
use crate::{admission::Admitted, registry::strategy::Reservation};

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
    /// What admission rested on has changed. Nothing was written.
    Unguarded,
}

impl Registry {
    /// Commits `write` together with `reservation`, if what it was admitted on holds.
    pub(crate) async fn commit(
        &self,
        key: &str,
        write: Write,
        reservation: &Reservation,
        admitted: &mut Admitted,
    ) -> Result<Outcome, StatusError> {
        let mut txn = match write {
            Write::Create(value) => {
                Txn::new().compare(Compare::Absent(key.to_owned())).put(key, value, self.strategy.ttl())
            }
            Write::Update(revision, value) => {
                Txn::new().compare(Compare::AtRevision(key.to_owned(), revision)).put(key, value, self.strategy.ttl())
            }
            Write::Delete(revision) => Txn::new().delete(key, revision),
        };
        for (taken, value) in &reservation.take {
            txn = txn.create(taken.clone(), value.clone());
        }
        txn.compares.extend(admitted.compares().cloned());
        txn.ops.extend(admitted.ops());
        txn.ops.extend(reservation.release.iter().map(|key| Op::Delete { key: key.clone() }));
        match self.storage.commit(txn).await {
            Ok(committed) => {
                admitted.settle(committed.revision);
                Ok(Outcome::Committed(committed.revision))
            }
            Err(Error::Conflict(conflict)) => {
                let failed: Vec<&str> = conflict.failed.iter().map(|failed| failed.compare.key()).collect();
                if failed.contains(&key) {
                    return Ok(Outcome::Stale);
                }
                if admitted.compares().any(|compare| failed.contains(&compare.key())) {
                    return Ok(Outcome::Unguarded);
                }
                Ok(Outcome::Lost(failed.into_iter().map(str::to_owned).collect()))
            }
            Err(error) => Err(storage_error(error)),
        }
    }
}

/// What an error of storage tells the client.
pub(crate) fn storage_error(error: Error) -> StatusError {
    match error {
        Error::Unavailable(_) | Error::Closed => StatusError::service_unavailable(error.to_string()),
        // A write may or may not have happened: without Retry-After clients do not repeat it on their own.
        Error::Timeout { .. } | Error::OutcomeUnknown(_) => StatusError::timeout(&error, 0),
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
