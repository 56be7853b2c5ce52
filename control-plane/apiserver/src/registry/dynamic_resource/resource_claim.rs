//! ResourceClaims.

use jiff::Timestamp;
use k8s_openapi::api::resource::v1::ResourceClaim;
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;

use super::{GROUP, claim_spec};
use crate::registry::cell;
use crate::registry::checks::immutable;
use crate::registry::strategy::{Column, Context, Strategy};
use crate::registry::table_info::info;

/// The strategy of ResourceClaims.
#[derive(Debug)]
pub(crate) struct ResourceClaims;

const MAX_RESERVED: usize = 256;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("State", "string", "A summary of the current state (allocated, pending, reserved, etc.)."),
    Column::AGE,
];

impl Strategy for ResourceClaims {
    type Object = ResourceClaim;

    fn info(&self) -> &'static ResourceInfo {
        info(GROUP, "resourceclaims")
    }

    fn prefix(&self) -> &'static str {
        "/registry/resourceclaims/"
    }

    fn default(&self, object: &mut ResourceClaim) {
        claim_spec::set_defaults(&mut object.spec);
    }

    fn prepare_for_create(&self, _ctx: &Context<'_>, object: &mut ResourceClaim) {
        object.status = None;
    }

    fn validate(&self, object: &ResourceClaim) -> Errors {
        claim_spec::validate(&object.spec, &Path::new("spec"))
    }

    fn prepare_for_update(&self, _ctx: &Context<'_>, object: &mut ResourceClaim, old: &ResourceClaim) {
        object.status.clone_from(&old.status);
    }

    fn validate_update(&self, object: &ResourceClaim, old: &ResourceClaim) -> Errors {
        let mut errors = Errors::new();
        immutable(&mut errors, &Path::new("spec"), &object.spec, &old.spec);
        errors
    }

    fn prepare_for_status_update(&self, _ctx: &Context<'_>, object: &mut ResourceClaim, old: &ResourceClaim) {
        object.spec.clone_from(&old.spec);
    }

    fn validate_status_update(&self, object: &ResourceClaim, old: &ResourceClaim) -> Errors {
        let mut errors = Errors::new();
        let allocation = |claim: &ResourceClaim| claim.status.as_ref().and_then(|s| s.allocation.clone());
        if allocation(old).is_some() && allocation(object).is_some() {
            immutable(&mut errors, &Path::new("status.allocation"), &allocation(object), &allocation(old));
        }
        let reserved = object.status.as_ref().and_then(|s| s.reserved_for.as_deref()).unwrap_or_default();
        let path = Path::new("status.reservedFor");
        if reserved.len() > MAX_RESERVED {
            errors.push(Error::too_many(&path, reserved.len(), MAX_RESERVED));
        }
        if !reserved.is_empty() && allocation(object).is_none() {
            errors.push(Error::forbidden(&path, "may not be specified when `allocated` is not set"));
        }
        errors
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &ResourceClaim, now: Timestamp) -> Vec<Value> {
        let status = object.status.clone().unwrap_or_default();
        let mut states = Vec::new();
        if object.metadata.deletion_timestamp.is_some() {
            states.push("deleted");
        }
        if status.allocation.is_none() {
            if object.metadata.deletion_timestamp.is_none() {
                states.push("pending");
            }
        } else {
            states.push("allocated");
            if status.reserved_for.is_some_and(|reserved| !reserved.is_empty()) {
                states.push("reserved");
            }
        }
        vec![cell::name(&object.metadata), json!(states.join(",")), cell::age(&object.metadata, now)]
    }
}
