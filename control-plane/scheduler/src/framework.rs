//! The scheduling framework: extension points under upstream's names, and the [`Framework`] that runs them for one profile.
//!
//! A plugin implements any number of these traits and registers itself for them in [`Registrar`]. Everything up to Permit runs in
//! the scheduling cycle, one pod at a time, and must not wait; PreBind and Bind run in the binding cycle, many at once.

pub mod cycle_state;
pub mod events;
mod permit;
mod registry;
mod runtime;
mod status;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::{node_info::NodeInfo, pod_info::PodInfo, snapshot::Snapshot};
pub use cycle_state::CycleState;
pub use events::{ClusterEvent, QueueingHint};
pub use permit::PermitOutcome;
pub use registry::{Context, Factory, PluginConfig, Profile, Registrar, Registry};
pub use runtime::Framework;
pub use status::{Code, Status};

/// The best score a plugin may give a node.
pub const MAX_NODE_SCORE: i64 = 100;

/// What every plugin is.
pub trait Plugin: Send + Sync {
    /// Upstream's name, as it stands in profiles, metrics and messages.
    fn name(&self) -> &'static str;

    /// Whether `event` is worth another attempt for `pod`, which this plugin has rejected.
    fn queueing_hint(&self, event: &ClusterEvent, pod: &PodInfo) -> QueueingHint {
        let _ = (event, pod);
        QueueingHint::Skip
    }
}

/// Orders the active queue: the least key is scheduled first.
pub type QueueKey = (i64, Instant);

/// Decides which pod comes first.
pub trait QueueSort: Plugin {
    /// The pod's place; `queued` is when it last entered the queue.
    fn key(&self, pod: &PodInfo, queued: Instant) -> QueueKey;
}

/// Keeps a pod out of the active queue until it is ready to be considered.
pub trait PreEnqueue: Plugin {
    /// Anything but success leaves the pod waiting.
    fn pre_enqueue(&self, pod: &PodInfo) -> Status;
}

/// Looks at the pod once before the nodes are filtered.
pub trait PreFilter: Plugin {
    /// `Skip` leaves this plugin's Filter out of the cycle; the names, if any, are the only nodes worth filtering.
    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
    ) -> (Status, Option<BTreeSet<String>>);
}

/// Decides whether a pod can run on a node.
pub trait Filter: Plugin {
    /// Called for many nodes a second: no parsing, no allocation on success.
    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status;
}

/// Runs when no node fits, to make room.
pub trait PostFilter: Plugin {
    /// `rejections` holds each rejected node's status; success may nominate a node.
    fn post_filter(
        &self,
        state: &CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
        rejections: &[(Arc<str>, Status)],
    ) -> (Status, Option<String>);
}

/// Looks at the feasible nodes once before they are scored.
pub trait PreScore: Plugin {
    /// `Skip` leaves this plugin's Score out of the cycle.
    fn pre_score(&self, state: &mut CycleState, pod: &PodInfo, nodes: &[Arc<NodeInfo>], snapshot: &Snapshot) -> Status;
}

/// Ranks the feasible nodes.
pub trait Score: Plugin {
    /// A raw score; after [`Score::normalize_score`] it must lie within 0 and [`MAX_NODE_SCORE`].
    fn score(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<i64, Status>;

    /// Brings raw scores into range.
    fn normalize_score(&self, state: &CycleState, pod: &PodInfo, scores: &mut [i64]) {
        let _ = (state, pod, scores);
    }
}

/// Takes and gives back what a plugin keeps count of, when a pod is assumed on a node.
pub trait Reserve: Plugin {
    /// Anything but success ends the attempt; `unreserve` of all Reserve plugins follows.
    fn reserve(&self, state: &CycleState, pod: &PodInfo, node: &str) -> Status;

    /// Undoes `reserve`; must bear being called without it.
    fn unreserve(&self, state: &CycleState, pod: &PodInfo, node: &str);
}

/// Holds a pod back between its assumption and its binding.
pub trait Permit: Plugin {
    /// `Wait` holds the pod for at most this long.
    fn permit(&self, state: &CycleState, pod: &PodInfo, node: &str) -> (Status, Duration);
}

/// Work to be done before a binding is written.
pub trait PreBind: Plugin {
    /// Anything but success ends the attempt.
    fn pre_bind<'a>(&'a self, state: &'a CycleState, pod: &'a PodInfo, node: &'a str) -> BoxFuture<'a, Status>;
}

/// Writes the binding.
pub trait Bind: Plugin {
    /// `Skip` hands the pod to the next Bind plugin.
    fn bind<'a>(&'a self, state: &'a CycleState, pod: &'a PodInfo, node: &'a str) -> BoxFuture<'a, Status>;
}

/// Told when a pod has been bound.
pub trait PostBind: Plugin {
    /// Information only.
    fn post_bind(&self, state: &CycleState, pod: &PodInfo, node: &str);
}

/// Scales scores so that the best becomes [`MAX_NODE_SCORE`]; `reverse` makes the greatest the worst.
pub fn default_normalize_score(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or_default();
    for score in scores {
        let scaled = if max == 0 { 0 } else { MAX_NODE_SCORE.saturating_mul(*score) / max };
        *score = if reverse { MAX_NODE_SCORE - scaled } else { scaled };
    }
}
