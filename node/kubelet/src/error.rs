//! What can stop or delay the kubelet.

use std::path::PathBuf;

/// Errors of this crate. Texts that end up in events and container states follow upstream.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or could not be reached.
    #[error(transparent)]
    Api(#[from] Box<kube::Error>),
    /// The container runtime refused or could not be reached.
    #[error(transparent)]
    Runtime(#[from] skep_cri::Error),
    /// A file or directory of the node.
    #[error("{path}: {source}", path = .path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The pod asks for something that cannot be given (yet or ever).
    #[error("{0}")]
    Pod(String),
    /// The serving certificate.
    #[error("serving certificate: {0}")]
    Certificate(String),
    /// The port of the node server.
    #[error("node server cannot listen on {address}: {source}")]
    Listen {
        /// Address and port.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A part of the kubelet that never ends has ended.
    #[error("a part of the kubelet ended unexpectedly{}; restart skep-node and report this as a bug", .0.as_ref().map(|error| format!(": {error}")).unwrap_or_default())]
    Task(Option<tokio::task::JoinError>),
    /// The cgroup file systems are not as needed.
    #[error("cgroups: {0}")]
    Cgroup(String),
}

impl Error {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Error::File { path, source }
    }

    pub(crate) fn pod(text: impl Into<String>) -> Self {
        Error::Pod(text.into())
    }
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        Error::Api(Box::new(error))
    }
}

/// Whether the API server said 404.
pub(crate) fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether the API server said that the object of this name is another one (its uid differs). Any other conflict is worth
/// trying again.
pub(crate) fn is_other_uid(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let text = &status.message;
    status.code == 409 && (text.contains("Precondition failed: UID") || text.contains("uid mismatch"))
}
