//! Metrics and behaviour in the forms `autoscaling/v1` writes into annotations.

use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricSource, ContainerResourceMetricStatus, CrossVersionObjectReference, ExternalMetricSource,
    ExternalMetricStatus, HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior, MetricIdentifier,
    MetricSpec, MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricSource, ObjectMetricStatus,
    PodsMetricSource, PodsMetricStatus, ResourceMetricSource, ResourceMetricStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::{Deserialize, Serialize};

/// A metric of either kind: what to reach, or what is. Fields not set are left out.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Metric {
    #[serde(rename = "type")]
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<Source>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pods: Option<Source>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<Source>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_resource: Option<Source>,
    #[serde(skip_serializing_if = "Option::is_none")]
    external: Option<Source>,
}

/// Where a metric comes from: the fields of all five kinds of sources.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct Source {
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<CrossVersionObjectReference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metric_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    selector: Option<LabelSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metric_selector: Option<LabelSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_value: Option<Quantity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_average_value: Option<Quantity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_average_utilization: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    average_value: Option<Quantity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_value: Option<Quantity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_average_value: Option<Quantity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_average_utilization: Option<i32>,
}

impl Source {
    fn named(metric: &MetricIdentifier) -> Self {
        Self { metric_name: Some(metric.name.clone()), selector: metric.selector.clone(), ..Self::default() }
    }

    /// The metric, whichever field holds its selector.
    fn identifier(&self) -> MetricIdentifier {
        let selector = self.selector.clone().or_else(|| self.metric_selector.clone());
        MetricIdentifier { name: self.metric_name.clone().unwrap_or_default(), selector }
    }
}

// --- what to reach ---

/// The share of CPU a metric aims at, if that is what it is.
pub(super) fn cpu_target(metric: &MetricSpec) -> Option<i32> {
    metric.resource.as_ref().filter(|resource| resource.name == "cpu")?.target.average_utilization
}

pub(super) fn specs_to_v1(metrics: &[MetricSpec]) -> Option<Vec<Metric>> {
    (!metrics.is_empty()).then(|| metrics.iter().map(spec_to_v1).collect())
}

pub(super) fn specs_to_v2(metrics: Vec<Metric>) -> Vec<MetricSpec> {
    metrics.into_iter().map(spec_to_v2).collect()
}

fn spec_to_v1(metric: &MetricSpec) -> Metric {
    let resource = |name: &str, target: &MetricTarget| Source {
        name: Some(name.to_owned()),
        target_average_utilization: target.average_utilization,
        target_average_value: target.average_value.clone(),
        ..Source::default()
    };
    Metric {
        kind: metric.type_.clone(),
        object: metric.object.as_ref().map(|m| Source {
            target: Some(m.described_object.clone()),
            target_value: Some(m.target.value.clone().unwrap_or_else(|| Quantity("0".to_owned()))),
            average_value: m.target.average_value.clone(),
            ..Source::named(&m.metric)
        }),
        pods: metric
            .pods
            .as_ref()
            .map(|m| Source { target_average_value: m.target.average_value.clone(), ..Source::named(&m.metric) }),
        resource: metric.resource.as_ref().map(|m| resource(&m.name, &m.target)),
        container_resource: metric
            .container_resource
            .as_ref()
            .map(|m| Source { container: Some(m.container.clone()), ..resource(&m.name, &m.target) }),
        external: metric.external.as_ref().map(|m| Source {
            metric_name: Some(m.metric.name.clone()),
            metric_selector: m.metric.selector.clone(),
            target_value: m.target.value.clone(),
            target_average_value: m.target.average_value.clone(),
            ..Source::default()
        }),
    }
}

fn spec_to_v2(metric: Metric) -> MetricSpec {
    let resource_target = |source: &Source| MetricTarget {
        type_: if source.target_average_utilization.is_some() { "Utilization" } else { "AverageValue" }.to_owned(),
        average_utilization: source.target_average_utilization,
        average_value: source.target_average_value.clone(),
        value: None,
    };
    MetricSpec {
        type_: metric.kind,
        object: metric.object.map(|s| ObjectMetricSource {
            metric: s.identifier(),
            target: MetricTarget {
                type_: if s.average_value.is_some() { "AverageValue" } else { "Value" }.to_owned(),
                // A zero stands for "not given": v1 has no way to leave it out.
                value: s.target_value.filter(|q| q.0 != "0"),
                average_value: s.average_value,
                average_utilization: None,
            },
            described_object: s.target.unwrap_or_default(),
        }),
        pods: metric.pods.map(|s| PodsMetricSource {
            metric: s.identifier(),
            target: MetricTarget {
                type_: "AverageValue".to_owned(),
                average_value: s.target_average_value,
                ..MetricTarget::default()
            },
        }),
        resource: metric
            .resource
            .map(|s| ResourceMetricSource { target: resource_target(&s), name: s.name.unwrap_or_default() }),
        container_resource: metric.container_resource.map(|s| ContainerResourceMetricSource {
            target: resource_target(&s),
            container: s.container.unwrap_or_default(),
            name: s.name.unwrap_or_default(),
        }),
        external: metric.external.map(|s| ExternalMetricSource {
            metric: s.identifier(),
            target: MetricTarget {
                type_: if s.target_value.is_some() { "Value" } else { "AverageValue" }.to_owned(),
                value: s.target_value,
                average_value: s.target_average_value,
                average_utilization: None,
            },
        }),
    }
}

// --- what is ---

