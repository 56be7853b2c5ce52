//! The scheduler's picture of the cluster: what the informers have told, plus pods assumed on a node while their binding is
//! under way. Pure state, no I/O; time is handed in.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    node_info::{NodeFacts, NodeInfo},
    pod_info::PodInfo,
    snapshot::Snapshot,
};

/// How long an assumed pod is believed in after its binding has been accepted, should the informer never confirm it.
pub const ASSUMED_POD_TTL: Duration = Duration::from_secs(15 * 60);

/// See the module's description.
#[derive(Default)]
pub struct Cache {
    nodes: HashMap<Arc<str>, Entry>,
    pods: HashMap<Arc<str>, PodState>,
    /// On how many nodes each image lies.
    images: Arc<HashMap<String, usize>>,
    assumed: HashSet<Arc<str>>,
    /// Nodes whose sums or facts changed since the last snapshot.
    dirty: HashSet<Arc<str>>,
    /// Nodes came, went or moved to another zone since the last snapshot.
    layout_changed: bool,
}

struct Entry {
    info: Arc<NodeInfo>,
    /// Pods may be seen before their node, and outlive it for a while; such an entry is in no snapshot.
    present: bool,
}

struct PodState {
    info: Arc<PodInfo>,
    node: Arc<str>,
    /// When set, no informer has confirmed the pod on this node yet.
    assumed: Option<Assumed>,
}

enum Assumed {
    Binding,
    Until(Instant),
}

impl Cache {
    // === Pods ===

    /// Counts `pod` on `node` before its binding is written. `false` when the cache already knows this pod on a node.
    pub fn assume_pod(&mut self, pod: Arc<PodInfo>, node: &str) -> bool {
        if self.pods.contains_key(&pod.uid) {
            return false;
        }
        self.assumed.insert(pod.uid.clone());
        self.insert(pod, node, Some(Assumed::Binding));
        true
    }

    /// The binding has been accepted: from here on the assumption expires unless an informer confirms it.
    pub fn finish_binding(&mut self, uid: &str, now: Instant) {
        if let Some(state) = self.pods.get_mut(uid)
            && state.assumed.is_some()
        {
            state.assumed = Some(Assumed::Until(now + ASSUMED_POD_TTL));
        }
    }

    /// The binding has failed. A pod that an informer has confirmed meanwhile stays.
    pub fn forget_pod(&mut self, uid: &str) {
        if self.is_assumed(uid) {
            self.remove_pod(uid);
        }
    }

    /// An informer shows `pod` on `node`, for the first time or again.
    pub fn set_pod(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove_pod(&pod.uid);
        self.insert(pod, node, None);
    }

    /// The pod is gone or has run to its end.
    pub fn remove_pod(&mut self, uid: &str) {
        let Some(state) = self.pods.remove(uid) else { return };
        self.assumed.remove(uid);
        let Some(entry) = self.nodes.get_mut(&state.node) else { return };
        Arc::make_mut(&mut entry.info).remove_pod(uid);
        if !entry.present && entry.info.pods.is_empty() {
            self.nodes.remove(&state.node);
        } else {
            self.dirty.insert(state.node);
        }
    }

    /// Whether the pod counts on some node.
    pub fn contains(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }

    /// Whether the pod counts on a node without an informer's confirmation.
    pub fn is_assumed(&self, uid: &str) -> bool {
        self.assumed.contains(uid)
    }

    /// Drops assumed pods whose time has run out; returns them.
    pub fn expire(&mut self, now: Instant) -> Vec<Arc<PodInfo>> {
        let expired: Vec<Arc<PodInfo>> = self
            .assumed
            .iter()
            .filter_map(|uid| self.pods.get(uid))
            .filter(|state| matches!(state.assumed, Some(Assumed::Until(deadline)) if deadline <= now))
            .map(|state| state.info.clone())
            .collect();
        for pod in &expired {
            self.remove_pod(&pod.uid);
        }
        expired
    }

    fn insert(&mut self, pod: Arc<PodInfo>, node: &str, assumed: Option<Assumed>) {
        let node: Arc<str> = self.nodes.get_key_value(node).map_or_else(|| node.into(), |(name, _)| name.clone());
        let entry = self.nodes.entry(node.clone()).or_insert_with(|| Entry::absent(node.clone()));
        Arc::make_mut(&mut entry.info).add_pod(pod.clone());
        self.dirty.insert(node.clone());
        self.pods.insert(pod.uid.clone(), PodState { info: pod, node, assumed });
    }

    // === Nodes ===

    /// A node appeared or its facts changed.
    pub fn set_node(&mut self, facts: Arc<NodeFacts>) {
        let name = facts.name.clone();
        let entry = self.nodes.entry(name.clone()).or_insert_with(|| Entry::absent(name.clone()));
        let old = entry.present.then(|| entry.info.facts.clone());
        if old.as_ref().is_none_or(|old| old.zone != facts.zone) {
            self.layout_changed = true;
        }
        Arc::make_mut(&mut entry.info).facts = facts.clone();
        entry.present = true;
        if old.as_ref().is_none_or(|old| old.images != facts.images) {
            self.count_images(old.as_deref(), Some(&facts));
        }
        self.dirty.insert(name);
    }

    /// A node is gone. Its pods stay known until their own deletion is seen.
    pub fn remove_node(&mut self, name: &str) {
        let Some(entry) = self.nodes.get_mut(name).filter(|entry| entry.present) else { return };
        let old = entry.info.facts.clone();
        entry.present = false;
        Arc::make_mut(&mut entry.info).facts = Entry::absent(old.name.clone()).info.facts.clone();
        if entry.info.pods.is_empty() {
            self.nodes.remove(name);
        }
        self.layout_changed = true;
        self.count_images(Some(&old), None);
    }

    fn count_images(&mut self, old: Option<&NodeFacts>, new: Option<&NodeFacts>) {
        let images = Arc::make_mut(&mut self.images);
        for name in new.iter().flat_map(|facts| facts.images.keys()) {
            *images.entry(name.clone()).or_default() += 1;
        }
        for name in old.iter().flat_map(|facts| facts.images.keys()) {
            if let Some(count) = images.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    images.remove(name);
                }
            }
        }
    }

    // === Reading ===

    /// Brings `snapshot` up to date; costs what changed since the last call. A cache serves one snapshot.
    pub fn update_snapshot(&mut self, snapshot: &mut Snapshot) {
        if self.layout_changed {
            self.layout_changed = false;
            self.dirty.clear();
            let present = self.nodes.values().filter(|entry| entry.present);
            snapshot.rebuild(present.map(|entry| entry.info.clone()).collect());
        } else {
            for name in self.dirty.drain() {
                if let Some(entry) = self.nodes.get(&name).filter(|entry| entry.present) {
                    snapshot.replace(entry.info.clone());
                }
            }
        }
        if !Arc::ptr_eq(&snapshot.images, &self.images) {
            snapshot.images = self.images.clone();
        }
    }

    /// Nodes, pods and assumed pods known: upstream's `scheduler_cache_size`.
    pub fn sizes(&self) -> (usize, usize, usize) {
        let nodes = self.nodes.values().filter(|entry| entry.present).count();
        (nodes, self.pods.len(), self.assumed.len())
    }
}

impl Entry {
    fn absent(name: Arc<str>) -> Self {
        let facts = NodeFacts { name, ..NodeFacts::default() };
        Self { info: Arc::new(NodeInfo::new(Arc::new(facts))), present: false }
    }
}
