//! What can go wrong with certificates, and in which file.

use std::path::{Path, PathBuf};

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate. Wherever a file is at fault, the text names it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: "read", "write", "create".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Text that is not what it should be: a certificate, a key, a kubeconfig.
    #[error("{name}: {reason}")]
    Invalid {
        /// The file, or what the text was given as.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Two files that must belong together do not.
    #[error("{name} does not belong to {other}: {reason}")]
    Mismatch {
        /// The file at fault.
        name: String,
        /// The file it was held against.
        other: String,
        /// What differs, and what to do about it.
        reason: String,
    },
    /// A file that must be there beside another is not.
    #[error("{} is missing: {hint}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What to do about it.
        hint: String,
    },
    /// A certificate authority's own certificate is no longer valid.
    #[error("{name} expired at {not_after}: replace the certificate authority and every certificate it issued")]
    Expired {
        /// The file.
        name: String,
        /// When (UTC).
        not_after: jiff::Timestamp,
    },
    /// A certificate cannot be made as requested.
    #[error("cannot issue a certificate for {common_name:?}: {source}")]
    Issue {
        /// The requested common name.
        common_name: String,
        /// Why not.
        source: rcgen::Error,
    },
    /// No key could be made: the system's random source failed.
    #[error("cannot generate a key: {0}")]
    GenerateKey(rcgen::Error),
    /// rustls refused a certificate or key.
    #[error("TLS configuration: {0}")]
    Tls(#[from] rustls::Error),
    /// The certificate authorities given to verify clients are no use.
    #[error("TLS client verification: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn invalid(name: impl ToString, reason: impl ToString) -> Self {
        Self::Invalid { name: name.to_string(), reason: reason.to_string() }
    }
}
