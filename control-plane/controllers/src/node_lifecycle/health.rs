//! When a node was last heard of. Only changes count, timed by the local monotonic clock: the clocks of nodes do not matter.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use crate::config::Config;
use crate::meta;

/// The conditions a kubelet reports.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// What was last seen of a node, and when it changed.
#[derive(Debug)]
pub(super) struct Health {
    heartbeat: Option<Timestamp>,
    renewal: Option<Timestamp>,
    last_sign: Instant,
}

impl Health {
    pub(super) fn first_seen(now: Instant) -> Self {
        Self { heartbeat: None, renewal: None, last_sign: now }
    }

    /// Takes note of the node's heartbeat and its lease.
    pub(super) fn observe(&mut self, node: &Node, lease: Option<&Lease>, now: Instant) {
        let heartbeat = ready(node).and_then(|condition| condition.last_heartbeat_time.as_ref()).map(|time| time.0);
        let renewal = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref()).map(|time| time.0);
        if heartbeat != self.heartbeat || (renewal.is_some() && renewal != self.renewal) {
            self.last_sign = now;
        }
        self.heartbeat = heartbeat;
        self.renewal = renewal.or(self.renewal);
    }

    pub(super) fn silent_for(&self, now: Instant) -> Duration {
        now.duration_since(self.last_sign)
    }
}

/// The node's Ready condition.
pub(super) fn ready(node: &Node) -> Option<&NodeCondition> {
    condition(node, "Ready")
}

pub(super) fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_deref()?.iter().find(|condition| condition.type_ == type_)
}

/// The conditions to write for a node that has been silent too long; None if it has not, or if they are written already.
pub(super) fn conditions_of_silent_node(
    node: &Node,
    silent_for: Duration,
    config: &Config,
) -> Option<Vec<NodeCondition>> {
    let grace = if ready(node).is_some() { config.node_monitor_grace_period } else { config.node_startup_grace_period };
    if silent_for <= grace {
        return None;
    }
    let changed: Vec<_> = REPORTED.iter().filter_map(|type_| unknown(node, type_)).collect();
    (!changed.is_empty()).then_some(changed)
}

fn unknown(node: &Node, type_: &str) -> Option<NodeCondition> {
    let now = Some(meta::now());
    match condition(node, type_) {
        Some(known) if known.status == "Unknown" => None,
        Some(known) => Some(NodeCondition {
            status: "Unknown".to_owned(),
            reason: Some("NodeStatusUnknown".to_owned()),
            message: Some("Kubelet stopped posting node status.".to_owned()),
            last_transition_time: now,
            ..known.clone()
        }),
        None => Some(NodeCondition {
            type_: type_.to_owned(),
            status: "Unknown".to_owned(),
            reason: Some("NodeStatusNeverUpdated".to_owned()),
            message: Some("Kubelet never posted node status.".to_owned()),
            last_heartbeat_time: node.metadata.creation_timestamp.clone(),
            last_transition_time: now,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use k8s_openapi::api::core::v1::NodeStatus;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

    fn node(heartbeat: i64) -> Node {
        let condition = NodeCondition {
            type_: "Ready".into(),
            status: "True".into(),
            last_heartbeat_time: Some(Time(Timestamp::from_second(heartbeat).unwrap())),
            ..Default::default()
        };
        Node {
            status: Some(NodeStatus { conditions: Some(vec![condition]), ..Default::default() }),
            ..Default::default()
        }
    }

    fn lease(renewed: i64) -> Lease {
        let time = MicroTime(Timestamp::from_second(renewed).unwrap());
        Lease { spec: Some(LeaseSpec { renew_time: Some(time), ..Default::default() }), ..Default::default() }
    }

    #[test]
    fn a_renewed_lease_is_a_sign_of_life_whatever_time_it_says() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut health = Health::first_seen(start);
        // The node's clock is decades behind.
        health.observe(&node(1), Some(&lease(1)), at(0));
        health.observe(&node(1), Some(&lease(2)), at(30));
        assert_eq!(health.silent_for(at(50)), Duration::from_secs(20));
        health.observe(&node(1), Some(&lease(2)), at(60));
        assert_eq!(health.silent_for(at(60)), Duration::from_secs(30));
    }

    #[test]
    fn a_vanished_lease_is_no_sign_of_life() {
        let start = Instant::now();
        let mut health = Health::first_seen(start);
        health.observe(&node(1), Some(&lease(1)), start);
        health.observe(&node(1), None, start + Duration::from_secs(40));
        health.observe(&node(1), Some(&lease(1)), start + Duration::from_secs(41));
        assert_eq!(health.silent_for(start + Duration::from_secs(45)), Duration::from_secs(45));
    }

    #[test]
    fn silence_beyond_the_grace_period_makes_conditions_unknown_once() {
        let config = Config::default();
        let mut node = node(1);
        assert!(conditions_of_silent_node(&node, Duration::from_secs(40), &config).is_none());
        let conditions = conditions_of_silent_node(&node, Duration::from_secs(41), &config).unwrap();
        assert_eq!(conditions.len(), 4);
        assert_eq!(conditions[0].message.as_deref(), Some("Kubelet stopped posting node status."));
        assert_eq!(conditions[1].reason.as_deref(), Some("NodeStatusNeverUpdated"));
        node.status.get_or_insert_default().conditions = Some(conditions);
        assert!(conditions_of_silent_node(&node, Duration::from_secs(100), &config).is_none());
    }
}
