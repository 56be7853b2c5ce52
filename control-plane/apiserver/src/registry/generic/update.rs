//! PUT and PATCH: an object based on the one stored now.

use std::sync::Arc;

use bytes::Bytes;
use futures::{
    FutureExt as _,
    future::{self, BoxFuture},
};
use http::StatusCode;
use skep_api::{field, meta, status::StatusError};
use skep_storage::{Object as Cached, response_bytes};

use super::{
    Registry, Scope,
    commit::{Outcome, Write, storage_error},
    create::Written,
    metadata::{Stage, carry_over, drop_twin_owners, has_finalizers, resource_version},
    ownership::{Ownership, with_times_of},
};
use crate::{
    admission::Admitted,
    registry::{
        erased::{AnyChange, UpdateKind},
        object::Object,
        strategy::Reservation,
    },
};

/// How often an update is tried again on a fresher object before the client is told of the conflict.
const ATTEMPTS: usize = 16;

/// The object stored now.
pub(crate) struct Current<'a> {
    /// Its JSON, resourceVersion included.
    pub(crate) json: &'a Bytes,
    /// Parsed; its resourceVersion is set.
    pub(crate) object: &'a dyn Object,
}

/// Makes the new object from the one stored now. Called again when that turned out to be stale.
pub(crate) trait Source: Send {
    fn produce<'a>(&'a mut self, current: &'a Current<'_>) -> BoxFuture<'a, Result<Box<dyn Object>, StatusError>>;

    /// The object to create if there is none. `allowed` is whether the resource allows creation by update.
    fn for_create(&mut self, allowed: bool) -> Result<Option<Box<dyn Object>>, StatusError> {
        let _ = allowed;
        Ok(None)
    }

    /// Who owns what this changes.
    fn ownership(&self) -> Ownership {
        Ownership::Tracked
    }
}

/// A PUT's body.
pub(crate) struct Replacement(pub(crate) Box<dyn Object>);

impl Source for Replacement {
    fn produce<'a>(&'a mut self, _: &'a Current<'_>) -> BoxFuture<'a, Result<Box<dyn Object>, StatusError>> {
        future::ready(Ok(self.0.boxed_clone())).boxed()
    }

    fn for_create(&mut self, allowed: bool) -> Result<Option<Box<dyn Object>>, StatusError> {
        Ok(allowed.then(|| self.0.boxed_clone()))
    }
}

/// A change of the present object by code.
pub(crate) struct Mutation<F>(pub(crate) F);

impl<F> Source for Mutation<F>
where
    F: FnMut(&mut dyn Object) -> Result<(), StatusError> + Send,
{
    fn produce<'a>(&'a mut self, current: &'a Current<'_>) -> BoxFuture<'a, Result<Box<dyn Object>, StatusError>> {
        let mut object = current.object.boxed_clone();
        let done = self.0(&mut *object);
        future::ready(done.map(|()| object)).boxed()
    }

    fn ownership(&self) -> Ownership {
        Ownership::Settled
    }
}

/// What one attempt came to.
enum Attempt {
    Done(Written),
    /// The object it was based on is stale.
    Stale,
}

impl Registry {
    /// Checks that a body names the object the URL names.
    pub(crate) fn check_names(&self, scope: &Scope<'_>, name: &str, object: &dyn Object) -> Result<(), StatusError> {
        let given = object.meta().namespace.as_deref().unwrap_or_default();
        if !given.is_empty() && given != scope.namespace.filter(|_| self.info().namespaced).unwrap_or_default() {
            return Err(StatusError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        let given = object.name();
        if given.is_empty() {
            return Err(StatusError::bad_request(format!(
                "the name of the object ({name} based on URL) was undeterminable: name must be provided"
            )));
        }
        if given != name {
            return Err(StatusError::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            )));
        }
        Ok(())
    }

