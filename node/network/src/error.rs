//! What can go wrong with the pod network.

use std::path::{Path, PathBuf};

use ipnet::IpNet;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused a change to links, addresses, routes or neighbours.
    #[error("cannot {action}: {source}")]
    Netlink {
        /// What was tried.
        action: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: "read", "write", "create".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The sandbox's network namespace could not be entered.
    #[error("cannot enter the network namespace {}: {source}", path.display())]
    Namespace {
        /// The file that stands for it.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Every address of one of the node's pod CIDRs is in use.
    #[error("no free address in {cidr}: all {used} are in use by pods of this node")]
    Exhausted {
        /// The pod CIDR.
        cidr: IpNet,
        /// Addresses given out.
        used: usize,
    },
    /// A setting that cannot work.
    #[error("{0}")]
    Config(String),
    /// The wiring of a pod is not what ADD made it.
    #[error("{0}")]
    Broken(String),
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// The errno of a netlink failure.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Netlink { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
