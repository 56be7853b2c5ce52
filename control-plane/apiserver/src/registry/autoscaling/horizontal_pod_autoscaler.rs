//! HorizontalPodAutoscalers.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerStatus, MetricSpec,
    MetricTarget, ResourceMetricSource,
};
use serde_json::Value;
use skep_api::field::{Errors, Path};
use skep_api::resource::ResourceInfo;

use super::{table, validate};
use crate::registry::checks::{not_negative, or};
use crate::registry::strategy::{Column, Context, Strategy};
use crate::registry::table_info::info_of;

/// The strategy of horizontal pod autoscalers.
#[derive(Debug)]
pub(crate) struct HorizontalPodAutoscalers;

const DEFAULT_UTILIZATION: i32 = 80;

impl Strategy for HorizontalPodAutoscalers {
    type Object = HorizontalPodAutoscaler;

    fn info(&self) -> &'static ResourceInfo {
        info_of("autoscaling", "v2", "horizontalpodautoscalers")
    }

    fn prefix(&self) -> &'static str {
        "/registry/horizontalpodautoscalers/"
    }

    fn default(&self, autoscaler: &mut HorizontalPodAutoscaler) {
        let spec = autoscaler.spec.get_or_insert_default();
        spec.min_replicas.get_or_insert(1);
        if spec.metrics.as_ref().is_none_or(Vec::is_empty) {
            spec.metrics = Some(vec![cpu(DEFAULT_UTILIZATION)]);
        }
        if let Some(behavior) = &mut spec.behavior {
            let policy = |type_: &str, value, period_seconds| HPAScalingPolicy {
                type_: type_.to_owned(),
                value,
                period_seconds,
            };
            let up = behavior.scale_up.get_or_insert_default();
            up.stabilization_window_seconds.get_or_insert(0);
            set_rules(up, &[policy("Pods", 4, 15), policy("Percent", 100, 15)]);
            let down = behavior.scale_down.get_or_insert_default();
            set_rules(down, &[policy("Percent", 100, 15)]);
        }
    }

    fn prepare_for_create(&self, _ctx: &Context<'_>, autoscaler: &mut HorizontalPodAutoscaler) {
        autoscaler.status = Some(HorizontalPodAutoscalerStatus::default());
    }

    fn validate(&self, autoscaler: &HorizontalPodAutoscaler) -> Errors {
        validate::spec(&autoscaler.spec.clone().unwrap_or_default())
    }

    fn prepare_for_update(
        &self,
        _ctx: &Context<'_>,
        autoscaler: &mut HorizontalPodAutoscaler,
        old: &HorizontalPodAutoscaler,
    ) {
        autoscaler.status.clone_from(&old.status);
    }

    fn prepare_for_status_update(
        &self,
        _ctx: &Context<'_>,
        autoscaler: &mut HorizontalPodAutoscaler,
        old: &HorizontalPodAutoscaler,
    ) {
        autoscaler.spec.clone_from(&old.spec);
    }

    fn validate_status_update(&self, autoscaler: &HorizontalPodAutoscaler, _old: &HorizontalPodAutoscaler) -> Errors {
        let mut errors = Errors::new();
        let status = autoscaler.status.clone().unwrap_or_default();
        let path = Path::new("status");
        not_negative(&mut errors, &path.child("currentReplicas"), status.current_replicas);
        not_negative(&mut errors, &path.child("desiredReplicas"), Some(status.desired_replicas));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        table::COLUMNS
    }

    fn row(&self, autoscaler: &HorizontalPodAutoscaler, now: Timestamp) -> Vec<Value> {
        table::row(autoscaler, now)
    }
}

/// A target for the use of CPU, in percent of what is requested.
pub(super) fn cpu(utilization: i32) -> MetricSpec {
    MetricSpec {
        type_: "Resource".to_owned(),
        resource: Some(ResourceMetricSource {
            name: "cpu".to_owned(),
            target: MetricTarget {
                type_: "Utilization".to_owned(),
                average_utilization: Some(utilization),
                ..MetricTarget::default()
            },
        }),
        ..MetricSpec::default()
    }
}

fn set_rules(rules: &mut HPAScalingRules, policies: &[HPAScalingPolicy]) {
    or(&mut rules.select_policy, "Max");
    if rules.policies.is_none() {
        rules.policies = Some(policies.to_vec());
    }
}
