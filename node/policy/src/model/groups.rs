//! Groups: pods that policies can tell apart by nothing but their addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    Model, PodState,
    addresses::Owner,
    policies::{PeerId, PolicyId},
    regions::Region,
};
use crate::{
    Identity, TableId,
    object::{GroupKey, Key, Peer, PodRecord},
    selector::Labels,
};

/// Number of a group, and of its table.
pub(super) type GroupId = TableId;

#[derive(Debug, Default)]
pub(super) struct NamespaceState {
    /// Of the Namespace; `None` while only its pods or policies are known: selectors of namespaces do not match it.
    labels: Option<Labels>,
    groups: BTreeSet<GroupId>,
    pub(super) policies: BTreeSet<PolicyId>,
    /// Peers that match pods of this namespace only.
    pub(super) near: BTreeSet<PeerId>,
}

impl NamespaceState {
    /// Is there a Namespace, not only something in it?
    pub(super) fn is_known(&self) -> bool {
        self.labels.is_some()
    }

    fn is_forgotten(&self) -> bool {
        self.labels.is_none() && self.groups.is_empty() && self.policies.is_empty() && self.near.is_empty()
    }
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) key: Arc<GroupKey>,
    pods: usize,
    pub(super) identities: BTreeMap<Region, Identity>,
    /// Peers that match it.
    pub(super) peers: BTreeSet<PeerId>,
    /// Addresses of its local pods. While there is one, the group has a table.
    pub(super) endpoints: BTreeSet<IpAddr>,
    /// Policies that select it, known while it has a table.
    pub(super) policies: BTreeSet<PolicyId>,
}

impl Model {
    /// A pod is as it is now, or gone.
    pub(super) fn set_pod(&mut self, key: Key, record: Option<PodRecord>) {
        let old = self.pods.remove(&key);
        let (mut before, mut after): (Box<[IpAddr]>, Box<[IpAddr]>) = Default::default();
        if let Some(record) = record {
            let group = self.acquire_group(record.group);
            let local = record.node.as_deref() == Some(self.node.as_ref());
            after.clone_from(&record.addresses);
            let state = PodState { group, addresses: record.addresses, local, terminating: record.terminating };
            self.pods.insert(key.clone(), state);
        }
        if let Some(old) = &old {
            before.clone_from(&old.addresses);
        }
        let owner = Owner::Pod(key);
        for address in before.iter().filter(|address| !after.contains(address)) {
            self.disown(*address, &owner);
        }
        for address in &after {
            self.own(*address, owner.clone());
        }
        if let Some(old) = old {
            self.release_group(old.group);
        }
    }

