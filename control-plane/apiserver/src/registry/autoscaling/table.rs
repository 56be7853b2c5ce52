//! How `kubectl get hpa` looks.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, MetricSpec, MetricStatus, MetricTarget, MetricValueStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};

use crate::registry::cell;
use crate::registry::strategy::Column;

pub(super) const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new(
        "Reference",
        "string",
        "scaleTargetRef points to the target resource to scale, and is used to the pods for which metrics should be \
         collected, as well as to actually change the replica count.",
    ),
    Column::new(
        "Targets",
        "string",
        "metrics contains the specifications for which to use to calculate the desired replica count (the maximum replica \
         count across all metrics will be used).",
    ),
    Column::new(
        "MinPods",
        "string",
        "minReplicas is the lower limit for the number of replicas to which the autoscaler can scale down.",
    ),
    Column::new(
        "MaxPods",
        "string",
        "maxReplicas is the upper limit for the number of replicas to which the autoscaler can scale up.",
    ),
    Column::new(
        "Replicas",
        "string",
        "currentReplicas is current number of replicas of pods managed by this autoscaler, as last seen by the autoscaler.",
    ),
    Column::AGE,
];
/// So many metrics are shown.
const SHOWN: usize = 2;
const UNKNOWN: &str = "<unknown>";

pub(super) fn row(autoscaler: &HorizontalPodAutoscaler, now: Timestamp) -> Vec<Value> {
    let spec = autoscaler.spec.clone().unwrap_or_default();
    let status = autoscaler.status.clone().unwrap_or_default();
    let metrics = spec.metrics.as_deref().unwrap_or_default();
    let statuses = status.current_metrics.as_deref().unwrap_or_default();
    vec![
        cell::name(&autoscaler.metadata),
        json!(format!("{}/{}", spec.scale_target_ref.kind, spec.scale_target_ref.name)),
        json!(targets(metrics, statuses)),
        json!(spec.min_replicas.map_or_else(|| "<unset>".to_owned(), |min| min.to_string())),
        json!(spec.max_replicas),
        json!(status.current_replicas.unwrap_or(0)),
        cell::age(&autoscaler.metadata, now),
    ]
}

fn targets(metrics: &[MetricSpec], statuses: &[MetricStatus]) -> String {
    if metrics.is_empty() {
        return "<none>".to_owned();
    }
    let shown = metrics.iter().enumerate().take(SHOWN).map(|(i, metric)| target(metric, statuses.get(i)));
    let text = shown.collect::<Vec<_>>().join(", ");
    match metrics.len() {
        n if n > SHOWN => format!("{text} + {} more...", n - SHOWN),
        _ => text,
    }
}

fn target(metric: &MetricSpec, status: Option<&MetricStatus>) -> String {
    match metric.type_.as_str() {
        "External" => {
            let current = status.and_then(|s| s.external.as_ref()).map(|s| &s.current);
            metric.external.as_ref().map(|m| value(&m.target, current))
        }
        "Object" => {
            let current = status.and_then(|s| s.object.as_ref()).map(|s| &s.current);
            metric.object.as_ref().map(|m| value(&m.target, current))
        }
        "Pods" => {
            let current = status.and_then(|s| s.pods.as_ref()).map(|s| &s.current);
            metric.pods.as_ref().map(|m| {
                let now = shown(current.and_then(|c| c.average_value.as_ref()));
                format!("{now}/{}", shown(m.target.average_value.as_ref()))
            })
        }
        "Resource" => {
            let current = status.and_then(|s| s.resource.as_ref()).map(|s| &s.current);
            metric.resource.as_ref().map(|m| resource(&m.name, &m.target, current))
        }
        "ContainerResource" => {
            let current = status.and_then(|s| s.container_resource.as_ref()).map(|s| &s.current);
            metric.container_resource.as_ref().map(|m| resource(&m.name, &m.target, current))
        }
        _ => None,
    }
    .unwrap_or_else(|| "<unknown type>".to_owned())
}

fn shown(quantity: Option<&Quantity>) -> &str {
    quantity.map_or(UNKNOWN, |q| &q.0)
}

fn value(target: &MetricTarget, current: Option<&MetricValueStatus>) -> String {
    match &target.average_value {
        Some(average) => format!("{}/{} (avg)", shown(current.and_then(|c| c.average_value.as_ref())), average.0),
        None => format!("{}/{}", shown(current.and_then(|c| c.value.as_ref())), shown(target.value.as_ref())),
    }
}

fn resource(name: &str, target: &MetricTarget, current: Option<&MetricValueStatus>) -> String {
    if let Some(average) = &target.average_value {
        return format!("{name}: {}/{}", shown(current.and_then(|c| c.average_value.as_ref())), average.0);
    }
    let percent = |share: Option<i32>, absent: &str| share.map_or_else(|| absent.to_owned(), |s| format!("{s}%"));
    let now = percent(current.and_then(|c| c.average_utilization), UNKNOWN);
    format!("{name}: {now}/{}", percent(target.average_utilization, "<auto>"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_show_what_is_and_what_should_be() {
        let autoscaler = serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 5,
            "minReplicas": 2, "scaleTargetRef": {"kind": "Deployment", "name": "web"}, "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}},
                {"type": "Pods", "pods": {"metric": {"name": "qps"}, "target": {"type": "AverageValue", "averageValue": "10"}}},
                {"type": "Resource"}]},
            "status": {"currentReplicas": 3, "desiredReplicas": 3, "currentMetrics": [
                {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 41}}}]}}))
        .unwrap();
        let row = row(&autoscaler, Timestamp::UNIX_EPOCH);
        assert_eq!(
            row[1..6],
            [json!("Deployment/web"), json!("cpu: 41%/80%, <unknown>/10 + 1 more..."), json!("2"), json!(5), json!(3)]
        );
    }
}
