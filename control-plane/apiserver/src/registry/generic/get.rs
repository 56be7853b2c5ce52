//! GET of one object: the cached bytes.

use std::sync::Arc;

use skep_api::{options::GetOptions, status::StatusError};
use skep_storage::Object as Cached;

use super::{Registry, commit::storage_error};
use crate::registry::object::Object;

impl Registry {
    /// The object as the options want it: newest, at least as new as a version, or whatever the cache has (0).
    pub(crate) async fn get(
        &self,
        namespace: Option<&str>,
        name: &str,
        options: &GetOptions,
    ) -> Result<Arc<Cached>, StatusError> {
        let key = self.key(namespace, name).ok_or_else(|| self.not_found(name))?;
        self.await_version(options.resource_version).await?;
        self.cache.get(&key).ok_or_else(|| self.not_found(name))
    }

    /// The newest state of an object, parsed.
    pub(crate) async fn get_object(&self, namespace: Option<&str>, name: &str) -> Result<Box<dyn Object>, StatusError> {
        self.load(&*self.get(namespace, name, &GetOptions::default()).await?).await
    }

    /// Brings the cache to what a read of this resource version asks for.
    pub(crate) async fn await_version(&self, version: Option<u64>) -> Result<(), StatusError> {
        match version {
            Some(0) => Ok(()),
            None => self.refresh().await.map(drop),
            Some(version) => {
                let revision = i64::try_from(version).unwrap_or(i64::MAX);
                self.storage.wait_for(revision).await.map_err(storage_error)
            }
        }
    }
}
