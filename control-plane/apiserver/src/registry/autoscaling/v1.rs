//! `autoscaling/v1`: what it has no field for is kept in annotations.

use std::collections::BTreeMap;

use k8s_openapi::api::autoscaling::{v1, v2};
use serde::Serialize;
use serde::de::DeserializeOwned;
use skep_api::resource::ResourceInfo;

use super::horizontal_pod_autoscaler::cpu;
use super::metrics_v1;
use crate::registry::table_info::info;
use crate::registry::version::Version;

/// HorizontalPodAutoscalers as `autoscaling/v1` shows them.
#[derive(Debug)]
pub(crate) struct HorizontalPodAutoscalersV1;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

impl Version for HorizontalPodAutoscalersV1 {
    type Served = v1::HorizontalPodAutoscaler;
    type Stored = v2::HorizontalPodAutoscaler;

    fn info(&self) -> &'static ResourceInfo {
        info("autoscaling", "horizontalpodautoscalers")
    }

    fn to_stored(&self, served: v1::HorizontalPodAutoscaler) -> v2::HorizontalPodAutoscaler {
        let mut metadata = served.metadata;
        let notes = &mut metadata.annotations;
        let spec = served.spec.unwrap_or_default();
        let mut metrics = take(notes, METRICS).map(metrics_v1::specs_to_v2).unwrap_or_default();
        if let Some(percent) = spec.target_cpu_utilization_percentage {
            metrics.insert(0, cpu(percent));
        }
        let behavior = take(notes, BEHAVIOR).and_then(metrics_v1::behavior_to_v2);
        let status = served.status.map(|status| {
            let mut current: Vec<v2::MetricStatus> =
                take(notes, CURRENT_METRICS).map(metrics_v1::statuses_to_v2).unwrap_or_default();
            if let Some(percent) = status.current_cpu_utilization_percentage {
                current.insert(0, metrics_v1::cpu_status(percent));
            }
            v2::HorizontalPodAutoscalerStatus {
                conditions: take(notes, CONDITIONS),
                current_metrics: (!current.is_empty()).then_some(current),
                current_replicas: Some(status.current_replicas),
                desired_replicas: status.desired_replicas,
                last_scale_time: status.last_scale_time,
                observed_generation: status.observed_generation,
            }
        });
        drop_notes(notes);
        let target = spec.scale_target_ref;
        v2::HorizontalPodAutoscaler {
            metadata,
            spec: Some(v2::HorizontalPodAutoscalerSpec {
                behavior,
                max_replicas: spec.max_replicas,
                metrics: (!metrics.is_empty()).then_some(metrics),
                min_replicas: spec.min_replicas,
                scale_target_ref: v2::CrossVersionObjectReference {
                    api_version: target.api_version,
                    kind: target.kind,
                    name: target.name,
                },
            }),
            status,
        }
    }

    fn to_served(&self, stored: v2::HorizontalPodAutoscaler) -> v1::HorizontalPodAutoscaler {
        let mut metadata = stored.metadata;
        let notes = &mut metadata.annotations;
        drop_notes(notes);
        let spec = stored.spec.unwrap_or_default();
        let status = stored.status.unwrap_or_default();
        let (mut percent, mut others) = (None, Vec::new());
        for metric in spec.metrics.into_iter().flatten() {
            match metrics_v1::cpu_target(&metric) {
                Some(target) => percent = Some(target),
                None => others.push(metric),
            }
        }
        put(notes, METRICS, metrics_v1::specs_to_v1(&others));
        put(notes, BEHAVIOR, spec.behavior.as_ref().map(metrics_v1::behavior_to_v1));
        let mut current_percent = None;
        let current = status.current_metrics.unwrap_or_default();
        for metric in &current {
            let resource = metric.resource.as_ref().filter(|resource| resource.name == "cpu");
            current_percent = resource.and_then(|resource| resource.current.average_utilization).or(current_percent);
        }
        put(notes, CURRENT_METRICS, metrics_v1::statuses_to_v1(&current));
        put(notes, CONDITIONS, status.conditions.filter(|conditions| !conditions.is_empty()));
        let target = spec.scale_target_ref;
        v1::HorizontalPodAutoscaler {
            metadata,
            spec: Some(v1::HorizontalPodAutoscalerSpec {
                max_replicas: spec.max_replicas,
                min_replicas: spec.min_replicas,
                scale_target_ref: v1::CrossVersionObjectReference {
                    api_version: target.api_version,
                    kind: target.kind,
                    name: target.name,
                },
                target_cpu_utilization_percentage: percent,
            }),
            status: Some(v1::HorizontalPodAutoscalerStatus {
                current_cpu_utilization_percentage: current_percent,
                current_replicas: status.current_replicas.unwrap_or(0),
                desired_replicas: status.desired_replicas,
                last_scale_time: status.last_scale_time,
                observed_generation: status.observed_generation,
            }),
        }
    }
}

type Notes = Option<BTreeMap<String, String>>;

/// What an annotation holds; nothing when it cannot be read, as upstream does.
fn take<T: DeserializeOwned>(notes: &Notes, name: &str) -> Option<T> {
    serde_json::from_str(notes.as_ref()?.get(name)?).ok()
}

fn put(notes: &mut Notes, name: &str, value: Option<impl Serialize>) {
    if let Some(text) = value.and_then(|value| serde_json::to_string(&value).ok()) {
        notes.get_or_insert_default().insert(name.to_owned(), text);
    }
}

/// Annotations that stand for fields.
fn drop_notes(notes: &mut Notes) {
    if let Some(map) = notes {
        map.retain(|name, _| ![METRICS, CURRENT_METRICS, CONDITIONS, BEHAVIOR].contains(&name.as_str()));
        if map.is_empty() {
            *notes = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_share_of_cpu_is_a_field_and_the_rest_is_kept() {
        let stored: v2::HorizontalPodAutoscaler = serde_json::from_value(json!({"metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "web"},
                "behavior": {"scaleUp": {"selectPolicy": "Max", "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}]}},
                "metrics": [
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
                    {"type": "Pods", "pods": {"metric": {"name": "qps"},
                        "target": {"type": "AverageValue", "averageValue": "10"}}},
                    {"type": "Object", "object": {"metric": {"name": "hits"}, "describedObject": {"kind": "Service", "name": "s"},
                        "target": {"type": "Value", "value": "7"}}},
                    {"type": "External", "external": {"metric": {"name": "queue", "selector": {"matchLabels": {"a": "b"}}},
                        "target": {"type": "AverageValue", "averageValue": "3"}}}]},
            "status": {"desiredReplicas": 1, "currentReplicas": 1, "conditions": [{"type": "AbleToScale", "status": "True"}]}}))
        .unwrap();
        let served = HorizontalPodAutoscalersV1.to_served(stored.clone());
        assert_eq!(served.spec.as_ref().unwrap().target_cpu_utilization_percentage, Some(50));
        let notes = served.metadata.annotations.clone().unwrap();
        let metrics: serde_json::Value = serde_json::from_str(&notes[METRICS]).unwrap();
        assert_eq!(metrics[0], json!({"type": "Pods", "pods": {"metricName": "qps", "targetAverageValue": "10"}}));
        assert_eq!(HorizontalPodAutoscalersV1.to_stored(served), stored);
    }
}
