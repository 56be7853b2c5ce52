//! The nodes as one scheduling cycle sees them: immutable, and shared with the cache until the cache changes a node.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use crate::node_info::NodeInfo;

/// See the module's description.
#[derive(Default)]
pub struct Snapshot {
    nodes: Vec<Arc<NodeInfo>>,
    index: HashMap<Arc<str>, usize>,
    pub(crate) images: Arc<HashMap<String, usize>>,
}

impl Snapshot {
    /// The nodes, zones taking turns.
    pub fn nodes(&self) -> &[Arc<NodeInfo>] {
        &self.nodes
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Option<&Arc<NodeInfo>> {
        self.index.get(name).map(|index| &self.nodes[*index])
    }

    /// On how many nodes an image lies.
    pub fn nodes_with_image(&self, name: &str) -> usize {
        self.images.get(name).copied().unwrap_or_default()
    }

    pub(crate) fn replace(&mut self, node: Arc<NodeInfo>) {
        if let Some(index) = self.index.get(node.name()) {
            self.nodes[*index] = node;
        }
    }

    /// Orders the nodes so that neighbours lie in different zones: a partial search then still sees every zone.
    pub(crate) fn rebuild(&mut self, mut nodes: Vec<Arc<NodeInfo>>) {
        nodes.sort_by(|a, b| a.name().cmp(b.name()));
        let mut zones: BTreeMap<String, VecDeque<Arc<NodeInfo>>> = BTreeMap::new();
        for node in nodes {
            zones.entry(node.facts.zone.clone()).or_default().push_back(node);
        }
        self.nodes.clear();
        while !zones.is_empty() {
            zones.retain(|_, zone| {
                self.nodes.extend(zone.pop_front());
                !zone.is_empty()
            });
        }
        self.index = self.nodes.iter().enumerate().map(|(index, node)| (node.name().clone(), index)).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node_info::NodeFacts;

    #[test]
    fn zones_take_turns() {
        let node = |name: &str, zone: &str| {
            let facts = NodeFacts { name: name.into(), zone: zone.to_owned(), ..NodeFacts::default() };
            Arc::new(NodeInfo::new(Arc::new(facts)))
        };
        let mut snapshot = Snapshot::default();
        snapshot.rebuild(vec![node("a1", "a"), node("a2", "a"), node("a3", "a"), node("b1", "b"), node("c1", "c")]);
        let order: Vec<&str> = snapshot.nodes().iter().map(|node| &**node.name()).collect();
        assert_eq!(order, ["a1", "b1", "c1", "a2", "a3"]);
        assert_eq!(&**snapshot.node("a2").unwrap().name(), "a2");
    }
}
