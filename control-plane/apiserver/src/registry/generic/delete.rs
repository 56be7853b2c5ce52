//! DELETE: at once, after a grace period, or when the last finalizer is gone.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusDetails, Time};
use skep_api::{
    options::{DeleteOptions, PropagationPolicy},
    status::StatusError,
};
use skep_storage::{Object as Cached, response_bytes};

use super::{
    Registry, Scope,
    commit::{Outcome, Write, storage_error},
    create::Written,
    list::Page,
    metadata::has_finalizers,
};
use crate::{
    admission::Admitted,
    registry::{
        erased::AnyChange,
        object::Object,
        strategy::{Grace, Reservation},
    },
};

/// How often a deletion is tried again on a fresher object.
const ATTEMPTS: usize = 64;
/// Deletions a deletecollection has under way at once.
const AT_ONCE: usize = 16;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// What a deletion answers.
pub(crate) enum Deleted {
    /// The object, which is gone or waits to go.
    Object(Written),
    /// That it is gone.
    Gone(Box<Status>),
}

enum Attempt {
    Done(Deleted),
    Stale,
}

/// What a deletion makes of an object.
enum Plan {
    /// It goes now.
    Remove,
    /// It stays, marked; someone must confirm or finish.
    Mark,
    /// It is marked already.
    Wait,
}

impl Registry {
    /// Deletes the object `name`.
    pub(crate) async fn delete(
        &self,
        scope: &Scope<'_>,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, StatusError> {
        self.delete_with(scope, name, options, true).await
    }

    /// Deletes the object `name` for a request that was admitted as something else (an eviction).
    pub(crate) async fn delete_admitted(
        &self,
        scope: &Scope<'_>,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, StatusError> {
        self.delete_with(scope, name, options, false).await
    }

    async fn delete_with(
        &self,
        scope: &Scope<'_>,
        name: &str,
        options: &DeleteOptions,
        admit: bool,
    ) -> Result<Deleted, StatusError> {
        let namespace = scope.namespace.filter(|_| self.info().namespaced);
        let key = self.key(namespace, name).ok_or_else(|| self.not_found(name))?;
        let mut fresh = false;
        for _ in 0..ATTEMPTS {
            match self.cache.get(&key) {
                Some(cached) => match self.try_delete(scope, (&key, &cached), options, admit, fresh).await? {
                    Attempt::Done(deleted) => return Ok(deleted),
                    Attempt::Stale => {}
                },
                None if fresh => return Err(self.not_found(name)),
                None => {}
            }
            self.refresh().await?;
            fresh = true;
        }
        Err(StatusError::modified(self.info(), name))
    }

