//! POST: a new object.

use bytes::Bytes;
use http::StatusCode;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skep_api::{meta, resource::ResourceInfo, status::StatusError};
use skep_storage::response_bytes;

use super::{
    Registry, Scope,
    commit::{Outcome, Write, storage_error},
    metadata::{Stage, drop_twin_owners},
};
use crate::{
    admission::{Admitted, Attributes, Operation},
    registry::{erased::AnyChange, object::Object, strategy::Reservation},
};

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

/// What the server is to make a name of; none for an object that has one.
fn name_base(meta: &ObjectMeta) -> Option<String> {
    let named = meta.name.as_deref().is_some_and(|name| !name.is_empty());
    meta.generate_name.clone().filter(|base| !named && !base.is_empty())
}

/// 405 for a resource that goes with its definition.
fn closed(info: &ResourceInfo) -> StatusError {
    let message = "create not allowed while custom resource definition is terminating";
    let mut status = StatusError::method_not_supported(info, "create").into_status();
    status.message = Some(message.to_owned());
    status.into()
}

impl Registry {
    /// Creates `object`, which came from [`Registry::decode_body`].
    pub(crate) async fn create(&self, scope: &Scope<'_>, mut object: Box<dyn Object>) -> Result<Written, StatusError> {
        let meta = object.meta_mut();
        if meta.resource_version.as_deref().is_some_and(|version| !version.is_empty()) {
            return Err(StatusError::new(500, "", "resourceVersion should not be set on objects to be created"));
        }
        drop_twin_owners(scope, Stage::Sent, meta);
        self.own_created(scope, &mut *object)?;
        self.create_owned(scope, object).await
    }

    /// The same for an object that says who owns its fields.
    pub(super) async fn create_owned(
        &self,
        scope: &Scope<'_>,
        mut object: Box<dyn Object>,
    ) -> Result<Written, StatusError> {
        if self.conversion.as_ref().is_some_and(|conversion| conversion.is_closed()) {
            return Err(closed(self.info()));
        }
        self.take_namespace(scope, object.meta_mut())?;
        let attributes = self.attributes(Operation::Create, scope, "", "");
        let mut admitted = self.admission.mutate(&attributes, &mut object).await?;
        let meta = object.meta_mut();
        drop_twin_owners(scope, Stage::Admitted, meta);
        let Some(base) = name_base(meta) else {
            let name = meta.name.clone().unwrap_or_default();
            return self
                .create_named(&attributes, &mut *object, &mut admitted)
                .await?
                .ok_or_else(|| StatusError::already_exists(self.info(), &name));
        };
        let mut name = String::new();
        for _ in 0..NAME_ATTEMPTS {
            // Each name is a new beginning: what is prepared may depend on it.
            let mut object = object.boxed_clone();
            name = meta::generate_name(&base);
            object.meta_mut().name = Some(name.clone());
            if let Some(written) = self.create_named(&attributes, &mut *object, &mut admitted).await? {
                return Ok(written);
            }
        }
        Err(StatusError::generate_name_conflict(self.info(), &name, 1))
    }

    /// Creates an object that has its name; none if the name is taken.
    async fn create_named(
        &self,
        attributes: &Attributes<'_>,
        object: &mut dyn Object,
        admitted: &mut Admitted,
    ) -> Result<Option<Written>, StatusError> {
        let scope = attributes.scope;
        self.stamp(scope, object.meta_mut());
        self.strategy.prepare_for_create(&scope.context(), object);
        let mut errors = self.metadata_errors(object.meta());
        errors.extend(self.strategy.validate(object));
        errors.extend(self.strategy.validate_create(object));
        if let Some(version) = &self.version {
            errors.extend(version.validate_create(object));
        }
        self.check(object.name(), errors)?;
        self.admission.validate(attributes, object, admitted).await?;
        self.try_create(attributes, object, admitted).await
    }

    /// One attempt with one name; none if the name is taken.
    async fn try_create(
        &self,
        attributes: &Attributes<'_>,
        object: &mut dyn Object,
        admitted: &mut Admitted,
    ) -> Result<Option<Written>, StatusError> {
        let scope = attributes.scope;
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
            let value = Bytes::from(self.encode(object).await?);
            if scope.dry_run {
                let taken = self.latest(&key).await?.is_some();
                return Ok((!taken).then_some(Written { code: StatusCode::CREATED, json: value }));
            }
            match self.commit(&key, Write::Create(value.clone()), &reservation, admitted).await? {
                Outcome::Committed(revision) => {
                    let json = response_bytes(&value, revision).map_err(storage_error)?;
                    return Ok(Some(Written { code: StatusCode::CREATED, json }));
                }
                Outcome::Stale => return Ok(None),
                Outcome::Lost(keys) => self.count_loss(&mut reservation, keys)?,
                Outcome::Unguarded => {
                    self.refresh().await?;
                    self.admission.renew(attributes, object, admitted).await?;
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
