//! Cluster role bindings.

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use serde_json::Value;
use skep_api::field::Errors;
use skep_api::name::{self, Validator};
use skep_api::resource::ResourceInfo;

use super::{GROUP, binding};
use crate::registry::strategy::{Column, Strategy};
use crate::registry::table_info::info;

/// The strategy of cluster role bindings.
#[derive(Debug)]
pub(crate) struct ClusterRoleBindings;

impl Strategy for ClusterRoleBindings {
    type Object = ClusterRoleBinding;

    fn info(&self) -> &'static ResourceInfo {
        info(GROUP, "clusterrolebindings")
    }

    fn prefix(&self) -> &'static str {
        "/registry/clusterrolebindings/"
    }

    fn name_validator(&self) -> Validator {
        name::path_segment_name
    }

    fn default(&self, object: &mut ClusterRoleBinding) {
        binding::set_defaults(&mut object.role_ref, &mut object.subjects);
    }

    fn validate(&self, object: &ClusterRoleBinding) -> Errors {
        binding::validate(&object.role_ref, &["ClusterRole"], &object.subjects)
    }

    fn validate_update(&self, object: &ClusterRoleBinding, old: &ClusterRoleBinding) -> Errors {
        binding::validate_update(&object.role_ref, &old.role_ref)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        binding::COLUMNS
    }

    fn row(&self, object: &ClusterRoleBinding, now: Timestamp) -> Vec<Value> {
        binding::row(&object.metadata, &object.role_ref, &object.subjects, now)
    }
}
