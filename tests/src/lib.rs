//! The harness of the cluster tests: a whole cluster of real parts on a machine made of network namespaces.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "the harness waits on threads of its own")]

pub mod bench;
pub mod clients;
pub mod cluster;
pub mod hammer;
pub mod history;
pub mod kubectl;
pub mod masters;
pub mod scrape;
