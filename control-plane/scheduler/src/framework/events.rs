//! Changes in the cluster that may make a pod schedulable, and what a plugin thinks of them.

use std::sync::Arc;

use crate::{node_info::NodeFacts, pod_info::PodInfo};

/// Whether an event is worth another attempt for a pod that the plugin has rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueingHint {
    /// It may fit now.
    Queue,
    /// Nothing in this event helps.
    Skip,
}

impl From<bool> for QueueingHint {
    fn from(worth: bool) -> Self {
        if worth { Self::Queue } else { Self::Skip }
    }
}

/// A change in the cluster.
#[derive(Clone, Debug)]
pub enum ClusterEvent {
    /// A node appeared.
    NodeAdd {
        /// The node.
        node: Arc<NodeFacts>,
    },
    /// Facts of a node changed (never a mere heartbeat).
    NodeUpdate {
        /// Before.
        old: Arc<NodeFacts>,
        /// After.
        new: Arc<NodeFacts>,
    },
    /// A pod was bound, by this scheduler or another.
    AssignedPodAdd {
        /// The pod.
        pod: Arc<PodInfo>,
    },
    /// A bound pod changed.
    AssignedPodUpdate {
        /// Before.
        old: Arc<PodInfo>,
        /// After.
        new: Arc<PodInfo>,
    },
    /// A bound pod is gone, has ended, or its binding failed.
    AssignedPodDelete {
        /// The pod.
        pod: Arc<PodInfo>,
    },
    /// The waiting pod itself changed.
    PodUpdate {
        /// Before.
        old: Arc<PodInfo>,
        /// After.
        new: Arc<PodInfo>,
    },
}

impl ClusterEvent {
    /// Upstream's name of the event, the `event` label of `scheduler_queue_incoming_pods_total`.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NodeAdd { .. } => "NodeAdd",
            Self::NodeUpdate { .. } => "NodeUpdate",
            Self::AssignedPodAdd { .. } => "AssignedPodAdd",
            Self::AssignedPodUpdate { .. } => "AssignedPodUpdate",
            Self::AssignedPodDelete { .. } => "AssignedPodDelete",
            Self::PodUpdate { .. } => "UnschedulablePodUpdate",
        }
    }

    /// The node after the event, for node events.
    pub fn node(&self) -> Option<&Arc<NodeFacts>> {
        match self {
            Self::NodeAdd { node } | Self::NodeUpdate { new: node, .. } => Some(node),
            _ => None,
        }
    }

    /// Judges a node event: worth it when `fits` holds for the node now and did not before.
    pub fn node_now_fits(&self, fits: impl Fn(&NodeFacts) -> bool) -> bool {
        match self {
            Self::NodeAdd { node } => fits(node),
            Self::NodeUpdate { old, new } => fits(new) && !fits(old),
            _ => false,
        }
    }
}
