//! Storage of skep: etcd, and the watch cache in front of it. The only crate that knows etcd.
//!
//! [`Storage::connect`] lists `/registry/` once, then follows it with a single etcd watch. Every resource prefix a
//! [`ResourceSchema`] was given for is kept in memory as [`Object`]s whose bytes are ready to be sent, so reads never
//! parse and never ask etcd for data. Writes are etcd transactions ([`Storage::commit`]).
//!
//! A linearizable read is three steps:
//! ```no_run
//! # async fn f(storage: skep_storage::Storage) -> skep_storage::Result<()> {
//! let revision = storage.read_revision().await?;
//! storage.wait_for(revision).await?;
//! let pods = storage.resource("/registry/pods/").expect("a schema was given").snapshot();
//! # Ok(()) }
//! ```
//! The first asks etcd, unless this server is the only one that writes there ([`Member`]).
#![deny(unsafe_code)]

mod cache;
mod compact;
mod config;
mod error;
mod etcd;
mod event;
mod lease;
mod metrics;
mod object;
mod past;
mod progress;
mod read_index;
mod resource;
mod schema;
mod servers;
mod storage;
mod stored;
pub mod supervisor;
mod txn;

pub use config::{EtcdConfig, Tuning};
pub use error::{Conflict, Error, FailedCompare, Result};
pub use event::{Event, EventKind};
pub use object::{Labels, Object, response_bytes};
pub use past::Past;
pub use resource::{Resource, Snapshot, Watcher};
pub use schema::{Conversion, Convert, FieldExtractor, ResourceSchema, SelectableField};
pub use servers::Member;
pub use storage::{Readiness, Storage};
pub use txn::{Committed, Compare, KeyValue, Op, Txn};
