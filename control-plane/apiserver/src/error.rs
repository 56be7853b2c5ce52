//! What can keep the API server from starting or serving.

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can keep the API server from starting or serving.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Storage could not be brought to serve a resource.
    #[error("storage: {0}")]
    Storage(#[from] skep_storage::Error),
    /// An object every cluster has could not be created.
    #[error("creating {what}: {source}")]
    Bootstrap {
        /// The object.
        what: String,
        /// What the registry said.
        source: skep_api::StatusError,
    },
    /// The configuration makes no sense.
    #[error("{0}")]
    Config(String),
    /// Keys or certificates make no sense.
    #[error("TLS: {0}")]
    Tls(#[from] skep_pki::Error),
    /// The listener broke.
    #[error("listening: {0}")]
    Listen(#[from] std::io::Error),
}
