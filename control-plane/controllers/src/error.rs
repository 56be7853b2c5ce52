//! What can go wrong in a controller.

use crate::meta::ObjectKey;

/// Everything the controller manager can fail with.
///
/// A reconcile that returns an error is retried with the work queue's backoff; only errors of [`crate::run`] itself
/// end the component.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or could not be reached.
    #[error("{context}: {source}")]
    Api {
        /// What was being done, e.g. `creating pod default/web-x`.
        context: String,
        /// The client's error.
        source: Box<kube::Error>,
    },
    /// Leader election failed for good.
    #[error("leader election: {0}")]
    LeaderElection(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The Lease was lost; the process must not go on acting as leader.
    #[error("leader election lost")]
    LeadershipLost,
    /// A part of the controller manager crashed; without it the others would work half blind.
    #[error("a task of the controller manager panicked: {0}")]
    Panicked(#[source] tokio::task::JoinError),
    /// A selector in a stored object does not parse.
    #[error("invalid label selector in {key}: {reason}")]
    Selector {
        /// The object that carries the selector.
        key: ObjectKey,
        /// What is wrong with it.
        reason: String,
    },
    /// An object lacks a field that the API server always sets.
    #[error("{key} has no {field}")]
    MissingField {
        /// The object.
        key: ObjectKey,
        /// The field's path.
        field: &'static str,
    },
    /// A value in the configuration makes no sense.
    #[error("invalid controller manager configuration: {0}")]
    Config(String),
    /// An object could not be turned into JSON.
    #[error("cannot serialise an object: {0}")]
    Json(#[from] serde_json::Error),
    /// The operation needs something to happen first and is retried.
    #[error("{0}")]
    Retry(String),
    /// Several operations of one reconcile failed; the first one is the source.
    #[error("{count} operations failed, the first: {first}")]
    Several {
        /// How many failed.
        count: usize,
        /// The first failure.
        first: Box<Error>,
    },
}

impl Error {
    /// Folds the failures of a batch into one result.
    pub(crate) fn from_batch(mut errors: Vec<Error>) -> Result<(), Error> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            count => Err(Error::Several { count, first: Box::new(errors.remove(0)) }),
        }
    }

    /// The API's answer, if this is one.
    pub(crate) fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Error::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            _ => None,
        }
    }

    /// True for a 404 of the object or of its type.
    pub(crate) fn is_not_found(&self) -> bool {
        self.status().is_some_and(|s| s.code == 404)
    }

    /// True for a failed optimistic lock (a 409 that is not "already exists").
    pub(crate) fn is_conflict(&self) -> bool {
        self.status().is_some_and(|s| s.code == 409 && s.reason != "AlreadyExists")
    }

    /// True when an object of that name is there already.
    pub(crate) fn is_already_exists(&self) -> bool {
        self.status().is_some_and(|s| s.reason == "AlreadyExists")
    }

    /// True when the namespace is going away and takes no new objects.
    pub(crate) fn is_namespace_terminating(&self) -> bool {
        self.status().is_some_and(|s| {
            s.code == 403
                && (s.message.contains("because it is being terminated")
                    || s.details.as_ref().is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating")))
        })
    }
}

/// Adds what was being done to a client error.
pub(crate) trait Context<T> {
    /// `context` is made only on failure.
    fn context(self, context: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Context<T> for Result<T, kube::Error> {
    fn context(self, context: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Api { context: context(), source: Box::new(source) })
    }
}
