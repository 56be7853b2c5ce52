//! Roles.

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::Role;
use serde_json::Value;
use skep_api::field::Errors;
use skep_api::name::{self, Validator};
use skep_api::resource::ResourceInfo;

use super::{GROUP, rule};
use crate::registry::cell;
use crate::registry::strategy::{Column, Strategy};
use crate::registry::table_info::info;

/// The strategy of roles.
#[derive(Debug)]
pub(crate) struct Roles;

impl Strategy for Roles {
    type Object = Role;

    fn info(&self) -> &'static ResourceInfo {
        info(GROUP, "roles")
    }

    fn prefix(&self) -> &'static str {
        "/registry/roles/"
    }

    fn name_validator(&self) -> Validator {
        name::path_segment_name
    }

    fn validate(&self, role: &Role) -> Errors {
        rule::validate(&role.rules, true)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::CREATED_AT] }
    }

    fn row(&self, role: &Role, _now: Timestamp) -> Vec<Value> {
        vec![cell::name(&role.metadata), cell::created_at(&role.metadata)]
    }
}
