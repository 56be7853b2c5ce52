//! Policies, and the peers they share.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    Model,
    groups::GroupId,
    regions::{Region, covers},
};
use crate::object::{Key, Peer, PolicyRecord, Ports, Rule};

pub(super) type PolicyId = u32;
pub(super) type PeerId = u32;

#[derive(Debug)]
pub(super) struct PolicyState {
    pub(super) record: PolicyRecord,
    /// Local groups it selects.
    pub(super) subjects: BTreeSet<GroupId>,
}

#[derive(Debug)]
pub(super) struct PeerState {
    pub(super) peer: Arc<Peer>,
    /// Policies that name it, and how often.
    users: BTreeMap<PolicyId, usize>,
    /// Groups it matches.
    pub(super) groups: BTreeSet<GroupId>,
    /// Regions it covers.
    pub(super) regions: BTreeSet<Region>,
}

/// Must the pods behind "everybody" be looked at one by one?
pub(super) fn names_ports(rule: &Rule) -> bool {
    rule.ports.iter().flatten().any(|port| matches!(port, Ports::Named(..)))
}

/// Every peer a policy names.
fn peers_of(record: &PolicyRecord) -> Vec<Peer> {
    let rules = record.ingress.iter().chain(&record.egress).flatten();
    let mut peers: Vec<Peer> = rules.flat_map(|rule| rule.peers.iter().flatten().cloned()).collect();
    if record.egress.iter().flatten().any(|rule| rule.peers.is_none() && names_ports(rule)) {
        peers.push(Peer::Pods);
    }
    peers
}

impl Model {
    /// A policy is as it is now, or gone.
    pub(super) fn set_policy(&mut self, key: Key, record: Option<PolicyRecord>) {
        let known = self.policy_ids.get(&key).copied();
        if let (Some(id), Some(new)) = (known, &record)
            && self.policies.get(&id).is_some_and(|policy| policy.record == *new)
        {
            return;
        }
        // New before old: peers and regions that stay are never gone in between, and keep their numbers.
        if let Some(record) = record {
            let id = self.next_policy;
            self.next_policy = id.wrapping_add(1);
            for peer in peers_of(&record) {
                self.acquire_peer(peer, id);
            }
            let subjects = self.local_groups(&key.namespace, |group| record.subjects.matches(&group.key.labels));
            for group in &subjects {
                if let Some(group) = self.groups.get_mut(group) {
                    group.policies.insert(id);
                }
            }
            self.dirty_tables.extend(&subjects);
            self.policies.insert(id, PolicyState { record, subjects });
            self.namespaces.entry(key.namespace.clone()).or_default().policies.insert(id);
            self.policy_ids.insert(key.clone(), id);
        } else {
            self.policy_ids.remove(&key);
        }
        if let Some(id) = known {
            self.drop_policy(&key.namespace, id);
        }
    }

    fn drop_policy(&mut self, namespace: &str, id: PolicyId) {
        let Some(policy) = self.policies.remove(&id) else { return };
        for group in &policy.subjects {
            if let Some(group) = self.groups.get_mut(group) {
                group.policies.remove(&id);
            }
        }
        self.dirty_tables.extend(&policy.subjects);
        for peer in peers_of(&policy.record) {
            self.release_peer(&peer, id);
        }
        if let Some(namespace) = self.namespaces.get_mut(namespace) {
            namespace.policies.remove(&id);
        }
        self.forget_namespace(namespace);
    }

    fn acquire_peer(&mut self, peer: Peer, user: PolicyId) {
        if let Some(id) = self.peer_ids.get(&peer) {
            if let Some(state) = self.peers.get_mut(id) {
                *state.users.entry(user).or_default() += 1;
            }
            return;
        }
        let id = self.next_peer;
        self.next_peer = id.wrapping_add(1);
        let peer = Arc::new(peer);
        self.peer_ids.insert(peer.clone(), id);
        let groups: BTreeSet<GroupId> = match &*peer {
            Peer::Block(..) => BTreeSet::new(),
            // A whole pass over the groups, once for each new peer.
            _ => self.groups.iter().filter(|(_, g)| self.peer_matches(&peer, &g.key)).map(|(id, _)| *id).collect(),
        };
        for group in &groups {
            if let Some(group) = self.groups.get_mut(group) {
                group.peers.insert(id);
            }
        }
        let users = BTreeMap::from([(user, 1)]);
        self.peers.insert(id, PeerState { peer: peer.clone(), users, groups, regions: BTreeSet::new() });
        match &*peer {
            Peer::Near(namespace, _) => {
                self.namespaces.entry(namespace.clone()).or_default().near.insert(id);
            }
            Peer::Far(..) | Peer::Pods => {
                self.wide.insert(id);
            }
            Peer::Block(cidr, except) => {
                self.blocks.insert(id);
                let regions = self.regions.within(cidr, except);
                if let Some(state) = self.peers.get_mut(&id) {
                    state.regions = regions;
                }
                for prefix in std::iter::once(cidr).chain(except.iter()) {
                    self.add_prefix(*prefix);
                }
            }
        }
    }

    fn release_peer(&mut self, peer: &Peer, user: PolicyId) {
        let Some(&id) = self.peer_ids.get(peer) else { return };
        let Some(state) = self.peers.get_mut(&id) else { return };
        if let Some(count) = state.users.get_mut(&user) {
            *count -= 1;
            if *count == 0 {
                state.users.remove(&user);
            }
        }
        if !state.users.is_empty() {
            return;
        }
        let Some(state) = self.peers.remove(&id) else { return };
        self.peer_ids.remove(peer);
        for group in &state.groups {
            if let Some(group) = self.groups.get_mut(group) {
                group.peers.remove(&id);
            }
        }
        match peer {
            Peer::Near(namespace, _) => {
                if let Some(state) = self.namespaces.get_mut(namespace) {
                    state.near.remove(&id);
                }
                self.forget_namespace(namespace);
            }
            Peer::Far(..) | Peer::Pods => {
                self.wide.remove(&id);
            }
            Peer::Block(cidr, except) => {
                self.blocks.remove(&id);
                for prefix in std::iter::once(cidr).chain(except.iter()) {
                    if let Some(region) = self.regions.remove(*prefix) {
                        self.split(*prefix, region, false);
                        for block in &self.blocks {
                            if let Some(state) = self.peers.get_mut(block) {
                                state.regions.remove(&region);
                            }
                        }
                    }
                }
            }
        }
    }

    fn add_prefix(&mut self, prefix: IpNet) {
        let Some(region) = self.regions.add(prefix) else { return };
        for block in &self.blocks {
            if let Some(state) = self.peers.get_mut(block)
                && let Peer::Block(cidr, except) = &*state.peer
                && covers(cidr, except, &prefix)
            {
                state.regions.insert(region);
            }
        }
        self.split(prefix, region, true);
    }

    /// What a peer stands for changed: tables of policies that name it must be compiled again.
    pub(super) fn touch_peer(&mut self, peer: PeerId) {
        let Some(peer) = self.peers.get(&peer) else { return };
        for policy in peer.users.keys() {
            if let Some(policy) = self.policies.get(policy) {
                self.dirty_tables.extend(&policy.subjects);
            }
        }
    }
}