    /// Deletes every object of a page.
    pub(crate) async fn delete_collection(
        &self,
        scope: &Scope<'_>,
        page: &Page,
        options: &DeleteOptions,
    ) -> Result<(), StatusError> {
        let objects: Vec<Arc<Cached>> = page.objects().cloned().collect();
        stream::iter(objects)
            .map(|object| async move {
                let scope = Scope { namespace: object.namespace(), ..*scope };
                match self.delete(&scope, object.name(), options).await {
                    Err(error) if error.code() == StatusCode::NOT_FOUND => Ok(()),
                    other => other.map(drop),
                }
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn try_delete(
        &self,
        scope: &Scope<'_>,
        (key, cached): (&str, &Arc<Cached>),
        options: &DeleteOptions,
        admit: bool,
        fresh: bool,
    ) -> Result<Attempt, StatusError> {
        let old = self.load(cached).await?;
        if let Err(error) = self.check_preconditions(cached, options) {
            return if fresh { Err(error) } else { Ok(Attempt::Stale) };
        }
        if let Err(error) = self.strategy.check_delete(&*old) {
            return if fresh { Err(error) } else { Ok(Attempt::Stale) };
        }
        if admit {
            self.admit_delete(scope, &*old, options).await?;
        }
        let mut object = old.boxed_clone();
        let base = cached.mod_revision();
        match self.plan(scope.now, &mut *object, options) {
            Plan::Wait => {
                if !fresh {
                    return Ok(Attempt::Stale);
                }
                let written = Written { code: StatusCode::OK, json: cached.json().clone() };
                Ok(Attempt::Done(Deleted::Object(written)))
            }
            Plan::Mark => {
                let value = Bytes::from(self.encode(&mut *object).await?);
                let mut revision = base;
                if !scope.dry_run {
                    match self
                        .commit(
                            key,
                            Write::Update(base, value.clone()),
                            &Reservation::default(),
                            &mut Admitted::default(),
                        )
                        .await?
                    {
                        Outcome::Committed(committed) => revision = committed,
                        Outcome::Stale | Outcome::Lost(_) | Outcome::Unguarded => return Ok(Attempt::Stale),
                    }
                }
                let json = response_bytes(&value, revision).map_err(storage_error)?;
                Ok(Attempt::Done(Deleted::Object(Written { code: StatusCode::OK, json })))
            }
            Plan::Remove => {
                let mut reservation = Reservation::default();
                if self.strategy.reserves() {
                    self.strategy.reserve(AnyChange::Delete { old: &*old }, &mut reservation)?;
                }
                let mut revision = base;
                if !scope.dry_run {
                    match self.commit(key, Write::Delete(base), &reservation, &mut Admitted::default()).await? {
                        Outcome::Committed(committed) => revision = committed,
                        Outcome::Stale | Outcome::Lost(_) | Outcome::Unguarded => return Ok(Attempt::Stale),
                    }
                }
                Ok(Attempt::Done(self.gone(&mut *object, revision).await?))
            }
        }
    }

    async fn gone(&self, object: &mut dyn Object, revision: i64) -> Result<Deleted, StatusError> {
        if self.strategy.returns_deleted_object() {
            let json = response_bytes(&self.encode(object).await?, revision).map_err(storage_error)?;
            return Ok(Deleted::Object(Written { code: StatusCode::OK, json }));
        }
        let info = self.info();
        Ok(Deleted::Gone(Box::new(Status {
            status: Some("Success".to_owned()),
            details: Some(StatusDetails {
                name: object.meta().name.clone(),
                uid: object.meta().uid.clone(),
                group: (!info.group.is_empty()).then(|| info.group.to_string()),
                kind: Some(info.plural.to_string()),
                ..StatusDetails::default()
            }),
            ..Status::default()
        })))
    }

    fn check_preconditions(&self, cached: &Cached, options: &DeleteOptions) -> Result<(), StatusError> {
        let Some(preconditions) = &options.preconditions else { return Ok(()) };
        let refuse = |what: &str, given: &str, stored: &str| {
            let why = format!("Precondition failed: {what} in precondition: {given}, {what} in object meta: {stored}");
            Err(StatusError::conflict(self.info(), cached.name(), why))
        };
        if let Some(uid) = &preconditions.uid
            && uid != cached.uid()
        {
            return refuse("UID", uid, cached.uid());
        }
        let stored = cached.mod_revision().to_string();
        match &preconditions.resource_version {
            Some(version) if *version != stored => refuse("ResourceVersion", version, &stored),
            _ => Ok(()),
        }
    }

    /// Decides what happens to `object` and marks it if it stays.
    fn plan(&self, now: Timestamp, object: &mut dyn Object, options: &DeleteOptions) -> Plan {
        let finalizers_changed = set_propagation(object, options, self.strategy.orphans_by_default());
        let (mut changed, mut grace) = (finalizers_changed, 0);
        if object.meta().deletion_timestamp.is_some() {
            // A deletion that is under way can only be made faster.
            let pending = object.meta().deletion_grace_period_seconds.unwrap_or(0);
            grace = pending;
            if let Some(shorter) = options.grace_period_seconds.filter(|asked| pending > 0 && *asked < pending) {
                let meta = object.meta_mut();
                meta.deletion_grace_period_seconds = Some(shorter);
                if let Some(time) = &mut meta.deletion_timestamp {
                    time.0 = later(time.0, shorter - pending);
                }
                grace = shorter;
                changed = true;
            }
        } else if let Grace::Seconds(seconds) = self.strategy.grace_period(object, options) {
            grace = seconds;
        }
        if grace <= 0 && !has_finalizers(object.meta()) && !self.strategy.has_own_finalizers(object) {
            return Plan::Remove;
        }
        let meta = object.meta_mut();
        if meta.deletion_timestamp.is_none() {
            meta.deletion_timestamp = Some(Time(later(now, grace)));
            meta.deletion_grace_period_seconds = Some(grace);
            if let Some(generation) = meta.generation.filter(|generation| *generation > 0) {
                meta.generation = Some(generation + 1);
            }
            self.strategy.prepare_for_deletion(object);
            changed = true;
        }
        if changed { Plan::Mark } else { Plan::Wait }
    }
}

/// `time` plus so many seconds; `time` itself where that would leave the calendar.
fn later(time: Timestamp, seconds: i64) -> Timestamp {
    time.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(time)
}

/// Adds or removes the finalizers that carry the propagation policy. Tells whether anything changed.
fn set_propagation(object: &mut dyn Object, options: &DeleteOptions, orphans_by_default: bool) -> bool {
    let finalizers = object.meta().finalizers.clone().unwrap_or_default();
    let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
    let orphan = match (options.orphan_dependents, options.propagation_policy) {
        (Some(orphan), _) => orphan,
        (None, Some(policy)) => policy == PropagationPolicy::Orphan,
        (None, None) => has(ORPHAN) || (orphans_by_default && !has(FOREGROUND)),
    };
    let foreground = match (options.orphan_dependents, options.propagation_policy) {
        (Some(_), _) => false,
        (None, Some(policy)) => policy == PropagationPolicy::Foreground,
        (None, None) => has(FOREGROUND),
    };
    if orphan == has(ORPHAN) && foreground == has(FOREGROUND) {
        return false;
    }
    let mut kept: Vec<String> =
        finalizers.into_iter().filter(|finalizer| finalizer != ORPHAN && finalizer != FOREGROUND).collect();
    kept.extend(orphan.then(|| ORPHAN.to_owned()));
    kept.extend(foreground.then(|| FOREGROUND.to_owned()));
    object.meta_mut().finalizers = (!kept.is_empty()).then_some(kept);
    true
}
