//! Everything that can go wrong, in words a person can act on.

use std::{io, path::PathBuf};

use aya::{
    EbpfError,
    maps::MapError,
    pin::PinError,
    programs::{ProgramError, links::LinkError},
};

/// Errors of the service data plane.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process may not use BPF.
    #[error("need {missing} to {purpose}: run as root or grant the capabilities")]
    Privilege {
        /// Names of the missing capabilities.
        missing: String,
        /// What they are needed for.
        purpose: &'static str,
    },
    /// The running kernel is too old.
    #[error("kernel {found} is too old for {what}: need {needed} or newer")]
    Kernel {
        /// What runs.
        found: String,
        /// What is needed.
        needed: &'static str,
        /// What for.
        what: &'static str,
    },
    /// No cgroup2 file system is mounted.
    #[error(
        "no cgroup2 file system is mounted: service load balancing attaches to one; mount it with `mount -t cgroup2 none \
         /sys/fs/cgroup/unified` or name a cgroup with --cgroup-root"
    )]
    NoCgroup2,
    /// The cgroup of the socket hooks is gone or is not in this process's view.
    #[error("the programs of sockets are attached to no cgroup that is mounted here: is skep-node running?")]
    NoCgroup,
    /// The configured cgroup is not a folder of a cgroup2 file system.
    #[error("{0} is not a cgroup of a cgroup2 file system")]
    NotCgroup2(PathBuf),
    /// Nothing is pinned where a reader looked.
    #[error("no skep service maps under {0}: is skep-node running here?")]
    NotLoaded(PathBuf),
    /// What is pinned where a reader looked is of another version.
    #[error("the service maps under {0} are of another version ({1}): use the skepctl that came with skep-node there")]
    OtherLayout(PathBuf, String),
    /// Another process owns the maps.
    #[error("another process already programs the service maps under {0}; only one skep-node may run on a bpf root")]
    Busy(PathBuf),
    /// Pinned maps of another shape.
    #[error("the pinned map {name} does not fit this version ({detail}); `skep-node cleanup` removes it")]
    Layout {
        /// Name of the map.
        name: &'static str,
        /// What differs.
        detail: String,
    },
    /// A map has no room for a change. Nothing of that change was written.
    #[error("the service map {map} is full: {used} of {capacity} entries, {wanted} more are needed")]
    MapFull {
        /// Name of the map.
        map: &'static str,
        /// Entries in it.
        used: usize,
        /// Entries it can hold.
        capacity: usize,
        /// Entries the change needs.
        wanted: usize,
    },
    /// A map operation failed.
    #[error("map {map}: {action} failed")]
    MapIo {
        /// Name of the map.
        map: &'static str,
        /// What was tried.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file operation failed.
    #[error("cannot {what}")]
    Io {
        /// What was tried, with the path.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The object was not accepted.
    #[error("cannot load the kernel programs")]
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
    Object(String),
    /// A program was not accepted on larger maps.
    #[error("kernel program {name} on larger maps")]
    Exchange {
        /// Name of the program.
        name: String,
        /// What aya said.
        source: ProgramError,
    },
    /// Maps were not made larger because programs came meanwhile that use them, too.
    #[error("other programs use the maps by now")]
    Superseded,
    /// The driver of a device does not take the fast lane.
    #[error(
        "the driver of {device} cannot run an XDP program natively: use `--acceleration best-effort`, which runs it behind \
         the driver then, or `disabled`"
    )]
    NotNative {
        /// Name of the device.
        device: String,
        /// What the kernel said.
        source: Box<Error>,
    },
    /// A map could not be opened.
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
    /// Something could not be pinned.
    #[error("cannot pin {what}")]
    Pin {
        /// What was to be pinned.
        what: String,
        /// What aya said.
        source: PinError,
    },
    /// The log of the kernel programs could not be opened.
    #[error("cannot read the kernel programs' log")]
    Log(#[from] aya_log::Error),
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
}
