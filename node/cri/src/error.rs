//! What can go wrong between the node and its container runtime.

use std::path::PathBuf;

use tonic::{Code, Status};

/// Errors of the container runtime. Where upstream shows a gRPC error to people, so does the text here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is neither a path nor a `unix://` URL.
    #[error("container runtime address {0:?} is neither an absolute path nor a unix:// URL")]
    Address(String),
    /// Nothing answers on the socket.
    #[error("no container runtime answers on {socket}: {reason} (is containerd running, and is its CRI plugin enabled?)", socket = .socket.display())]
    Connect {
        /// The socket that was tried.
        socket: PathBuf,
        /// What the attempt met.
        reason: String,
    },
    /// The sandbox, container, image or task does not exist.
    #[error("rpc error: code = NotFound desc = {0}")]
    NotFound(String),
    /// The name is taken.
    #[error("rpc error: code = AlreadyExists desc = {0}")]
    AlreadyExists(String),
    /// The runtime did not answer in time.
    #[error("rpc error: code = DeadlineExceeded desc = {0}")]
    Timeout(String),
    /// The runtime is away or restarting.
    #[error("rpc error: code = Unavailable desc = {0}")]
    Unavailable(String),
    /// Any other gRPC error.
    #[error("rpc error: code = {code:?} desc = {message}")]
    Rpc {
        /// The gRPC code.
        code: Code,
        /// The runtime's message.
        message: String,
    },
    /// The answer lacks a field the protocol promises.
    #[error("container runtime answered {call} without {field}")]
    Incomplete {
        /// The call.
        call: &'static str,
        /// The missing field.
        field: &'static str,
    },
    /// The pause image could not be put together.
    #[error("building the pause image: {0}")]
    Pause(#[from] std::io::Error),
}

impl Error {
    /// Whether the thing asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::NotFound(_))
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::NotFound => Error::NotFound(message),
            Code::AlreadyExists => Error::AlreadyExists(message),
            Code::DeadlineExceeded | Code::Cancelled => Error::Timeout(message),
            Code::Unavailable => Error::Unavailable(message),
            // tonic reports a broken connection as Unknown with a transport source.
            Code::Unknown if std::error::Error::source(&status).is_some() => Error::Unavailable(message),
            // containerd 1.6 wraps some absences in Unknown: "failed to get ...: not found".
            Code::Unknown if message.ends_with(": not found") => Error::NotFound(message),
            code => Error::Rpc { code, message },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_container_is_not_found() {
        assert!(Error::from(Status::not_found("x")).is_not_found());
        assert!(Error::from(Status::unknown("failed to load task: not found")).is_not_found());
        assert!(!Error::from(Status::unknown("boom")).is_not_found());
    }

    #[test]
    fn errors_read_as_upstream_shows_them() {
        let error = Error::from(Status::internal("boom"));
        assert_eq!(error.to_string(), "rpc error: code = Internal desc = boom");
    }
}
