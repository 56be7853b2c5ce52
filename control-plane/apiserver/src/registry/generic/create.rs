//! POST: a new object.

use bytes::Bytes;
use http::StatusCode;
use skep_api::{meta, status::StatusError};
use skep_storage::{Compare, response_bytes};

use super::{
    Registry, Scope,
    commit::{Outcome, Write, storage_error},
};
use crate::registry::{erased::AnyChange, object::Object, strategy::Reservation};

/// How often a generated name that is taken is replaced by another (upstream: 8).
const NAME_ATTEMPTS: u32 = 8;
/// How often keys that someone else took are replaced by others.
pub(super) const RESERVATION_ATTEMPTS: usize = 64;

/// What a write answers: a code and the object's final JSON.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) code: StatusCode,
    pub(crate) json: Bytes,
}

impl Registry {
    /// Creates `object`, which came from [`Registry::decode_body`].
    pub(crate) async fn create(&self, scope: &Scope<'_>, mut object: Box<dyn Object>) -> Result<Written, StatusError> {
        let meta = object.meta_mut();
        if meta.resource_version.as_deref().is_some_and(|version| !version.is_empty()) {
            return Err(StatusError::new(500, "", "resourceVersion should not be set on objects to be created"));
        }
        self.take_namespace(scope, meta)?;
        let base = match (&meta.name, &meta.generate_name) {
            (None, Some(base)) if !base.is_empty() => Some(base.clone()),
            (Some(name), Some(base)) if name.is_empty() && !base.is_empty() => Some(base.clone()),
            _ => None,
        };
        self.stamp(scope, meta);
        if let Some(base) = &base {
            meta.name = Some(meta::generate_name(base));
        }
        let mut guard = self.admission.create(scope, self.info(), &mut *object).await?;
        self.strategy.prepare_for_create(&scope.context(), &mut *object);
        let mut errors = self.metadata_errors(object.meta());
        errors.extend(self.strategy.validate(&*object));
        self.check(object.name(), errors)?;

        let mut attempt = 1;
        loop {
            let name = object.name().to_owned();
            match self.try_create(scope, &mut *object, &mut guard).await? {
                Some(written) => return Ok(written),
                None => match &base {
                    Some(base) if attempt < NAME_ATTEMPTS => {
                        attempt += 1;
                        object.meta_mut().name = Some(meta::generate_name(base));
                    }
                    Some(_) => return Err(StatusError::generate_name_conflict(self.info(), &name, 1)),
                    None => return Err(StatusError::already_exists(self.info(), &name)),
                },
            }
        }
    }

    /// One attempt with one name; none if the name is taken.
    async fn try_create(
        &self,
        scope: &Scope<'_>,
        object: &mut dyn Object,
        guard: &mut Option<Compare>,
    ) -> Result<Option<Written>, StatusError> {
        let key = self
            .key(scope.namespace.filter(|_| self.info().namespaced), object.name())
            .ok_or_else(|| StatusError::bad_request("the object's name can be no key"))?;
        let mut reservation = Reservation::default();
        let mut fresh = false;
        loop {
            let mut spare = None;
            let object: &mut dyn Object = if self.strategy.reserves() {
                let copy = &mut **spare.insert(object.boxed_clone());
                reservation.take.clear();
                reservation.release.clear();
                if let Err(error) = self.strategy.reserve(AnyChange::Create { object: copy }, &mut reservation) {
                    self.doubt(&mut fresh, error).await?;
                    continue;
                }
                copy
            } else {
                &mut *object
            };
            let value = Bytes::from(self.encode(object)?);
            if scope.dry_run {
                let taken = self.latest(&key).await?.is_some();
                return Ok((!taken).then_some(Written { code: StatusCode::CREATED, json: value }));
            }
            match self.commit(&key, Write::Create(value.clone()), &reservation, guard.as_ref()).await? {
                Outcome::Committed(revision) => {
                    let json = response_bytes(&value, revision).map_err(storage_error)?;
                    return Ok(Some(Written { code: StatusCode::CREATED, json }));
                }
                Outcome::Stale => return Ok(None),
                Outcome::Lost(keys) => self.count_loss(&mut reservation, keys)?,
                Outcome::Unguarded => {
                    self.refresh().await?;
                    *guard = self.admission.namespace_lifecycle(scope, self.info(), object).await?;
                }
            }
        }
    }

    /// A reservation that fails on a stale cache is worth one more look: what it needs may have been released.
    pub(super) async fn doubt(&self, fresh: &mut bool, error: StatusError) -> Result<(), StatusError> {
        if std::mem::replace(fresh, true) {
            return Err(error);
        }
        self.refresh().await.map(drop)
    }

    /// Notes that keys are taken by others, so that the next attempt picks different ones.
    pub(super) fn count_loss(&self, reservation: &mut Reservation, keys: Vec<String>) -> Result<(), StatusError> {
        reservation.lost.extend(keys);
        if reservation.lost.len() > RESERVATION_ATTEMPTS {
            return Err(StatusError::server_timeout(self.info(), "allocate", 1));
        }
        Ok(())
    }
}
