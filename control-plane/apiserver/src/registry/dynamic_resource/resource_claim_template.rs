//! ResourceClaimTemplates.

use jiff::Timestamp;
use k8s_openapi::api::resource::v1::ResourceClaimTemplate;
use serde_json::Value;
use skep_api::field::{Errors, Path};
use skep_api::resource::ResourceInfo;

use super::{GROUP, claim_spec};
use crate::registry::cell;
use crate::registry::checks::immutable;
use crate::registry::strategy::{Column, Strategy};
use crate::registry::table_info::info;

/// The strategy of ResourceClaimTemplates.
#[derive(Debug)]
pub(crate) struct ResourceClaimTemplates;

const COLUMNS: &[Column] = &[Column::NAME, Column::AGE];

impl Strategy for ResourceClaimTemplates {
    type Object = ResourceClaimTemplate;

    fn info(&self) -> &'static ResourceInfo {
        info(GROUP, "resourceclaimtemplates")
    }

    fn prefix(&self) -> &'static str {
        "/registry/resourceclaimtemplates/"
    }

    fn default(&self, object: &mut ResourceClaimTemplate) {
        claim_spec::set_defaults(&mut object.spec.spec);
    }

    fn validate(&self, object: &ResourceClaimTemplate) -> Errors {
        claim_spec::validate(&object.spec.spec, &Path::new("spec.spec"))
    }

    fn validate_update(&self, object: &ResourceClaimTemplate, old: &ResourceClaimTemplate) -> Errors {
        let mut errors = Errors::new();
        immutable(&mut errors, &Path::new("spec"), &object.spec, &old.spec);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &ResourceClaimTemplate, now: Timestamp) -> Vec<Value> {
        vec![cell::name(&object.metadata), cell::age(&object.metadata, now)]
    }
}
