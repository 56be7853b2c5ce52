//! When the change happened that made a Service's endpoints change: lets the data plane measure its latency
//! (annotation `endpoints.kubernetes.io/last-change-trigger-time`).

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::jiff::Timestamp;

use crate::meta::{self, ObjectKey};
use crate::pod;

/// What was last seen of each Service and its pods.
#[derive(Debug, Default)]
pub(crate) struct TriggerTimes {
    services: HashMap<ObjectKey, Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    service: Option<Timestamp>,
    pods: HashMap<String, Timestamp>,
}

impl TriggerTimes {
    /// The time of the earliest change since the last call; None if nothing with a known time changed.
    pub(crate) fn observe(&mut self, key: &ObjectKey, service: &Service, pods: &[Arc<Pod>]) -> Option<String> {
        let seen = self.services.entry(key.clone()).or_default();
        let mut earliest: Option<Timestamp> = None;
        let mut note = |time: Timestamp| earliest = Some(earliest.map_or(time, |known| known.min(time)));
        let mut now_known = HashMap::with_capacity(pods.len());
        for pod in pods {
            let Some(time) = pod::condition(pod, "Ready").and_then(|ready| ready.last_transition_time.as_ref()) else {
                continue;
            };
            let name = meta::name(&pod.metadata).to_owned();
            if seen.pods.get(&name).is_none_or(|known| *known < time.0) {
                note(time.0);
            }
            now_known.insert(name, time.0);
        }
        seen.pods = now_known;
        let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
        if seen.service.is_none()
            && let Some(created) = created
        {
            note(created);
        }
        seen.service = created;
        earliest.map(|time| time.to_string())
    }

    /// Forgets a Service that is gone.
    pub(crate) fn forget(&mut self, key: &ObjectKey) {
        self.services.remove(key);
    }
}
