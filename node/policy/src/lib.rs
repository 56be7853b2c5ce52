//! NetworkPolicy (`networking.k8s.io/v1`), compiled to what a kernel program can answer with a few lookups, and enforced
//! by such programs at the pods' devices.
//!
//! ```text
//! API -> follow -> Model -> Changes -> Programmer -> pinned maps <- kernel programs (ebpf/src/policy)
//!                                                        ^
//!                                                 reader (skepctl)
//! ```
//!
//! - [`Enforcer::run`] follows the API and enforces; [`Enforcer::cleanup`] removes everything. A daemon that dies leaves
//!   everything enforced.
//! - [`Model`] takes Pods, Namespaces, NetworkPolicies and Nodes as they come, one at a time, and gives out
//!   [`Changes`]: which addresses have which identity, which local pods have which table, which entries a table has.
//!   A change touches what depends on it and nothing else.
//! - [`Mirror`] holds what the changes add up to and answers as the kernel programs do.
//! - [`reference`] answers the same question straight from the objects and the text of the API, slowly. It is what the
//!   model is tested against.
//!
//! # Identities
//! What policies can tell apart about a peer is its namespace, its labels, its named ports and which `ipBlock`s its
//! address lies in. Each combination in use has a number, an [`Identity`]: hundreds of replicas of a workload share one.
//! A table speaks of identities only, so a new replica is one write of its address, and no table changes.
//!
//! # Semantics
//! Those of the API's documentation for v1.35. Where it leaves room: pods of the host's network are neither selected nor
//! peers (their traffic is their node's); an `ipBlock` matches every address in it, a pod's too; what a rule without
//! `ports` allows includes protocols without ports, such as ICMP, what a rule with `ports` allows does not.
#![deny(unsafe_code)]

/// Test helpers shared with tests outside of the crate name it.
#[cfg(test)]
extern crate self as skep_policy;

pub mod bench;
mod bypass;
mod config;
mod error;
mod follow;
mod kernel;
mod metrics;
mod mirror;
mod model;
mod object;
mod programmer;
pub mod reader;
pub mod reference;
mod selector;
mod table;
#[cfg(test)]
mod tests;
mod world;

pub use bypass::{Bypass, BypassError, Place};
pub use config::{Config, Sizes};
pub use error::{Error, Result};
pub use follow::Enforcer;
pub use metrics::Metrics;
pub use mirror::Mirror;
pub use model::{Changes, Model, TableChange};
pub use object::Key as PodId;
pub use programmer::PodDevice;
pub use skep_ebpf_common::{SCTP, TCP, UDP};
pub use table::{Direction, Endpoint, Entry, Identity, Table, TableId, prefixes};
