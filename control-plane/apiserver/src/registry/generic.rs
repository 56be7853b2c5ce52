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

use super::{custom::Conversion, erased::AnyStrategy, object::Object, strategy::Context, version::AnyVersion};
use crate::{
    admission::{Admission, WarningSink},
    scan,
    user::UserInfo,
};

pub(crate) mod admit;
pub(crate) mod apply;
pub(crate) mod commit;
pub(crate) mod continuation;
pub(crate) mod create;
pub(crate) mod decode;
pub(crate) mod delete;
pub(crate) mod get;
pub(crate) mod list;
pub(crate) mod metadata;
mod omit;
pub(crate) mod ownership;
pub(crate) mod patch;
pub(crate) mod selection;
mod strict;
pub(crate) mod update;
mod versions;
pub(crate) mod view;
pub(crate) mod watch;

/// One resource: its strategy and where its objects are.
pub(crate) struct Registry {
    pub(crate) strategy: Box<dyn AnyStrategy>,
    /// The version served, where it is not the one stored.
    pub(crate) version: Option<Box<dyn AnyVersion>>,
    /// How a custom resource is stored in another form than served.
    pub(crate) conversion: Option<Arc<dyn Conversion>>,
    pub(crate) cache: Resource,
    pub(crate) storage: Storage,
    pub(crate) admission: Arc<Admission>,
}

/// Who owns the fields the server sets of its own.
const SERVER: &str = "kube-apiserver";

/// What every verb needs to know about the request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope<'a> {
    pub(crate) user: &'a UserInfo,
    /// The namespace of the request; none for cluster-scoped resources and for requests across namespaces.
    pub(crate) namespace: Option<&'a str>,
    pub(crate) now: Timestamp,
    pub(crate) dry_run: bool,
    /// Who is to own the fields it writes; empty if nobody knows.
    pub(crate) manager: &'a str,
    /// The request's parameters; none for what the server does of its own.
    pub(crate) query: Option<&'a Query>,
    /// Takes what the client should be warned of.
    pub(crate) warnings: Option<&'a WarningSink>,
}

impl<'a> Scope<'a> {
    /// Of something the server does of its own.
    pub(crate) fn internal(user: &'a UserInfo, namespace: Option<&'a str>, now: Timestamp) -> Self {
        Self { user, namespace, now, dry_run: false, manager: SERVER, query: None, warnings: None }
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
    pub(crate) fn info(&self) -> &ResourceInfo {
        self.version.as_ref().map_or_else(|| self.strategy.info(), |version| version.info())
    }

    /// Whether objects are shown as they are stored.
    pub(crate) fn shows_stored(&self) -> bool {
        self.version.is_none() && self.conversion.as_ref().is_none_or(|conversion| conversion.is_identity())
    }

    /// The JSON of a stored object as this version shows it.
    pub(crate) async fn show(&self, stored: &Bytes) -> Result<Bytes, StatusError> {
        match &self.conversion {
            Some(conversion) if !conversion.is_identity() => {
                let mut shown = conversion.show(std::slice::from_ref(stored)).await?;
                shown.pop().ok_or_else(|| StatusError::internal_error("a conversion without a result"))
            }
            _ => self.present(stored),
        }
    }

    /// The same where no one else must be asked (see [`Conversion::is_remote`]).
    pub(crate) fn present(&self, stored: &Bytes) -> Result<Bytes, StatusError> {
        match (&self.version, &self.conversion) {
            (Some(version), _) => version.present(stored).map(Bytes::from).map_err(StatusError::internal_error),
            (None, Some(conversion)) if !conversion.is_identity() => conversion.present(stored),
            _ => Ok(stored.clone()),
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
    pub(crate) async fn load(&self, cached: &Cached) -> Result<Box<dyn Object>, StatusError> {
        match &self.conversion {
            Some(_) => self.decode_stored(cached, &self.show(cached.json()).await?),
            None => self.decode_stored(cached, cached.json()),
        }
    }

    /// Parses what was just written.
    pub(crate) async fn read_back(&self, stored: &Bytes) -> Result<Box<dyn Object>, StatusError> {
        let shown = if self.conversion.is_some() { self.show(stored).await? } else { stored.clone() };
        self.strategy.decode_stored(&shown).map_err(StatusError::internal_error)
    }

    /// Parses what the cache holds; `shown` is what [`Registry::show`] makes of it.
    pub(crate) fn decode_stored(&self, cached: &Cached, shown: &Bytes) -> Result<Box<dyn Object>, StatusError> {
        // The strategy of a custom resource knows the version served, that of a built-in one the version stored.
        let json = if self.conversion.is_some() { shown } else { cached.json() };
        self.strategy.decode_stored(json).map_err(|error| {
            StatusError::internal_error(format!("the stored value of {} cannot be read: {error}", cached.key()))
        })
    }

    /// The bytes to be stored: metadata first, no resourceVersion.
    pub(crate) async fn encode(&self, object: &mut dyn Object) -> Result<Vec<u8>, StatusError> {
        object.meta_mut().resource_version = None;
        let mut json = object.to_json().map_err(StatusError::internal_error)?;
        if let Some(conversion) = &self.conversion {
            json = conversion.store(json).await?;
        }
        Ok(scan::metadata_first(json))
    }
}

/// Brings the cache to at least the state etcd has now.
pub(crate) async fn refresh(storage: &Storage) -> Result<i64, StatusError> {
    let revision = storage.read_revision().await.map_err(commit::storage_error)?;
    storage.wait_for(revision).await.map_err(commit::storage_error)?;
    Ok(revision)
}
