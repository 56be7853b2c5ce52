//! What an autoscaler may ask for.

use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HPAScalingRules, HorizontalPodAutoscalerSpec, MetricSpec, MetricTarget,
};
use skep_api::field::{Error, Errors, Path};
use skep_api::name;

use crate::registry::checks::{self, not_negative, positive, text};

const METRIC_TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];
const MAX_WINDOW: i32 = 3600;
const MAX_PERIOD: i32 = 1800;

/// Checks a spec.
pub(super) fn spec(spec: &HorizontalPodAutoscalerSpec) -> Errors {
    let mut errors = Errors::new();
    let path = Path::new("spec");
    if let Some(min) = spec.min_replicas.filter(|min| *min < 1) {
        errors.push(Error::invalid(&path.child("minReplicas"), min, "must be greater than or equal to 1"));
    }
    let at = path.child("maxReplicas");
    if spec.max_replicas < 1 {
        errors.push(Error::invalid(&at, spec.max_replicas, "must be greater than 0"));
    }
    if spec.min_replicas.is_some_and(|min| spec.max_replicas < min) {
        errors.push(Error::invalid(&at, spec.max_replicas, "must be greater than or equal to `minReplicas`"));
    }
    reference(&spec.scale_target_ref, &path.child("scaleTargetRef"), &mut errors);
    let list = path.child("metrics");
    for (i, one) in spec.metrics.iter().flatten().enumerate() {
        metric(one, &list.index(i), &mut errors);
    }
    if let Some(behavior) = &spec.behavior {
        let path = path.child("behavior");
        for (field, rules) in [("scaleUp", &behavior.scale_up), ("scaleDown", &behavior.scale_down)] {
            if let Some(rules) = rules {
                scaling_rules(rules, &path.child(field), &mut errors);
            }
        }
    }
    errors
}

fn reference(target: &CrossVersionObjectReference, path: &Path<'_>, errors: &mut Errors) {
    for (field, value) in [("kind", &target.kind), ("name", &target.name)] {
        if value.is_empty() {
            errors.push(Error::required(&path.child(field), ""));
        } else {
            checks::name(errors, &path.child(field), value, name::path_segment_name);
        }
    }
}

fn metric(metric: &MetricSpec, path: &Path<'_>, errors: &mut Errors) {
    let given = [
        ("Object", "object", metric.object.is_some()),
        ("Pods", "pods", metric.pods.is_some()),
        ("Resource", "resource", metric.resource.is_some()),
        ("ContainerResource", "containerResource", metric.container_resource.is_some()),
        ("External", "external", metric.external.is_some()),
    ];
    if metric.type_.is_empty() {
        errors.push(Error::required(&path.child("type"), "must specify a metric source type"));
    } else if !METRIC_TYPES.contains(&metric.type_.as_str()) {
        errors.push(Error::not_supported(&path.child("type"), &metric.type_, &METRIC_TYPES));
    }
    for (kind, field, set) in given {
        if kind == metric.type_ && !set {
            let why = "must populate information for the given metric source";
            errors.push(Error::required(&path.child(field), why));
        }
        if kind != metric.type_ && set {
            let why = "must populate the given metric source only";
            errors.push(Error::forbidden(&path.child(field), why));
        }
    }
    if let Some(source) = &metric.resource {
        let path = path.child("resource");
        if source.name.is_empty() {
            errors.push(Error::required(&path.child("name"), "must specify a resource name"));
        }
        resource_target(&source.target, &path.child("target"), errors);
    }
    if let Some(source) = &metric.container_resource {
        let path = path.child("containerResource");
        if source.name.is_empty() {
            errors.push(Error::required(&path.child("name"), "must specify a resource name"));
        }
        if source.container.is_empty() {
            errors.push(Error::required(&path.child("container"), "must specify a container name"));
        }
        resource_target(&source.target, &path.child("target"), errors);
    }
    if let Some(source) = &metric.pods {
        let path = path.child("pods");
        identifier(&source.metric.name, &path, errors);
        target(&source.target, &path.child("target"), errors);
        if source.target.average_value.is_none() {
            let why = "must specify a positive target averageValue";
            errors.push(Error::required(&path.child("target.averageValue"), why));
        }
    }
    if let Some(source) = &metric.object {
        let path = path.child("object");
        reference(&source.described_object, &path.child("describedObject"), errors);
        identifier(&source.metric.name, &path, errors);
        target(&source.target, &path.child("target"), errors);
        if source.target.value.is_none() && source.target.average_value.is_none() {
            let why = "must set either a target value or averageValue";
            errors.push(Error::required(&path.child("target.averageValue"), why));
        }
    }
    if let Some(source) = &metric.external {
        let path = path.child("external");
        identifier(&source.metric.name, &path, errors);
        target(&source.target, &path.child("target"), errors);
        let at = path.child("target.averageValue");
        match (&source.target.value, &source.target.average_value) {
            (None, None) => {
                errors.push(Error::required(&at, "must set either a target value for metric or a per-pod target"));
            }
            (Some(_), Some(_)) => {
                let why = "may not set both a target value for metric and a per-pod target";
                errors.push(Error::forbidden(&path.child("target.value"), why));
            }
            _ => {}
        }
    }
}

