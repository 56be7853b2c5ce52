//! `autoscaling`.

use super::ResourceInfo;
use super::row::{ALL, ROW, Row, resource, status, strs};

pub(super) static ROWS: &[ResourceInfo] = &[
    resource(Row {
        group: "autoscaling",
        kind: "HorizontalPodAutoscaler",
        plural: "horizontalpodautoscalers",
        singular: "horizontalpodautoscaler",
        short_names: strs!["hpa"],
        categories: ALL,
        subresources: const { &[status("HorizontalPodAutoscaler")] },
        ..ROW
    }),
    resource(Row {
        group: "autoscaling",
        version: "v2",
        kind: "HorizontalPodAutoscaler",
        plural: "horizontalpodautoscalers",
        singular: "horizontalpodautoscaler",
        short_names: strs!["hpa"],
        categories: ALL,
        subresources: const { &[status("HorizontalPodAutoscaler")] },
        ..ROW
    }),
];
