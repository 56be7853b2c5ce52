//! The model: what the API says, kept so that one object's change finds what depends on it.
//!
//! Who depends on what: an address on its owner and on the blocks it lies in; an identity on the addresses that have it; a
//! peer of a rule on the groups it matches; a table on the peers of the policies that select its group. Each arrow is
//! kept in both directions, so a change walks along it and recompiles only tables at its end. Tables are compiled in
//! [`Model::changes`], once, however many changes came before.

mod addresses;
mod compile;
mod groups;
mod policies;
mod regions;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod},
    networking::v1::NetworkPolicy,
};

use self::{
    addresses::{AddressState, Identities, Owner},
    groups::{Group, GroupId, NamespaceState},
    policies::{PeerId, PeerState, PolicyId, PolicyState},
    regions::Regions,
};
use crate::{
    Endpoint, Entry, Identity, PodId, Table, TableId,
    object::{self, GroupKey, Key, Peer},
    selector::Labels,
};

/// What is to be written, in any number of steps after the former changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New identities of prefixes; `None` where one is gone.
    pub identities: BTreeMap<IpNet, Option<Identity>>,
    /// New endpoints of local pods' addresses; `None` where one is gone.
    pub endpoints: BTreeMap<IpAddr, Option<Endpoint>>,
    /// Differences of tables.
    pub tables: Vec<TableChange>,
    /// Did blocks come or go, so that addresses may have another identity without an entry of their own changing?
    pub regions: bool,
    /// For people: what the identities above stand for.
    pub names: BTreeMap<Identity, String>,
    /// For people: whose the endpoints above are.
    pub pods: BTreeMap<IpAddr, PodId>,
}

impl Changes {
    /// Is there nothing to write?
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty() && self.endpoints.is_empty() && self.tables.is_empty()
    }
}

/// Entries that come and go. What changes only in size is both: write what is added before removing the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableChange {
    /// Which table.
    pub table: TableId,
    /// New entries.
    pub added: Vec<Entry>,
    /// Entries that are no more.
    pub removed: Vec<Entry>,
}

/// A pod the model knows.
#[derive(Debug)]
struct PodState {
    group: GroupId,
    addresses: Box<[IpAddr]>,
    local: bool,
    terminating: bool,
}

/// NetworkPolicy as seen from one node. See the crate's documentation.
#[derive(Debug, Default)]
pub struct Model {
    node: Box<str>,
    namespaces: HashMap<Arc<str>, NamespaceState>,
    pods: HashMap<Key, PodState>,
    nodes: HashMap<Box<str>, Box<[IpAddr]>>,

    groups: HashMap<GroupId, Group>,
    group_ids: HashMap<Arc<GroupKey>, GroupId>,
    next_group: GroupId,

    policies: HashMap<PolicyId, PolicyState>,
    policy_ids: HashMap<Key, PolicyId>,
    next_policy: PolicyId,

    peers: HashMap<PeerId, PeerState>,
    peer_ids: HashMap<Arc<Peer>, PeerId>,
    next_peer: PeerId,
    /// Peers that may match groups of any namespace.
    wide: BTreeSet<PeerId>,
    /// Peers that are blocks.
    blocks: BTreeSet<PeerId>,

    regions: Regions,
    regions_changed: bool,
    addresses: BTreeMap<IpAddr, AddressState>,
    identities: Identities,

    tables: HashMap<GroupId, Table>,
    dirty_tables: BTreeSet<GroupId>,
    dirty_endpoints: BTreeSet<IpAddr>,
    changed: BTreeSet<IpNet>,
    compiled: u64,
}

impl Model {
    /// An empty cluster, seen from the node of this name.
    pub fn new(node: &str) -> Self {
        Self { node: node.into(), next_group: 1, ..Self::default() }
    }

    /// How many tables were compiled so far. Tells whether a change touched more than it had to.
    pub fn compiled(&self) -> u64 {
        self.compiled
    }

    /// How many identities are in use, reserved ones apart.
    pub fn identities(&self) -> usize {
        self.identities.len()
    }

    /// A Namespace was created or changed.
    pub fn apply_namespace(&mut self, namespace: &Namespace) {
        let name = namespace.metadata.name.as_deref().unwrap_or_default();
        self.set_namespace(name, Some(Labels::new(namespace.metadata.labels.as_ref())));
    }

    /// A Namespace is gone. Its pods and policies are gone when they are said to be.
    pub fn remove_namespace(&mut self, name: &str) {
        self.set_namespace(name, None);
    }

    /// A Pod was created or changed.
    pub fn apply_pod(&mut self, pod: &Pod) {
        self.set_pod(Key::of(&pod.metadata), object::pod(pod));
    }

