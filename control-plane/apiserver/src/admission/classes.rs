//! Objects of small resources (classes) that admission asks for again and again.

use std::sync::{Arc, PoisonError, RwLock};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use skep_api::{ApiObject, status::StatusError};
use skep_storage::{Object as Cached, Resource, Storage};

use crate::registry::generic::refresh;

/// Objects as they are cached, and parsed.
type Parsed<T> = Arc<[(Arc<Cached>, T)]>;

/// All objects of a cluster-scoped resource, parsed; parsed again only when one of them changed.
pub(super) struct Classes<T> {
    resource: Option<Resource>,
    parsed: RwLock<Parsed<T>>,
}

impl<T: ApiObject + DeserializeOwned> Classes<T> {
    pub(super) fn new(storage: &Storage, prefix: &str) -> Self {
        Self { resource: storage.resource(prefix), parsed: RwLock::new(Arc::new([])) }
    }

    /// The objects the cache holds. One that cannot be read is left out.
    pub(super) fn all(&self) -> Parsed<T> {
        let Some(resource) = &self.resource else { return Arc::new([]) };
        let snapshot = resource.snapshot();
        let parsed = Arc::clone(&self.parsed.read().unwrap_or_else(PoisonError::into_inner));
        if parsed.len() == snapshot.len()
            && parsed.iter().zip(snapshot.iter()).all(|(one, now)| Arc::ptr_eq(&one.0, now))
        {
            return parsed;
        }
        let read = |cached: &Arc<Cached>| Some((Arc::clone(cached), serde_json::from_slice(cached.json()).ok()?));
        let fresh: Parsed<T> = snapshot.iter().filter_map(read).collect();
        *self.parsed.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&fresh);
        fresh
    }

    /// What `read` makes of the object of that name; the cache is brought up to date before it is called missing.
    pub(super) async fn find<R>(
        &self,
        storage: &Storage,
        name: &str,
        read: impl Fn(&T) -> R,
    ) -> Result<Option<R>, StatusError> {
        let look = || {
            let all = self.all();
            let found = all.iter().find(|(cached, _)| cached.name() == name);
            found.map(|(_, class)| read(class))
        };
        if let Some(found) = look() {
            return Ok(Some(found));
        }
        refresh(storage).await?;
        Ok(look())
    }

    /// The name of the default class: the newest that one of `annotations` marks, the first by name among equals.
    /// The cache is brought up to date before there is said to be none.
    pub(super) async fn default_by_annotation(
        &self,
        storage: &Storage,
        annotations: &[&str],
    ) -> Result<Option<String>, StatusError> {
        if let Some(name) = self.marked(annotations) {
            return Ok(Some(name));
        }
        refresh(storage).await?;
        Ok(self.marked(annotations))
    }

    fn marked(&self, annotations: &[&str]) -> Option<String> {
        let is_default = |meta: &ObjectMeta| {
            annotations.iter().any(|annotation| {
                meta.annotations.as_ref().and_then(|own| own.get(*annotation)).is_some_and(|value| value == "true")
            })
        };
        let all = self.all();
        let candidates = all.iter().map(|(_, class)| class.metadata()).filter(|meta| is_default(meta));
        let age = |meta: &&ObjectMeta| std::cmp::Reverse(meta.creation_timestamp.as_ref().map(|time| time.0));
        candidates.min_by_key(|meta| (age(meta), meta.name.clone()))?.name.clone()
    }
}
