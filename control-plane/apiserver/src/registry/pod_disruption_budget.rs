//! PodDisruptionBudgets.

use jiff::Timestamp;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;

use super::cell;
use super::checks::{self, not_negative};
use super::strategy::{Column, Context, Strategy};
use super::table_info::info;

/// The strategy of disruption budgets.
#[derive(Debug)]
pub(crate) struct PodDisruptionBudgets;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Min Available", "string", "The minimum number of pods that must be available."),
    Column::new("Max Unavailable", "string", "The maximum number of pods that may be unavailable."),
    Column::new("Allowed Disruptions", "integer", "Calculated number of pods that may be disrupted at this time."),
    Column::AGE,
];
const POLICIES: [&str; 2] = ["AlwaysAllow", "IfHealthyBudget"];

impl Strategy for PodDisruptionBudgets {
    type Object = PodDisruptionBudget;

    fn info(&self) -> &'static ResourceInfo {
        info("policy", "poddisruptionbudgets")
    }

    fn prefix(&self) -> &'static str {
        "/registry/poddisruptionbudgets/"
    }

    fn prepare_for_create(&self, _ctx: &Context<'_>, budget: &mut PodDisruptionBudget) {
        budget.status = Some(PodDisruptionBudgetStatus::default());
    }

    fn validate(&self, budget: &PodDisruptionBudget) -> Errors {
        let mut errors = Errors::new();
        let spec = budget.spec.clone().unwrap_or_default();
        let path = Path::new("spec");
        if spec.min_available.is_some() && spec.max_unavailable.is_some() {
            errors.push(Error::invalid(&path, &spec, "minAvailable and maxUnavailable cannot be both set"));
        }
        for (field, amount) in [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)] {
            if let Some(amount) = amount {
                checks::amount(&mut errors, &path.child(field), amount);
                checks::not_more_than_all(&mut errors, &path.child(field), amount);
            }
        }
        if let Some(selector) = &spec.selector {
            checks::selector(&mut errors, &path.child("selector"), selector);
        }
        if let Some(policy) = spec.unhealthy_pod_eviction_policy.as_deref().filter(|p| !POLICIES.contains(p)) {
            errors.push(Error::not_supported(&path.child("unhealthyPodEvictionPolicy"), policy, &POLICIES));
        }
        errors
    }

    fn prepare_for_update(&self, _ctx: &Context<'_>, budget: &mut PodDisruptionBudget, old: &PodDisruptionBudget) {
        budget.status.clone_from(&old.status);
    }

    fn bumps_generation(&self, budget: &PodDisruptionBudget, old: &PodDisruptionBudget) -> bool {
        budget.spec != old.spec
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn prepare_for_status_update(
        &self,
        _ctx: &Context<'_>,
        budget: &mut PodDisruptionBudget,
        old: &PodDisruptionBudget,
    ) {
        budget.spec.clone_from(&old.spec);
    }

    fn validate_status_update(&self, budget: &PodDisruptionBudget, _old: &PodDisruptionBudget) -> Errors {
        let mut errors = Errors::new();
        let status = budget.status.clone().unwrap_or_default();
        let path = Path::new("status");
        let numbers = [
            ("disruptionsAllowed", status.disruptions_allowed),
            ("currentHealthy", status.current_healthy),
            ("desiredHealthy", status.desired_healthy),
            ("expectedPods", status.expected_pods),
        ];
        for (field, number) in numbers {
            not_negative(&mut errors, &path.child(field), Some(number));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, budget: &PodDisruptionBudget, now: Timestamp) -> Vec<Value> {
        let amount = |amount: &Option<IntOrString>| match amount {
            Some(IntOrString::Int(number)) => json!(number.to_string()),
            Some(IntOrString::String(text)) => json!(text),
            None => json!("N/A"),
        };
        let spec = budget.spec.clone().unwrap_or_default();
        vec![
            cell::name(&budget.metadata),
            amount(&spec.min_available),
            amount(&spec.max_unavailable),
            json!(budget.status.as_ref().map_or(0, |s| s.disruptions_allowed)),
            cell::age(&budget.metadata, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_has_one_bound() {
        let budget = |spec: Value| serde_json::from_value(json!({"spec": spec})).unwrap();
        assert_eq!(PodDisruptionBudgets.validate(&budget(json!({"minAvailable": "50%"}))), []);
        let both = PodDisruptionBudgets.validate(&budget(json!({"minAvailable": 1, "maxUnavailable": 1})));
        assert!(both[0].to_string().ends_with("minAvailable and maxUnavailable cannot be both set"));
        let much = PodDisruptionBudgets.validate(&budget(json!({"minAvailable": "101%"})));
        assert_eq!(much[0].to_string(), "spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%");
    }
}