pub(super) fn cpu_status(percent: i32) -> MetricStatus {
    MetricStatus {
        type_: "Resource".to_owned(),
        resource: Some(ResourceMetricStatus {
            name: "cpu".to_owned(),
            current: MetricValueStatus { average_utilization: Some(percent), ..MetricValueStatus::default() },
        }),
        ..MetricStatus::default()
    }
}

/// All current metrics, but for the one the `v1` field says all about.
pub(super) fn statuses_to_v1(metrics: &[MetricStatus]) -> Option<Vec<Metric>> {
    let said = |metric: &MetricStatus| {
        metric.resource.as_ref().is_some_and(|r| {
            r.name == "cpu" && r.current.average_utilization.is_some() && r.current.average_value.is_none()
        })
    };
    let others: Vec<Metric> = metrics.iter().filter(|metric| !said(metric)).map(status_to_v1).collect();
    (!others.is_empty()).then_some(others)
}

pub(super) fn statuses_to_v2(metrics: Vec<Metric>) -> Vec<MetricStatus> {
    metrics.into_iter().map(status_to_v2).collect()
}

fn status_to_v1(metric: &MetricStatus) -> Metric {
    let resource = |name: &str, current: &MetricValueStatus| Source {
        name: Some(name.to_owned()),
        current_average_utilization: current.average_utilization,
        current_average_value: current.average_value.clone(),
        ..Source::default()
    };
    Metric {
        kind: metric.type_.clone(),
        object: metric.object.as_ref().map(|m| Source {
            target: Some(m.described_object.clone()),
            current_value: m.current.value.clone(),
            average_value: m.current.average_value.clone(),
            ..Source::named(&m.metric)
        }),
        pods: metric
            .pods
            .as_ref()
            .map(|m| Source { current_average_value: m.current.average_value.clone(), ..Source::named(&m.metric) }),
        resource: metric.resource.as_ref().map(|m| resource(&m.name, &m.current)),
        container_resource: metric
            .container_resource
            .as_ref()
            .map(|m| Source { container: Some(m.container.clone()), ..resource(&m.name, &m.current) }),
        external: metric.external.as_ref().map(|m| Source {
            metric_name: Some(m.metric.name.clone()),
            metric_selector: m.metric.selector.clone(),
            current_value: m.current.value.clone(),
            current_average_value: m.current.average_value.clone(),
            ..Source::default()
        }),
    }
}

fn status_to_v2(metric: Metric) -> MetricStatus {
    let current = |s: &Source| MetricValueStatus {
        average_utilization: s.current_average_utilization,
        average_value: s.current_average_value.clone().or_else(|| s.average_value.clone()),
        value: s.current_value.clone(),
    };
    MetricStatus {
        type_: metric.kind,
        object: metric.object.map(|s| ObjectMetricStatus {
            metric: s.identifier(),
            current: current(&s),
            described_object: s.target.unwrap_or_default(),
        }),
        pods: metric.pods.map(|s| PodsMetricStatus { metric: s.identifier(), current: current(&s) }),
        resource: metric
            .resource
            .map(|s| ResourceMetricStatus { current: current(&s), name: s.name.unwrap_or_default() }),
        container_resource: metric.container_resource.map(|s| ContainerResourceMetricStatus {
            current: current(&s),
            container: s.container.unwrap_or_default(),
            name: s.name.unwrap_or_default(),
        }),
        external: metric.external.map(|s| ExternalMetricStatus { metric: s.identifier(), current: current(&s) }),
    }
}

// --- behaviour ---

/// Upstream writes its internal type here, whose fields have Go's names.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Behavior {
    scale_up: Option<Rules>,
    scale_down: Option<Rules>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
struct Rules {
    stabilization_window_seconds: Option<i32>,
    select_policy: Option<String>,
    policies: Option<Vec<Policy>>,
    tolerance: Option<Quantity>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
struct Policy {
    #[serde(rename = "Type")]
    kind: String,
    value: i32,
    period_seconds: i32,
}

pub(super) fn behavior_to_v1(behavior: &HorizontalPodAutoscalerBehavior) -> Behavior {
    let rules = |rules: &HPAScalingRules| Rules {
        stabilization_window_seconds: rules.stabilization_window_seconds,
        select_policy: rules.select_policy.clone(),
        policies: rules.policies.as_ref().map(|policies| {
            policies
                .iter()
                .map(|p| Policy { kind: p.type_.clone(), value: p.value, period_seconds: p.period_seconds })
                .collect()
        }),
        tolerance: rules.tolerance.clone(),
    };
    Behavior { scale_up: behavior.scale_up.as_ref().map(rules), scale_down: behavior.scale_down.as_ref().map(rules) }
}

pub(super) fn behavior_to_v2(behavior: Behavior) -> Option<HorizontalPodAutoscalerBehavior> {
    let rules = |rules: Rules| HPAScalingRules {
        stabilization_window_seconds: rules.stabilization_window_seconds,
        select_policy: rules.select_policy,
        policies: rules.policies.map(|policies| {
            policies
                .into_iter()
                .map(|p| HPAScalingPolicy { type_: p.kind, value: p.value, period_seconds: p.period_seconds })
                .collect()
        }),
        tolerance: rules.tolerance,
    };
    let made = HorizontalPodAutoscalerBehavior {
        scale_up: behavior.scale_up.map(rules),
        scale_down: behavior.scale_down.map(rules),
    };
    (made.scale_up.is_some() || made.scale_down.is_some()).then_some(made)
}
