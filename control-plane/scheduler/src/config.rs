//! Settings of the scheduler.

use skep_client::{LeaderElection, leader_election::default_identity};

use crate::{
    framework::{Profile, Registry},
    metrics::Metrics,
    queue::Timing,
};

/// Settings of the scheduler; [`Config::default`] has upstream's values.
#[derive(Clone)]
pub struct Config {
    /// Scheduler name and plugins. Pods of another `spec.schedulerName` are left alone.
    pub profile: Profile,
    /// The plugins that exist.
    pub registry: Registry,
    /// Lease `kube-system/kube-scheduler` and its times; `None` schedules without an election.
    pub leader_election: Option<LeaderElection>,
    /// Share of the nodes to look at before scoring, in percent; `0` lets it shrink with the size of the cluster.
    pub percentage_of_nodes_to_score: u8,
    /// Backoff and patience of the queue.
    pub timing: Timing,
    /// How many bindings may be under way at once. Well below what an API server takes of writes at a time (200): beyond that it
    /// answers 429, and others want to write too.
    pub bindings_in_flight: usize,
    /// Where to count; register it with the process's registry.
    pub metrics: Metrics,
}

impl Config {
    /// The default configuration of a candidate with this identity; see [`default_identity`].
    pub fn with_identity(identity: impl Into<String>) -> Self {
        Self {
            profile: Profile::default_plugins("default-scheduler"),
            registry: Registry::default(),
            leader_election: Some(LeaderElection::new("kube-scheduler", identity)),
            percentage_of_nodes_to_score: 0,
            timing: Timing::default(),
            bindings_in_flight: 100,
            metrics: Metrics::default(),
        }
    }
}

impl Default for Config {
    /// With an identity made from the process id, unique on and across machines by its random part.
    fn default() -> Self {
        Self::with_identity(default_identity(&format!("skep-scheduler-{}", std::process::id())))
    }
}
