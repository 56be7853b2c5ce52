//! The registry: how objects of any resource are read and written. One file a verb.
//!
//! Reads come from the watch cache, brought up to date first when the client asks for the newest state. Writes are one
//! etcd transaction that compares the revision they are based on, so a write based on a stale cache fails and is tried
//! again on a fresh one; nothing is ever half written.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use skep_api::{field, request::Query, resource::ResourceInfo, status::StatusError};
use skep_storage::{Object as Cached, Resource, Storage};

use super::{
    erased::{AnyStrategy, UnknownFields},
    object::Object,
    strategy::Context,
    version::AnyVersion,
};
use crate::{
    admission::{Admission, WarningSink},
    scan,
    user::UserInfo,
};

pub(crate) mod admit;
pub(crate) mod commit;
pub(crate) mod continuation;
pub(crate) mod create;
pub(crate) mod decode;
pub(crate) mod delete;
pub(crate) mod get;
pub(crate) mod list;
pub(crate) mod metadata;
pub(crate) mod patch;
pub(crate) mod selection;
pub(crate) mod update;
pub(crate) mod view;
pub(crate) mod watch;

/// One resource: its strategy and where its objects are.
pub(crate) struct Registry {
    pub(crate) strategy: Box<dyn AnyStrategy>,
    /// The version served, where it is not the one stored.
    pub(crate) version: Option<Box<dyn AnyVersion>>,
    pub(crate) cache: Resource,
    pub(crate) storage: Storage,
    pub(crate) admission: Arc<Admission>,
}

/// What every verb needs to know about the request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope<'a> {
    pub(crate) user: &'a UserInfo,
    /// The namespace of the request; none for cluster-scoped resources and for requests across namespaces.
    pub(crate) namespace: Option<&'a str>,
    pub(crate) now: Timestamp,
    pub(crate) dry_run: bool,
    /// The request's parameters; none for what the server does of its own.
    pub(crate) query: Option<&'a Query>,
    /// Takes what the client should be warned of.
    pub(crate) warnings: Option<&'a WarningSink>,
}

impl<'a> Scope<'a> {
    /// Of something the server does of its own.
    pub(crate) fn internal(user: &'a UserInfo, namespace: Option<&'a str>, now: Timestamp) -> Self {
        Self { user, namespace, now, dry_run: false, query: None, warnings: None }
    }

    /// Warns the client.
    pub(crate) fn warn(&self, warning: impl Into<String>) {
        if let Some(warnings) = self.warnings {
            warnings.add(warning);
        }
    }

    pub(crate) fn context(&self) -> Context<'a> {
        Context { user: self.user, namespace: self.namespace, now: self.now, dry_run: self.dry_run }
    }
}

impl Registry {
    pub(crate) fn info(&self) -> &'static ResourceInfo {
        self.version.as_ref().map_or_else(|| self.strategy.info(), |version| version.info())
    }

    /// The JSON of a stored object as this version shows it.
    pub(crate) fn present(&self, stored: &Bytes) -> Result<Bytes, StatusError> {
        match &self.version {
            None => Ok(stored.clone()),
            Some(version) => version.present(stored).map(Bytes::from).map_err(StatusError::internal_error),
        }
    }

    /// The etcd key of an object; none for names that can be no key.
    pub(crate) fn key(&self, namespace: Option<&str>, name: &str) -> Option<String> {
        let fits = |segment: &str| !segment.is_empty() && !segment.contains('/');
        let prefix = self.strategy.prefix();
        match namespace {
            Some(namespace) if fits(namespace) && fits(name) => Some(format!("{prefix}{namespace}/{name}")),
            None if fits(name) => Some(format!("{prefix}{name}")),
            _ => None,
        }
    }

    /// What all keys of a request across objects start with.
    pub(crate) fn key_scope(&self, namespace: Option<&str>) -> String {
        match namespace {
            Some(namespace) => format!("{}{namespace}/", self.strategy.prefix()),
            None => self.strategy.prefix().to_owned(),
        }
    }

    /// Brings the cache to at least the state etcd has now.
    pub(crate) async fn refresh(&self) -> Result<i64, StatusError> {
        refresh(&self.storage).await
    }

    /// The object of that key as etcd has it now.
    pub(crate) async fn latest(&self, key: &str) -> Result<Option<Arc<Cached>>, StatusError> {
        self.refresh().await?;
        Ok(self.cache.get(key))
    }

    /// 404 for an object of this resource.
    pub(crate) fn not_found(&self, name: &str) -> StatusError {
        StatusError::not_found(self.info(), name)
    }

    /// 422 for an object of this resource, unless there is nothing to complain about.
    pub(crate) fn check(&self, name: &str, errors: Vec<field::Error>) -> Result<(), StatusError> {
        if errors.is_empty() {
            return Ok(());
        }
        Err(StatusError::invalid(&self.info().group, &self.info().kind, name, &errors))
    }

    /// Parses what the cache holds.
    pub(crate) fn decode_cached(&self, cached: &Cached) -> Result<Box<dyn Object>, StatusError> {
        let mut unknown = UnknownFields::new();
        self.strategy.decode(cached.json(), &mut unknown).map_err(|error| {
            StatusError::internal_error(format!("the stored value of {} cannot be read: {error}", cached.key()))
        })
    }

    /// The bytes to be stored: metadata first, no resourceVersion.
    pub(crate) fn encode(&self, object: &mut dyn Object) -> Result<Vec<u8>, StatusError> {
        object.meta_mut().resource_version = None;
        let json = object.to_json().map_err(StatusError::internal_error)?;
        Ok(scan::metadata_first(json))
    }
}

/// Brings the cache to at least the state etcd has now.
pub(crate) async fn refresh(storage: &Storage) -> Result<i64, StatusError> {
    let revision = storage.read_revision().await.map_err(commit::storage_error)?;
    storage.wait_for(revision).await.map_err(commit::storage_error)?;
    Ok(revision)
}