    /// A Pod is gone.
    pub fn remove_pod(&mut self, namespace: &str, name: &str) {
        self.set_pod(Key::new(namespace, name), None);
    }

    /// A NetworkPolicy was created or changed.
    pub fn apply_policy(&mut self, policy: &NetworkPolicy) {
        self.set_policy(Key::of(&policy.metadata), Some(object::policy(policy)));
    }

    /// A NetworkPolicy is gone.
    pub fn remove_policy(&mut self, namespace: &str, name: &str) {
        self.set_policy(Key::new(namespace, name), None);
    }

    /// A Node was created or changed.
    pub fn apply_node(&mut self, node: &Node) {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        self.set_node(name, object::node_addresses(node));
    }

    /// A Node is gone.
    pub fn remove_node(&mut self, name: &str) {
        self.set_node(name, Vec::new());
    }

    /// Does a policy select pods with these labels in this namespace?
    pub(crate) fn selects(&self, namespace: &str, labels: &Labels) -> bool {
        let policies = self.namespaces.get(namespace).into_iter().flat_map(|namespace| &namespace.policies);
        policies.filter_map(|policy| self.policies.get(policy)).any(|policy| policy.record.subjects.matches(labels))
    }

    /// How many policies there are.
    pub fn policies(&self) -> usize {
        self.policy_ids.len()
    }

    /// Every Pod that counts: keys of what [`Model::apply_pod`] was told.
    pub(crate) fn pod_keys(&self) -> impl Iterator<Item = &Key> {
        self.pods.keys()
    }

    /// Every NetworkPolicy.
    pub(crate) fn policy_keys(&self) -> impl Iterator<Item = &Key> {
        self.policy_ids.keys()
    }

    /// Every Namespace that has labels, of which there is always one in a cluster (its name).
    pub(crate) fn namespace_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.namespaces.iter().filter(|(_, state)| state.is_known()).map(|(name, _)| name)
    }

    /// Every Node that has addresses.
    pub(crate) fn node_names(&self) -> impl Iterator<Item = &str> {
        self.nodes.keys().map(|name| &**name)
    }

    fn set_node(&mut self, name: &str, addresses: Vec<IpAddr>) {
        let old = self.nodes.insert(name.into(), addresses.clone().into()).unwrap_or_default();
        if addresses.is_empty() {
            self.nodes.remove(name);
        }
        let owner = Owner::Node { name: name.into(), here: name == self.node.as_ref() };
        for address in old.iter().filter(|address| !addresses.contains(address)) {
            self.disown(*address, &owner);
        }
        for address in addresses.iter().filter(|address| !old.contains(address)) {
            self.own(*address, owner.clone());
        }
    }

    /// What changed since this was last called.
    pub fn changes(&mut self) -> Changes {
        let mut tables = Vec::new();
        for group in std::mem::take(&mut self.dirty_tables) {
            self.compiled += 1;
            let new = self.compile(group).unwrap_or_default();
            let old = self.tables.remove(&group).unwrap_or_default();
            if (old.ingress, old.egress) != (new.ingress, new.egress)
                && let Some(group) = self.groups.get(&group)
            {
                self.dirty_endpoints.extend(&group.endpoints);
            }
            let (added, removed) = (new.beyond(&old), old.beyond(&new));
            if !added.is_empty() || !removed.is_empty() {
                tables.push(TableChange { table: group, added, removed });
            }
            if new != Table::default() {
                self.tables.insert(group, new);
            }
        }
        let (mut endpoints, mut pods) = (BTreeMap::new(), BTreeMap::new());
        for address in std::mem::take(&mut self.dirty_endpoints) {
            let group =
                self.addresses.get(&address).and_then(|state| state.bound.as_ref()).and_then(|bound| bound.local);
            let endpoint = group.map(|group| {
                let (ingress, egress) = self.tables.get(&group).map_or((false, false), |t| (t.ingress, t.egress));
                Endpoint { table: group, ingress, egress }
            });
            endpoints.insert(address, endpoint);
            pods.extend(self.pod_at(address).map(|pod| (address, pod.clone())));
        }
        let (mut identities, mut names) = (BTreeMap::new(), BTreeMap::new());
        for prefix in std::mem::take(&mut self.changed) {
            let identity = self.published(&prefix);
            identities.insert(prefix, identity);
            if let Some(identity) = identity {
                names.entry(identity).or_insert_with(|| self.describe(&prefix));
            }
        }
        let regions = std::mem::take(&mut self.regions_changed);
        Changes { identities, endpoints, tables, regions, names, pods }
    }
}
