//! The handle everything goes through.

use crate::config::EtcdConfig;
use crate::error::Result;
use crate::resource::Resource;
use crate::schema::ResourceSchema;
use crate::txn::{Committed, KeyValue, Txn};
use prometheus_client::registry::Registry;

/// Storage of a cluster: etcd and the cache in front of it. Cheap to clone; the last clone's drop ends its tasks.
#[derive(Clone)]
pub struct Storage {}

/// How the cache is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// The watch stands, so the cache follows etcd.
    pub ready: bool,
    /// Why not, in words for a person.
    pub reason: Option<String>,
    /// Revision the cache has reached.
    pub revision: i64,
}

impl Storage {
    /// Connects, lists `/registry/` and starts the watch. Fails if etcd does not answer.
    pub async fn connect(_config: EtcdConfig, _resources: Vec<ResourceSchema>) -> Result<Self> {
        unreachable!()
    }
    /// Adds a resource at run time and loads it; at once if the prefix is already known (its fields are then replaced).
    pub async fn add_resource(&self, _schema: ResourceSchema) -> Result<Resource> {
        unreachable!()
    }
    /// Forgets a resource; its watchers get `Expired`.
    pub fn remove_resource(&self, _prefix: &str) {
        unreachable!()
    }
    /// The resource of a prefix, if a schema was given for it.
    pub fn resource(&self, _prefix: &str) -> Option<Resource> {
        unreachable!()
    }
    /// Applies a transaction, or fails with [`crate::Error::Conflict`] and what etcd has instead.
    pub async fn commit(&self, _txn: Txn) -> Result<Committed> {
        unreachable!()
    }
    /// A linearizable read of one key from etcd itself, for keys outside the cache.
    pub async fn read(&self, _key: &str) -> Result<Option<KeyValue>> {
        unreachable!()
    }
    /// A revision at least as new as every write that finished before this call. Concurrent callers share one question to etcd.
    pub async fn read_revision(&self) -> Result<i64> {
        unreachable!()
    }
    /// Waits until the cache has reached `revision` (which etcd has reached); `TooLargeRevision` if it does not in time.
    pub async fn wait_for(&self, _revision: i64) -> Result<()> {
        unreachable!()
    }
    /// Revision the cache has reached.
    pub fn revision(&self) -> i64 {
        unreachable!()
    }
    /// State of the cache, for readyz.
    pub fn readiness(&self) -> Readiness {
        unreachable!()
    }
    /// Registers this crate's metrics (upstream's names, no prefix).
    pub fn register_metrics(&self, _registry: &mut Registry) {
        unreachable!()
    }
    /// Ends the tasks and all watchers.
    pub fn shutdown(&self) {
        unreachable!()
    }
}
