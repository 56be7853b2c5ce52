//! Why the scheduler cannot run. Failures of single pods are not errors here: they end in the queue and in an event.

/// Errors that end [`crate::run`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The profile names a plugin that the registry does not have.
    #[error("profile {profile:?}: unknown plugin {plugin:?}")]
    UnknownPlugin {
        /// The profile's scheduler name.
        profile: String,
        /// The name asked for.
        plugin: String,
    },
    /// The profile lacks an extension point without which no pod can be scheduled.
    #[error("profile {profile:?}: no {point} plugin is enabled")]
    MissingExtensionPoint {
        /// The profile's scheduler name.
        profile: String,
        /// For example `QueueSort` or `Bind`.
        point: &'static str,
    },
    /// The watches of pods and nodes crashed.
    #[error("the scheduler's informers panicked: {0}")]
    Informers(#[source] tokio::task::JoinError),
    /// Leadership was lost or its settings are wrong.
    #[error(transparent)]
    LeaderElection(#[from] skep_client::LeaderElectionError),
}
