//! Everything that can go wrong, in words a person can act on.

use std::{io, path::PathBuf};

use aya::{
    EbpfError,
    maps::MapError,
    pin::PinError,
    programs::{ProgramError, links::LinkError},
};

use crate::BypassError;

/// Errors of the enforcement of policies.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The running kernel is too old.
    #[error("kernel {found} is too old to enforce NetworkPolicy: need 5.10 or newer")]
    Kernel {
        /// What runs.
        found: String,
    },
    /// The folder for pins is on no BPF file system.
    #[error("{0} is not on a BPF file system; mount one there with `mount -t bpf bpf {0}`")]
    NoBpffs(PathBuf),
    /// Nothing is pinned where a reader looked.
    #[error("no policy maps under {0}: there is no NetworkPolicy in the cluster, or skep-node does not run here")]
    NotLoaded(PathBuf),
    /// A file operation failed.
    #[error("cannot {what}")]
    Io {
        /// What was tried, with the path.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The object was not accepted.
    #[error("cannot load the kernel programs that enforce policies")]
    Load(#[from] EbpfError),
    /// A program was not accepted or not attached.
    #[error("kernel program {name}")]
    Program {
        /// Name of the program.
        name: &'static str,
        /// What aya said.
        source: ProgramError,
    },
    /// The object lacks something it is built with.
    #[error("the kernel object has no {0}")]
    Object(&'static str),
    /// A map could not be opened, read or written.
    #[error("map {name}")]
    Map {
        /// Name of the map.
        name: &'static str,
        /// What aya said.
        source: MapError,
    },
    /// A link could not be read.
    #[error("link of a kernel program")]
    Link(#[from] LinkError),
    /// The way around could not be opened.
    #[error("cannot let packets go to pods directly")]
    Bypass(#[source] BypassError),
    /// Something could not be pinned.
    #[error("cannot pin {what}")]
    Pin {
        /// What was to be pinned.
        what: String,
        /// What aya said.
        source: PinError,
    },
}

/// Result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    pub(crate) fn map(name: &'static str) -> impl FnOnce(MapError) -> Self {
        move |source| Self::Map { name, source }
    }

    pub(crate) fn program(name: &'static str) -> impl FnOnce(ProgramError) -> Self {
        move |source| Self::Program { name, source }
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
