//! How the service data plane is, as kube-proxy's health servers tell it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use k8s_openapi::api::core::v1::Node;
use tokio::sync::watch;

use crate::tracker::ServiceKey;

/// A change that has waited for so long to be served is a fault. Upstream: twice its sync period.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A node with this taint is about to be removed by the Cluster Autoscaler: balancers shall send it nothing new (KEP-3836).
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// What there is to say. Cheap to clone; clones see the same.
#[derive(Clone, Debug)]
pub struct Health(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    services: watch::Sender<BTreeMap<ServiceName, ServiceHealth>>,
}

#[derive(Debug)]
struct State {
    /// Since when a change is seen and not served.
    pending: Option<Instant>,
    updated: Option<SystemTime>,
    eligible: bool,
}

/// Whether changes are served in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// No change has been waiting for a minute. Before the first one all is well.
    pub healthy: bool,
    /// When changes were last served.
    pub updated: Option<SystemTime>,
    /// The node is not about to go.
    pub eligible: bool,
}

/// Namespace and name of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What a balancer asks this node about a Service with `externalTrafficPolicy: Local`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceHealth {
    /// `spec.healthCheckNodePort`.
    pub port: u16,
    /// Ready endpoints on this node.
    pub local: usize,
}

impl Default for Health {
    fn default() -> Self {
        let state = State { pending: None, updated: None, eligible: true };
        Self(Arc::new(Inner { state: Mutex::new(state), services: watch::Sender::new(BTreeMap::new()) }))
    }
}

impl Health {
    /// How it is now.
    pub fn status(&self) -> Status {
        let state = self.state();
        let healthy = state.pending.is_none_or(|since| since.elapsed() < TIMEOUT);
        Status { healthy, updated: state.updated, eligible: state.eligible }
    }

    /// The Services that balancers ask about.
    pub fn services(&self) -> watch::Receiver<BTreeMap<ServiceName, ServiceHealth>> {
        self.0.services.subscribe()
    }

    /// A change was seen.
    pub(crate) fn pending(&self) {
        self.state().pending.get_or_insert_with(Instant::now);
    }

    /// All that was seen is served.
    pub(crate) fn updated(&self) {
        let mut state = self.state();
        state.pending = None;
        state.updated = Some(SystemTime::now());
    }

    /// What this node's Node says.
    pub(crate) fn note_node(&self, node: &Node) {
        let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        let leaving = taints.map(|taint| taint.key.as_str()).any(|key| key == TO_BE_DELETED);
        self.state().eligible = node.metadata.deletion_timestamp.is_none() && !leaving;
    }

    /// What balancers shall hear of a Service; `None` if they do not ask.
    pub(crate) fn note_service(&self, key: &ServiceKey, health: Option<ServiceHealth>) {
        let name = ServiceName { namespace: key.namespace.clone(), name: key.name.clone() };
        self.0.services.send_if_modified(|services| match health {
            Some(health) => services.insert(name, health) != Some(health),
            None => services.remove(&name).is_some(),
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every write of it is whole.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_that_waits_is_a_fault_after_a_while() {
        let health = Health::default();
        assert_eq!(health.status(), Status { healthy: true, updated: None, eligible: true });
        health.pending();
        assert!(health.status().healthy, "it is not late yet");
        health.state().pending = Instant::now().checked_sub(TIMEOUT);
        health.pending();
        assert!(!health.status().healthy, "the oldest change counts");
        health.updated();
        assert!(health.status().healthy && health.status().updated.is_some());
    }

    #[test]
    fn a_node_about_to_go_is_not_eligible() {
        let health = Health::default();
        let node = |value: serde_json::Value| serde_json::from_value::<Node>(value).unwrap();
        let taint = |key: &str| json!({ "spec": { "taints": [{ "key": key, "effect": "NoSchedule" }] } });
        for (what, eligible) in [
            (taint(TO_BE_DELETED), false),
            (taint("other"), true),
            (json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } }), false),
            (json!({}), true),
        ] {
            health.note_node(&node(what.clone()));
            assert_eq!(health.status().eligible, eligible, "{what}");
        }
    }

    #[test]
    fn only_news_of_services_are_told() {
        let health = Health::default();
        let mut told = health.services();
        let key = ServiceKey { namespace: "ns".into(), name: "a".into() };
        let one = ServiceHealth { port: 30_000, local: 1 };
        health.note_service(&key, Some(one));
        assert!(told.has_changed().unwrap());
        assert_eq!(told.borrow_and_update().values().copied().collect::<Vec<_>>(), [one]);
        health.note_service(&key, Some(one));
        assert!(!told.has_changed().unwrap());
        health.note_service(&key, None);
        assert!(told.borrow_and_update().is_empty());
    }
}
