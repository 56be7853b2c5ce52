//! Service networking of a node: ClusterIP traffic is translated in the kernel, at the socket.
//!
//! ```text
//! API -> watch -> tracker (Services + EndpointSlices, own pods -> service ports) -> Programmer -> pinned maps <- kernel programs
//!                                                                                                      ^
//!                                                                                       maps::Reader (skepctl)
//! ```
//!
//! - [`Proxy::load`] loads or takes over the kernel programs, [`Proxy::run`] follows the API, [`Proxy::cleanup`] removes
//!   everything. A daemon that dies leaves everything serving.
//! - [`Programmer`] writes service ports into the maps; [`bench`] measures it without a cluster.
//! - [`maps::Reader`] shows what the kernel serves. Names of services live in a pinned map beside the others: that survives
//!   the daemon, cannot disagree with the maps after a crash or a reboot, and goes with them.
#![deny(unsafe_code)]

pub mod bench;
mod bpffs;
mod cgroup;
mod config;
pub mod devices;
pub mod direct;
mod error;
pub mod growth;
pub mod health;
mod kernel;
mod loads;
mod log;
pub mod maglev;
pub mod maps;
pub mod metrics;
mod node;
mod object;
pub mod programmer;
mod proxy;
pub mod service;
mod sockets;
mod sys;
mod tracker;
mod verifier;

pub use config::{Config, MapSizes};
pub use error::{Error, Result};
pub use health::Health;
pub use metrics::Metrics;
pub use object::Attachment;
pub use programmer::Programmer;
pub use proxy::Proxy;
pub use service::{Backend, Family, Frontend, Kind, Protocol, Service, ServicePort, ServicePortName, ServiceTable};
