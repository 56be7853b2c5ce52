//! How fast nodes may be evicted, zone by zone: the more of a zone looks dead, the more likely it is only out of sight.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use tokio::time::Instant;
use tracing::info;

use super::health;
use crate::config::Config;
use crate::meta;

/// How a zone does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Normal,
    Partial,
    Full,
}

#[derive(Debug)]
struct Zone {
    /// Nodes a second; 0 stops evictions.
    rate: f64,
    next: Option<Instant>,
}

/// The eviction rates of all zones.
#[derive(Debug)]
pub(super) struct Zones {
    rate: f64,
    secondary_rate: f64,
    threshold: f64,
    large: usize,
    zones: HashMap<String, Zone>,
    all_down: bool,
}

/// The zone of a node: region and zone labels.
pub(super) fn of(node: &Node) -> String {
    let label = |key| meta::label(&node.metadata, key).unwrap_or_default();
    format!("{}:{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

impl Zones {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            rate: config.node_eviction_rate,
            secondary_rate: config.secondary_node_eviction_rate,
            threshold: config.unhealthy_zone_threshold,
            large: config.large_cluster_size_threshold,
            zones: HashMap::new(),
            all_down: false,
        }
    }

    /// True while no node is ready.
    pub(super) fn all_down(&self) -> bool {
        self.all_down
    }

    /// Takes the nodes' health into account; true if a time begins or ends in which all zones are down.
    pub(super) fn assess(&mut self, nodes: &[Arc<Node>]) -> bool {
        let mut counts: HashMap<String, (usize, usize)> = HashMap::new();
        for node in nodes {
            let (healthy, unhealthy) = counts.entry(of(node)).or_default();
            let ready = health::ready(node).is_some_and(|condition| condition.status == "True");
            if ready { *healthy += 1 } else { *unhealthy += 1 }
        }
        let states: HashMap<_, _> =
            counts.iter().map(|(zone, (healthy, unhealthy))| (zone, self.state(*healthy, *unhealthy))).collect();
        let all_down = !states.is_empty() && states.values().all(|state| *state == State::Full);
        if all_down && !self.all_down {
            // No warning: a cluster whose first node is about to come up is in this state too.
            info!(nodes = nodes.len(), "no node is ready, nothing is evicted until one is");
        }
        let changed = self.all_down != all_down;
        self.all_down = all_down;
        self.zones.retain(|zone, _| counts.contains_key(zone));
        for (zone, state) in states {
            let (healthy, unhealthy) = counts[zone];
            let rate = match state {
                _ if all_down => 0.0,
                State::Partial if healthy + unhealthy <= self.large => 0.0,
                State::Partial => self.secondary_rate,
                State::Normal | State::Full => self.rate,
            };
            self.zones.entry(zone.clone()).or_insert(Zone { rate, next: None }).rate = rate;
        }
        changed
    }

    fn state(&self, healthy: usize, unhealthy: usize) -> State {
        let share = unhealthy as f64 / (healthy + unhealthy).max(1) as f64;
        match (healthy, unhealthy) {
            (0, 1..) => State::Full,
            (_, 3..) if share >= self.threshold => State::Partial,
            _ => State::Normal,
        }
    }

    /// Whether one more node of the zone may be evicted now; if not, when to ask again.
    pub(super) fn permit(&mut self, zone: &str, now: Instant) -> Result<(), Duration> {
        const LATER: Duration = Duration::from_secs(5);
        // Before the first look at all nodes nothing is known about the zone.
        let zone = self.zones.get_mut(zone).ok_or(LATER)?;
        if self.all_down || zone.rate <= 0.0 {
            return Err(LATER);
        }
        if let Some(next) = zone.next.filter(|next| *next > now) {
            return Err(next - now);
        }
        zone.next = Some(now + Duration::from_secs_f64(1.0 / zone.rate));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{NodeCondition, NodeStatus};

    fn nodes(ready: usize, dead: usize) -> Vec<Arc<Node>> {
        let node = |status: &str| {
            let condition = NodeCondition { type_: "Ready".into(), status: status.into(), ..Default::default() };
            Arc::new(Node {
                status: Some(NodeStatus { conditions: Some(vec![condition]), ..Default::default() }),
                ..Default::default()
            })
        };
        std::iter::repeat_n("True", ready).chain(std::iter::repeat_n("Unknown", dead)).map(node).collect()
    }

    #[test]
    fn single_nodes_are_evicted_one_every_ten_seconds() {
        let mut zones = Zones::new(&Config::default());
        zones.assess(&nodes(3, 2));
        let now = Instant::now();
        assert_eq!(zones.permit(":", now), Ok(()));
        assert_eq!(zones.permit(":", now), Err(Duration::from_secs(10)));
        assert_eq!(zones.permit(":", now + Duration::from_secs(10)), Ok(()));
    }

    #[test]
    fn a_mostly_dead_small_zone_is_left_alone() {
        let mut zones = Zones::new(&Config::default());
        zones.assess(&nodes(2, 3));
        assert!(zones.permit(":", Instant::now()).is_err());
    }

    #[test]
    fn when_every_node_is_dead_nothing_is_evicted_until_one_is_back() {
        let mut zones = Zones::new(&Config::default());
        assert!(zones.assess(&nodes(0, 1)));
        assert!(!zones.assess(&nodes(0, 1)), "nothing new");
        assert!(zones.permit(":", Instant::now()).is_err());
        assert!(zones.assess(&nodes(1, 1)));
        assert!(zones.permit(":", Instant::now()).is_ok());
    }
}