    /// A Namespace has these labels now, or is gone.
    pub(super) fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        let state = self.namespaces.entry(name.into()).or_default();
        if state.labels != labels {
            state.labels = labels;
            for group in state.groups.clone() {
                self.match_group(group);
            }
        }
        self.forget_namespace(name);
    }

    /// Drops what is kept about a namespace if it is nothing.
    pub(super) fn forget_namespace(&mut self, name: &str) {
        if self.namespaces.get(name).is_some_and(NamespaceState::is_forgotten) {
            self.namespaces.remove(name);
        }
    }

    fn acquire_group(&mut self, key: GroupKey) -> GroupId {
        if let Some(&id) = self.group_ids.get(&key) {
            if let Some(group) = self.groups.get_mut(&id) {
                group.pods += 1;
            }
            return id;
        }
        let id = self.next_group;
        self.next_group = id.wrapping_add(1);
        let key = Arc::new(key);
        self.group_ids.insert(key.clone(), id);
        self.namespaces.entry(key.namespace.clone()).or_default().groups.insert(id);
        self.groups.insert(
            id,
            Group {
                key,
                pods: 1,
                identities: BTreeMap::new(),
                peers: BTreeSet::new(),
                endpoints: BTreeSet::new(),
                policies: BTreeSet::new(),
            },
        );
        self.match_group(id);
        id
    }

    fn release_group(&mut self, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.pods -= 1;
        if group.pods > 0 {
            return;
        }
        let Some(group) = self.groups.remove(&id) else { return };
        self.group_ids.remove(&group.key);
        for peer in &group.peers {
            if let Some(peer) = self.peers.get_mut(peer) {
                peer.groups.remove(&id);
            }
        }
        if let Some(namespace) = self.namespaces.get_mut(&group.key.namespace) {
            namespace.groups.remove(&id);
        }
        self.forget_namespace(&group.key.namespace);
    }

    /// Does a peer match a group?
    pub(super) fn peer_matches(&self, peer: &Peer, group: &GroupKey) -> bool {
        match peer {
            Peer::Near(namespace, pods) => *namespace == group.namespace && pods.matches(&group.labels),
            Peer::Far(namespaces, pods) => {
                let labels = self.namespaces.get(&group.namespace).and_then(|namespace| namespace.labels.as_ref());
                labels.is_some_and(|labels| namespaces.matches(labels)) && pods.matches(&group.labels)
            }
            Peer::Pods => true,
            Peer::Block(..) => false,
        }
    }

    /// Finds the peers that match a group now.
    fn match_group(&mut self, id: GroupId) {
        let Some(group) = self.groups.get(&id) else { return };
        let key = group.key.clone();
        let near = self.namespaces.get(&key.namespace).into_iter().flat_map(|namespace| &namespace.near);
        let found: BTreeSet<PeerId> = near
            .chain(&self.wide)
            .filter(|peer| self.peers.get(peer).is_some_and(|peer| self.peer_matches(&peer.peer, &key)))
            .copied()
            .collect();
        let old = group.peers.clone();
        for peer in old.symmetric_difference(&found) {
            if let Some(state) = self.peers.get_mut(peer) {
                if found.contains(peer) {
                    state.groups.insert(id);
                } else {
                    state.groups.remove(&id);
                }
            }
            // A group without addresses is in no table yet.
            if self.groups.get(&id).is_some_and(|group| !group.identities.is_empty()) {
                self.touch_peer(*peer);
            }
        }
        if let Some(group) = self.groups.get_mut(&id) {
            group.peers = found;
        }
    }

    /// A local pod's address is now of this group.
    pub(super) fn join(&mut self, id: GroupId, address: IpAddr) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        if !group.endpoints.insert(address) || group.endpoints.len() > 1 {
            return;
        }
        let key = group.key.clone();
        let of_namespace = self.namespaces.get(&key.namespace).into_iter().flat_map(|namespace| &namespace.policies);
        let selecting: BTreeSet<PolicyId> = of_namespace
            .filter(|policy| self.policies.get(policy).is_some_and(|p| p.record.subjects.matches(&key.labels)))
            .copied()
            .collect();
        for policy in &selecting {
            if let Some(policy) = self.policies.get_mut(policy) {
                policy.subjects.insert(id);
            }
        }
        if let Some(group) = self.groups.get_mut(&id) {
            group.policies = selecting;
        }
        self.dirty_tables.insert(id);
    }

    /// A local pod's address is not of this group any more.
    pub(super) fn leave(&mut self, id: GroupId, address: IpAddr) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.endpoints.remove(&address);
        if !group.endpoints.is_empty() {
            return;
        }
        for policy in std::mem::take(&mut group.policies) {
            if let Some(policy) = self.policies.get_mut(&policy) {
                policy.subjects.remove(&id);
            }
        }
        self.dirty_tables.insert(id);
    }

    /// Groups of a namespace that have a table and that a test holds for.
    pub(super) fn local_groups(&self, namespace: &str, wanted: impl Fn(&Group) -> bool) -> BTreeSet<GroupId> {
        let all = self.namespaces.get(namespace).into_iter().flat_map(|namespace| &namespace.groups);
        let local =
            |id: &&GroupId| self.groups.get(id).is_some_and(|group| !group.endpoints.is_empty() && wanted(group));
        all.filter(local).copied().collect()
    }
}
