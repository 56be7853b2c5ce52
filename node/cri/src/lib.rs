//! containerd over gRPC: the CRI v1 services, containerd's native event stream, and the pause image.
//!
//! The node speaks to one containerd through one lazily connected channel ([`Cri`]); a restart of containerd is invisible
//! except for calls that fail with [`Error::Unavailable`] while it is away.
#![forbid(unsafe_code)]

mod channel;
mod error;
pub mod events;
mod image;
pub mod pause;
mod runtime;
mod streaming;

pub use channel::Cri;
pub use error::Error;
/// The messages of CRI v1, as generated from upstream's protobuf definitions.
pub use k8s_cri::v1 as api;
