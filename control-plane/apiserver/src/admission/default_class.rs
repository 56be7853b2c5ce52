//! DefaultStorageClass and DefaultIngressClass: what names no class gets the cluster's default.

use k8s_openapi::api::{core::v1::PersistentVolumeClaim, networking::v1::Ingress};
use skep_api::{quota::storage_class, status::StatusError};

use super::Admission;
use crate::registry::object::Object;

const STORAGE: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
const INGRESS: [&str; 1] = ["ingressclass.kubernetes.io/is-default-class"];
/// An older way to name the class of an Ingress.
const INGRESS_ANNOTATION: &str = "kubernetes.io/ingress.class";

impl Admission {
    pub(super) async fn default_storage_class(&self, object: &mut dyn Object) -> Result<(), StatusError> {
        let Some(claim) = object.as_any_mut().downcast_mut::<PersistentVolumeClaim>() else { return Ok(()) };
        if storage_class(claim).is_none()
            && let Some(class) = self.storage_classes.default_by_annotation(&self.storage, &STORAGE).await?
        {
            claim.spec.get_or_insert_default().storage_class_name = Some(class);
        }
        Ok(())
    }

    pub(super) async fn default_ingress_class(&self, object: &mut dyn Object) -> Result<(), StatusError> {
        let Some(ingress) = object.as_any_mut().downcast_mut::<Ingress>() else { return Ok(()) };
        let annotation = ingress.metadata.annotations.as_ref().and_then(|own| own.get(INGRESS_ANNOTATION));
        let named = ingress.spec.as_ref().is_some_and(|spec| spec.ingress_class_name.is_some());
        if named || annotation.is_some_and(|class| !class.is_empty()) {
            return Ok(());
        }
        if let Some(class) = self.ingress_classes.default_by_annotation(&self.storage, &INGRESS).await? {
            ingress.spec.get_or_insert_default().ingress_class_name = Some(class);
        }
        Ok(())
    }
}
