//! Admission of what the registry writes.

use k8s_openapi::api::autoscaling::v1::Scale;
use serde_json::Value;
use skep_api::{
    options::{DeleteOptions, FieldValidation},
    status::StatusError,
};

use super::{Registry, Scope, decode::Warnings};
use crate::{
    admission::{Admitted, Attributes, Codec, Operation, Plain},
    registry::{erased::UpdateKind, object::Object},
    subresource::scale::scale_of,
};

impl Codec for Registry {
    fn to_json(&self, object: &dyn Object) -> Result<Vec<u8>, StatusError> {
        let json = object.to_json().map_err(StatusError::internal_error)?;
        match &self.version {
            None => Ok(json),
            Some(version) => version.present(&json).map_err(StatusError::internal_error),
        }
    }

    fn to_object(&self, json: Value) -> Result<Box<dyn Object>, StatusError> {
        self.decode_patched(json, FieldValidation::Ignore, &mut Warnings::new())
    }
}

impl Registry {
    /// The attributes of a request for an object of this resource.
    pub(crate) fn attributes<'a>(
        &'a self,
        operation: Operation,
        scope: &'a Scope<'a>,
        name: &'a str,
        subresource: &'a str,
    ) -> Attributes<'a> {
        Attributes { operation, info: self.info(), subresource, name, scope, old: None, delete: None, codec: self }
    }

    /// Admits an object that is created through a subresource (`pods/binding`), in both phases.
    pub(crate) async fn admit_part<T>(
        &self,
        scope: &Scope<'_>,
        name: &str,
        subresource: &str,
        part: T,
    ) -> Result<T, StatusError>
    where
        T: Object + serde::de::DeserializeOwned,
    {
        let codec = Plain::<T>::new();
        let attributes = Attributes { codec: &codec, ..self.attributes(Operation::Create, scope, name, subresource) };
        let mut object: Box<dyn Object> = Box::new(part);
        let mut admitted = self.admission.mutate(&attributes, &mut object).await?;
        self.admission.validate(&attributes, &*object, &mut admitted).await?;
        let part: Box<dyn std::any::Any> = object;
        part.downcast().map(|part| *part).map_err(|_| StatusError::internal_error("admission changed an object's type"))
    }

    /// The first phase of an update.
    pub(super) async fn admit_update(
        &self,
        scope: &Scope<'_>,
        kind: UpdateKind,
        object: &mut Box<dyn Object>,
        old: &dyn Object,
    ) -> Result<Admitted, StatusError> {
        match kind {
            UpdateKind::Internal => Ok(Admitted::default()),
            UpdateKind::Scale => self.admit_scale(scope, &mut **object, old).await,
            _ => {
                let attributes =
                    self.attributes(Operation::Update, scope, old.name(), kind.subresource()).with_old(old);
                self.admission.mutate(&attributes, object).await
            }
        }
    }

    /// The second phase of an update.
    pub(super) async fn admit_updated(
        &self,
        scope: &Scope<'_>,
        kind: UpdateKind,
        object: &dyn Object,
        old: &dyn Object,
        admitted: &mut Admitted,
    ) -> Result<(), StatusError> {
        match kind {
            UpdateKind::Internal => Ok(()),
            UpdateKind::Scale => {
                let (scale, old) = (scale_of(self, object)?, scale_of(self, old)?);
                let attributes = self.scale_attributes(scope, &old);
                self.admission.validate(&attributes, &scale, admitted).await
            }
            _ => {
                let attributes =
                    self.attributes(Operation::Update, scope, old.name(), kind.subresource()).with_old(old);
                self.admission.validate(&attributes, object, admitted).await
            }
        }
    }

    fn scale_attributes<'a>(&'a self, scope: &'a Scope<'a>, old: &'a Scale) -> Attributes<'a> {
        const SCALE: &Plain<Scale> = &Plain::new();
        let name = old.metadata.name.as_deref().unwrap_or_default();
        let attributes = self.attributes(Operation::Update, scope, name, UpdateKind::Scale.subresource());
        Attributes { codec: SCALE, ..attributes }.with_old(old)
    }

    async fn admit_scale(
        &self,
        scope: &Scope<'_>,
        object: &mut dyn Object,
        old: &dyn Object,
    ) -> Result<Admitted, StatusError> {
        let mut scale: Box<dyn Object> = Box::new(scale_of(self, object)?);
        let old = scale_of(self, old)?;
        let admitted = self.admission.mutate(&self.scale_attributes(scope, &old), &mut scale).await?;
        let replicas = scale.as_any().downcast_ref::<Scale>().and_then(|scale| scale.spec.as_ref()?.replicas);
        self.strategy.set_scale(object, replicas.unwrap_or(0));
        Ok(admitted)
    }

    /// Both phases of a deletion.
    pub(super) async fn admit_delete(
        &self,
        scope: &Scope<'_>,
        old: &dyn Object,
        options: &DeleteOptions,
    ) -> Result<(), StatusError> {
        let attributes = self.attributes(Operation::Delete, scope, old.name(), "").with_old(old);
        self.admission.delete(&Attributes { delete: Some(options), ..attributes }).await
    }
}
