//! PrioritySort: higher priority first, then whoever has waited longer.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    framework::{Plugin, QueueKey, QueueSort, Registrar},
    pod_info::PodInfo,
};

pub(super) const NAME: &str = "PrioritySort";

pub(super) fn register(registrar: &mut Registrar<'_>) {
    registrar.queue_sort(Arc::new(PrioritySort));
}

struct PrioritySort;

impl Plugin for PrioritySort {
    fn name(&self) -> &'static str {
        NAME
    }
}

impl QueueSort for PrioritySort {
    fn key(&self, pod: &PodInfo, queued: Instant) -> QueueKey {
        (-i64::from(pod.priority), queued)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::testing::pod_with;

    #[test]
    fn priority_goes_before_age() {
        let now = Instant::now();
        let important = PrioritySort.key(&pod_with("a", json!({ "priority": 10 })), now);
        let older = PrioritySort.key(&pod_with("b", json!({})), now - Duration::from_secs(10));
        let younger = PrioritySort.key(&pod_with("c", json!({ "priority": 0 })), now);
        assert!(important < older && older < younger);
    }
}