fn identifier(metric: &str, path: &Path<'_>, errors: &mut Errors) {
    if metric.is_empty() {
        errors.push(Error::required(&path.child("metric.name"), "must specify a metric name"));
    } else {
        checks::name(errors, &path.child("metric.name"), metric, name::path_segment_name);
    }
}

fn target(target: &MetricTarget, path: &Path<'_>, errors: &mut Errors) {
    match target.type_.as_str() {
        "" => errors.push(Error::required(&path.child("type"), "must specify a metric target type")),
        "Utilization" | "Value" | "AverageValue" => {}
        other => {
            let why = "must be either Utilization, Value, or AverageValue";
            errors.push(Error::invalid(&path.child("type"), other, why));
        }
    }
    for (field, quantity) in [("value", &target.value), ("averageValue", &target.average_value)] {
        if let Some(quantity) = quantity {
            let parsed = checks::quantity(&mut Errors::new(), path, quantity);
            if parsed.is_none_or(|q| q.is_zero() || q.is_negative()) {
                errors.push(Error::invalid(&path.child(field), &quantity.0, "must be positive"));
            }
        }
    }
    if let Some(utilization) = target.average_utilization.filter(|u| *u < 1) {
        let why = "must be greater than 0";
        errors.push(Error::invalid(&path.child("averageUtilization"), utilization, why));
    }
}

fn resource_target(wanted: &MetricTarget, path: &Path<'_>, errors: &mut Errors) {
    target(wanted, path, errors);
    match (wanted.average_utilization, &wanted.average_value) {
        (None, None) => {
            let why = "must set either a target raw value or a target utilization";
            errors.push(Error::required(&path.child("averageUtilization"), why));
        }
        (Some(_), Some(_)) => {
            let why = "may not set both a target raw value and a target utilization";
            errors.push(Error::forbidden(&path.child("averageValue"), why));
        }
        _ => {}
    }
}

fn scaling_rules(rules: &HPAScalingRules, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("stabilizationWindowSeconds");
    not_negative(errors, &at, rules.stabilization_window_seconds);
    if let Some(seconds) = rules.stabilization_window_seconds.filter(|s| *s > MAX_WINDOW) {
        errors.push(Error::invalid(&at, seconds, format!("must be less than or equal to {MAX_WINDOW}")));
    }
    let select = text(&rules.select_policy);
    let choices = ["Disabled", "Max", "Min"];
    if !select.is_empty() && !choices.contains(&select) {
        errors.push(Error::not_supported(&path.child("selectPolicy"), select, &choices));
    }
    let list = path.child("policies");
    let policies = rules.policies.as_deref().unwrap_or_default();
    if policies.is_empty() {
        errors.push(Error::required(&list, "must specify at least one Policy"));
    }
    for (i, policy) in policies.iter().enumerate() {
        let path = list.index(i);
        if !["Percent", "Pods"].contains(&policy.type_.as_str()) {
            errors.push(Error::not_supported(&path.child("type"), &policy.type_, &["Percent", "Pods"]));
        }
        positive(errors, &path.child("value"), Some(policy.value));
        positive(errors, &path.child("periodSeconds"), Some(policy.period_seconds));
        if policy.period_seconds > MAX_PERIOD {
            let why = format!("must be less than or equal to {MAX_PERIOD}");
            errors.push(Error::invalid(&path.child("periodSeconds"), policy.period_seconds, why));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bounds_and_targets_make_sense() {
        let bad = serde_json::from_value(
            json!({"minReplicas": 0, "maxReplicas": 0, "scaleTargetRef": {"kind": "Deployment"},
            "metrics": [{"type": "Resource"}, {"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization"}}}]}),
        )
        .unwrap();
        let texts: Vec<_> = spec(&bad).iter().map(Error::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
                "spec.maxReplicas: Invalid value: 0: must be greater than 0",
                "spec.scaleTargetRef.name: Required value",
                "spec.metrics[0].resource: Required value: must populate information for the given metric source",
                "spec.metrics[1].resource.target.averageUtilization: Required value: must set either a target raw value or \
                 a target utilization",
            ]
        );
    }
}
