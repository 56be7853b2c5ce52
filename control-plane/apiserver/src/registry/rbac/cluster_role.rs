//! Cluster roles.

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::ClusterRole;
use serde_json::Value;
use skep_api::field::{Error, Errors, Path};
use skep_api::name::{self, Validator};
use skep_api::resource::ResourceInfo;

use super::{GROUP, rule};
use crate::registry::cell;
use crate::registry::checks;
use crate::registry::strategy::{Column, Strategy};
use crate::registry::table_info::info;

/// The strategy of cluster roles.
#[derive(Debug)]
pub(crate) struct ClusterRoles;

impl Strategy for ClusterRoles {
    type Object = ClusterRole;

    fn info(&self) -> &'static ResourceInfo {
        info(GROUP, "clusterroles")
    }

    fn prefix(&self) -> &'static str {
        "/registry/clusterroles/"
    }

    fn name_validator(&self) -> Validator {
        name::path_segment_name
    }

    fn validate(&self, role: &ClusterRole) -> Errors {
        let mut errors = rule::validate(&role.rules, false);
        if let Some(aggregation) = &role.aggregation_rule {
            let list = Path::new("aggregationRule.clusterRoleSelectors");
            let selectors = aggregation.cluster_role_selectors.as_deref().unwrap_or_default();
            if selectors.is_empty() {
                let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
                errors.push(Error::required(&list, why));
            }
            for (i, selector) in selectors.iter().enumerate() {
                checks::selector(&mut errors, &list.index(i), selector);
            }
        }
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::CREATED_AT] }
    }

    fn row(&self, role: &ClusterRole, _now: Timestamp) -> Vec<Value> {
        vec![cell::name(&role.metadata), cell::created_at(&role.metadata)]
    }
}
