//! CustomResourceDefinitions as objects.

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;
use skep_api::{field::Errors, resource::ResourceInfo};
use skep_crd::definition;

use crate::registry::{
    strategy::{Column, Context, Strategy},
    table_info::info,
};

/// Where definitions are stored.
pub(super) const PREFIX: &str = "/registry/apiextensions.k8s.io/customresourcedefinitions/";

/// The strategy of definitions.
#[derive(Debug)]
pub(crate) struct CustomResourceDefinitions;

const COLUMNS: &[Column] = &[Column::NAME, Column::CREATED_AT];

impl Strategy for CustomResourceDefinitions {
    type Object = CustomResourceDefinition;

    fn info(&self) -> &'static ResourceInfo {
        info("apiextensions.k8s.io", "customresourcedefinitions")
    }

    fn prefix(&self) -> &'static str {
        PREFIX
    }

    fn default(&self, crd: &mut CustomResourceDefinition) {
        definition::default(crd);
    }

    fn prepare_for_create(&self, _: &Context<'_>, crd: &mut CustomResourceDefinition) {
        definition::prepare_for_create(crd);
    }

    fn validate_create(&self, crd: &CustomResourceDefinition) -> Errors {
        definition::validate(crd)
    }

    fn prepare_for_update(&self, _: &Context<'_>, crd: &mut CustomResourceDefinition, old: &CustomResourceDefinition) {
        definition::prepare_for_update(crd, old);
    }

    fn validate_update(&self, crd: &CustomResourceDefinition, old: &CustomResourceDefinition) -> Errors {
        definition::validate_update(crd, old)
    }

    fn prepare_for_status_update(
        &self,
        _: &Context<'_>,
        crd: &mut CustomResourceDefinition,
        old: &CustomResourceDefinition,
    ) {
        definition::prepare_for_status_update(crd, old);
    }

    fn bumps_generation(&self, crd: &CustomResourceDefinition, old: &CustomResourceDefinition) -> bool {
        crd.spec != old.spec
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    /// The first deletion only marks: the objects go first.
    fn has_own_finalizers(&self, crd: &CustomResourceDefinition) -> bool {
        crd.metadata.deletion_timestamp.is_none()
    }

    fn prepare_for_deletion(&self, crd: &mut CustomResourceDefinition) {
        definition::prepare_for_deletion(crd);
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, crd: &CustomResourceDefinition, _: Timestamp) -> Vec<Value> {
        let created = crd.metadata.creation_timestamp.as_ref().map(|time| time.0.to_string());
        vec![crd.metadata.name.clone().unwrap_or_default().into(), created.into()]
    }
}