    /// Replaces the object `name` by what `source` makes of it.
    pub(crate) async fn update(
        &self,
        scope: &Scope<'_>,
        name: &str,
        kind: UpdateKind,
        source: &mut dyn Source,
    ) -> Result<Written, StatusError> {
        let namespace = scope.namespace.filter(|_| self.info().namespaced);
        let key = self.key(namespace, name).ok_or_else(|| self.not_found(name))?;
        let mut fresh = false;
        for _ in 0..ATTEMPTS {
            let cached = match self.cache.get(&key) {
                Some(cached) => cached,
                None if !fresh => {
                    self.refresh().await?;
                    fresh = true;
                    continue;
                }
                None if kind == UpdateKind::Main => {
                    return match source.for_create(self.strategy.allow_create_on_update())? {
                        Some(object) => self.create_by_update(scope, name, object, source.ownership()).await,
                        None => Err(self.not_found(name)),
                    };
                }
                None => return Err(self.not_found(name)),
            };
            match self.try_update(scope, &key, &cached, kind, source, fresh).await {
                Ok(Attempt::Done(written)) => return Ok(written),
                Ok(Attempt::Stale) => self.refresh().await.map(drop)?,
                // What is wrong with a stale object may be right with the one there is now.
                Err(error) if !fresh && error.code().is_client_error() => {
                    self.refresh().await?;
                    let now = self.cache.get(&key);
                    if now.is_some_and(|now| now.mod_revision() == cached.mod_revision()) {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
            fresh = true;
        }
        Err(StatusError::modified(self.info(), name))
    }

    async fn create_by_update(
        &self,
        scope: &Scope<'_>,
        name: &str,
        mut object: Box<dyn Object>,
        ownership: Ownership,
    ) -> Result<Written, StatusError> {
        self.check_names(scope, name, &*object)?;
        let meta = object.meta_mut();
        if resource_version(meta)?.is_some() {
            // A resource version says that the client has seen the object.
            return Err(StatusError::modified(self.info(), name));
        }
        if let Some(uid) = meta.uid.as_deref().filter(|uid| !uid.is_empty()) {
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: ");
            return Err(StatusError::conflict(self.info(), name, why));
        }
        meta.resource_version = None;
        match ownership {
            Ownership::Tracked => self.create(scope, object).await,
            Ownership::Settled => self.create_owned(scope, object).await,
        }
    }

    /// One attempt, based on `cached`; `fresh` tells that etcd was asked since the request began.
    async fn try_update(
        &self,
        scope: &Scope<'_>,
        key: &str,
        cached: &Arc<Cached>,
        kind: UpdateKind,
        source: &mut dyn Source,
        fresh: bool,
    ) -> Result<Attempt, StatusError> {
        let name = cached.name();
        let shown = self.show(cached.json()).await?;
        let old = self.decode_stored(cached, &shown)?;
        let mut object = source.produce(&Current { json: &shown, object: &*old }).await?;

        let uid = object.uid();
        if !uid.is_empty() && uid != old.uid() {
            if !fresh {
                return Ok(Attempt::Stale);
            }
            let stored = old.uid();
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {stored}");
            return Err(StatusError::conflict(self.info(), name, why));
        }
        match resource_version(object.meta())? {
            Some(version) if version != cached.mod_revision() => {
                if !fresh {
                    return Ok(Attempt::Stale);
                }
                return Err(StatusError::modified(self.info(), name));
            }
            None if kind != UpdateKind::Internal && !self.strategy.allow_unconditional_update() => {
                let path = field::Path::new("metadata.resourceVersion");
                let error = field::Error::invalid(&path, 0, "must be specified for an update");
                return Err(StatusError::invalid(&self.info().group, &self.info().kind, name, &[error]));
            }
            _ => {}
        }

        if kind != UpdateKind::Internal {
            self.check_names(scope, name, &*object)?;
        }
        if source.ownership() == Ownership::Tracked {
            drop_twin_owners(scope, Stage::Sent, object.meta_mut());
            self.own_updated(scope, kind, &shown, &*old, &mut *object).await?;
        }

        let mut admitted = self.admit_update(scope, kind, &mut object, &*old).await?;
        let meta = object.meta_mut();
        drop_twin_owners(scope, Stage::Admitted, meta);
        meta.resource_version = Some(cached.mod_revision().to_string());
        if meta.namespace.as_deref().unwrap_or_default().is_empty() {
            meta.namespace.clone_from(&old.meta().namespace);
        }
        carry_over(&mut *object, old.meta());
        self.strategy.prepare_for_update(kind, &scope.context(), &mut *object, &*old);
        if self.strategy.bumps_generation(&*object, &*old) {
            let next = old.meta().generation.unwrap_or(0) + 1;
            object.meta_mut().generation = Some(next);
        }
        let mut errors = self.metadata_errors(object.meta());
        errors.extend(meta::validate_update(object.meta(), old.meta(), &field::Path::new("metadata")));
        errors.extend(self.strategy.validate_update(kind, &*object, &*old));
        if let Some(version) = self.version.as_ref().filter(|_| kind == UpdateKind::Main) {
            errors.extend(version.validate_update(&*object, &*old));
        }
        self.check(name, errors)?;
        self.admit_updated(scope, kind, &*object, &*old, &mut admitted).await?;
        self.write_update(scope, key, cached, (&mut *object, &*old), &mut admitted, fresh).await
    }

    async fn write_update(
        &self,
        scope: &Scope<'_>,
        key: &str,
        cached: &Arc<Cached>,
        (object, old): (&mut dyn Object, &dyn Object),
        admitted: &mut Admitted,
        mut fresh: bool,
    ) -> Result<Attempt, StatusError> {
        let base = cached.mod_revision();
        let done = |json| Ok(Attempt::Done(Written { code: StatusCode::OK, json }));
        let goes = self.goes_with_update(object, old);
        let mut reservation = Reservation::default();
        loop {
            let mut spare = None;
            let object: &mut dyn Object = if self.strategy.reserves() {
                let copy = &mut **spare.insert(object.boxed_clone());
                reservation.take.clear();
                reservation.release.clear();
                let change = if goes { AnyChange::Delete { old } } else { AnyChange::Update { object: copy, old } };
                if let Err(error) = self.strategy.reserve(change, &mut reservation) {
                    self.doubt(&mut fresh, error).await?;
                    continue;
                }
                copy
            } else {
                &mut *object
            };
            let value = Bytes::from(self.encode(object).await?);
            if !goes && self.changes_nothing(&value, cached, object, old).await? {
                // Nothing changes. Say so only if this is what etcd has.
                if !fresh {
                    self.refresh().await?;
                    if self.cache.get(key).is_none_or(|now| now.mod_revision() != base) {
                        return Ok(Attempt::Stale);
                    }
                }
                return done(cached.json().clone());
            }
            if scope.dry_run {
                return done(response_bytes(&value, base).map_err(storage_error)?);
            }
            let write = if goes { Write::Delete(base) } else { Write::Update(base, value.clone()) };
            match self.commit(key, write, &reservation, admitted).await? {
                Outcome::Committed(revision) => return done(response_bytes(&value, revision).map_err(storage_error)?),
                Outcome::Stale | Outcome::Unguarded => return Ok(Attempt::Stale),
                Outcome::Lost(keys) => self.count_loss(&mut reservation, keys)?,
            }
        }
    }

    /// Whether `value`, the encoded `object`, is what is stored, but for the times of the fields' owners.
    async fn changes_nothing(
        &self,
        value: &Bytes,
        cached: &Cached,
        object: &mut dyn Object,
        old: &dyn Object,
    ) -> Result<bool, StatusError> {
        let stored = cached.json();
        let shown = |value: &Bytes| response_bytes(value, cached.mod_revision()).map_err(storage_error);
        let json = shown(value)?;
        if json == *stored {
            return Ok(true);
        }
        // Times are all of one length.
        if json.len() != stored.len() {
            return Ok(false);
        }
        let Some(times) = with_times_of(object, old) else { return Ok(false) };
        let same = shown(&Bytes::from(self.encode(object).await?))? == *stored;
        object.meta_mut().managed_fields = Some(times);
        Ok(same)
    }

    /// Whether an object that is being deleted has nothing left to wait for after this update.
    fn goes_with_update(&self, object: &dyn Object, old: &dyn Object) -> bool {
        old.meta().deletion_timestamp.is_some()
            && old.meta().deletion_grace_period_seconds.unwrap_or(0) == 0
            && !has_finalizers(object.meta())
            && !self.strategy.has_own_finalizers(object)
    }
}
