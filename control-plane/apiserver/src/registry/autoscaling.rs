//! `autoscaling`: horizontal pod autoscalers, stored as `v2` and also served as `v1`.

mod horizontal_pod_autoscaler;
mod metrics_v1;
mod table;
mod v1;
mod validate;

pub(crate) use horizontal_pod_autoscaler::HorizontalPodAutoscalers;
pub(crate) use v1::HorizontalPodAutoscalersV1;
