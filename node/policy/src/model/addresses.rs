//! Addresses: who has them, and which identity follows.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{GroupId, Key, Model, regions::Region};
use crate::Identity;

/// Who says to have an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A node, perhaps the one that enforces.
    Node { name: Box<str>, here: bool },
    /// A pod.
    Pod(Key),
}

/// What kind of peer an address is, apart from the region it lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    World,
    Host,
    RemoteNode,
    Group(GroupId),
}

/// What an address was last found to be.
#[derive(Debug)]
pub(super) struct Bound {
    kind: Kind,
    region: Region,
    /// The group, if it is a local pod's.
    pub(super) local: Option<GroupId>,
}

#[derive(Debug, Default)]
pub(super) struct AddressState {
    /// Last come first served: an address passes from a pod that ends to the next before the first is gone.
    owners: Vec<Owner>,
    pub(super) bound: Option<Bound>,
}

/// Identities in use.
#[derive(Debug, Default)]
pub(super) struct Identities {
    /// Number, and how many prefixes and addresses have it.
    numbers: HashMap<(Kind, Region), (Identity, usize)>,
    pub(super) by_region: HashMap<Region, BTreeMap<Kind, Identity>>,
    last: u32,
}

impl Identities {
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// The number of a combination that is in use or reserved.
    fn reserved(kind: Kind, region: Region) -> Option<Identity> {
        match (kind, region) {
            // Whatever region it lies in: it is always allowed.
            (Kind::Host, _) => Some(Identity::HOST),
            (Kind::World, 0) => Some(Identity::WORLD),
            (Kind::RemoteNode, 0) => Some(Identity::REMOTE_NODE),
            _ => None,
        }
    }

    fn number(&self, kind: Kind, region: Region) -> Option<Identity> {
        Self::reserved(kind, region).or_else(|| self.numbers.get(&(kind, region)).map(|(identity, _)| *identity))
    }

    /// One more user. The number, and whether it is new.
    fn acquire(&mut self, kind: Kind, region: Region) -> (Identity, bool) {
        if let Some(identity) = Self::reserved(kind, region) {
            return (identity, false);
        }
        if let Some((identity, uses)) = self.numbers.get_mut(&(kind, region)) {
            *uses += 1;
            return (*identity, false);
        }
        // 2^31 identities later numbers would come around; a node does not live to see it.
        self.last = (self.last.max(Identity::FIRST.0 - 1) + 1) % Identity::NODE_BIT;
        let bit = if kind == Kind::RemoteNode { Identity::NODE_BIT } else { 0 };
        let identity = Identity(self.last.max(Identity::FIRST.0) | bit);
        self.numbers.insert((kind, region), (identity, 1));
        self.by_region.entry(region).or_default().insert(kind, identity);
        (identity, true)
    }

    /// One user less. Was it the last?
    fn release(&mut self, kind: Kind, region: Region) -> bool {
        let Some((_, uses)) = self.numbers.get_mut(&(kind, region)) else { return false };
        *uses -= 1;
        if *uses > 0 {
            return false;
        }
        self.numbers.remove(&(kind, region));
        if let Some(kinds) = self.by_region.get_mut(&region) {
            kinds.remove(&kind);
            if kinds.is_empty() {
                self.by_region.remove(&region);
            }
        }
        true
    }
}

impl Model {
    /// An address has one more owner, or its owner changed.
    pub(super) fn own(&mut self, address: IpAddr, owner: Owner) {
        let state = self.addresses.entry(address).or_default();
        if !state.owners.contains(&owner) {
            state.owners.push(owner);
        }
        self.settle(address);
    }

    /// An address has one owner less.
    pub(super) fn disown(&mut self, address: IpAddr, owner: &Owner) {
        if let Some(state) = self.addresses.get_mut(&address) {
            state.owners.retain(|other| other != owner);
        }
        self.settle(address);
    }

    /// Finds out what an address is now.
    pub(super) fn settle(&mut self, address: IpAddr) {
        let Some(state) = self.addresses.get(&address) else { return };
        let region = self.regions.of(address);
        // Nodes before pods, then the youngest that is not being deleted, then the youngest.
        let pods = || {
            state.owners.iter().rev().filter_map(|owner| match owner {
                Owner::Pod(key) => self.pods.get(key),
                Owner::Node { .. } => None,
            })
        };
        let node = state.owners.iter().filter_map(|owner| match owner {
            Owner::Node { here, .. } => Some(*here),
            Owner::Pod(_) => None,
        });
        let new = match (node.max(), pods().find(|pod| !pod.terminating).or_else(|| pods().next())) {
            (Some(here), _) => Some((if here { Kind::Host } else { Kind::RemoteNode }, None)),
            (None, Some(pod)) => Some((Kind::Group(pod.group), pod.local.then_some(pod.group))),
            (None, None) => None,
        };
        let new = new.map(|(kind, local)| Bound { kind, region, local });
        self.bind(address, new);
    }

    fn bind(&mut self, address: IpAddr, new: Option<Bound>) {
        let old = self.addresses.get_mut(&address).and_then(|state| state.bound.take());
        let same = |old: &Bound, new: &Bound| (old.kind, old.region) == (new.kind, new.region);
        let kept = matches!((&old, &new), (Some(old), Some(new)) if same(old, new));
        if !kept {
            if let Some(new) = &new {
                self.acquire(new.kind, new.region);
            }
            self.changed.insert(IpNet::from(address));
            if let Some(old) = &old {
                self.release(old.kind, old.region);
            }
        }
        let (was, is) = (old.and_then(|old| old.local), new.as_ref().and_then(|new| new.local));
        if was != is {
            self.dirty_endpoints.insert(address);
            if let Some(group) = was {
                self.leave(group, address);
            }
            if let Some(group) = is {
                self.join(group, address);
            }
        }
        match (new, self.addresses.get_mut(&address)) {
            (None, _) => drop(self.addresses.remove(&address)),
            (new, Some(state)) => state.bound = new,
            (Some(_), None) => {}
        }
    }

    /// Gives a combination one more user; who depends on a new number is compiled again.
    fn acquire(&mut self, kind: Kind, region: Region) {
        let (identity, fresh) = self.identities.acquire(kind, region);
        if fresh {
            if let Kind::Group(group) = kind
                && let Some(group) = self.groups.get_mut(&group)
            {
                group.identities.insert(region, identity);
            }
            self.touch_identity(kind, region);
        }
    }

    fn release(&mut self, kind: Kind, region: Region) {
        if self.identities.release(kind, region) {
            if let Kind::Group(group) = kind
                && let Some(group) = self.groups.get_mut(&group)
            {
                group.identities.remove(&region);
            }
            self.touch_identity(kind, region);
        }
    }

    /// What the trie says of a prefix: a block of one address and a pod's address are one prefix, and the pod is nearer.
    pub(super) fn published(&self, prefix: &IpNet) -> Option<Identity> {
        let host = prefix.prefix_len() == prefix.max_prefix_len();
        let bound = self.addresses.get(&prefix.addr()).filter(|_| host).and_then(|state| state.bound.as_ref());
        match bound {
            Some(bound) => self.identities.number(bound.kind, bound.region),
            None => self.identities.number(Kind::World, self.regions.named(prefix)?),
        }
    }

    /// The pod that has an address.
    pub(super) fn pod_at(&self, address: IpAddr) -> Option<&Key> {
        let owners = &self.addresses.get(&address)?.owners;
        let mut pods = owners.iter().rev().filter_map(|owner| match owner {
            Owner::Pod(key) => Some((key, self.pods.get(key)?)),
            Owner::Node { .. } => None,
        });
        let living = pods.clone().find(|(_, pod)| !pod.terminating);
        living.or_else(|| pods.next()).map(|(key, _)| key)
    }

    /// What the identity of a prefix stands for, for people.
    pub(super) fn describe(&self, prefix: &IpNet) -> String {
        let host = prefix.prefix_len() == prefix.max_prefix_len();
        let bound = self.addresses.get(&prefix.addr()).filter(|_| host).and_then(|state| state.bound.as_ref());
        let Some(bound) = bound else { return format!("addresses in {prefix}") };
        let who = match bound.kind {
            Kind::Host => return "this node".to_owned(),
            Kind::World => "no pod".to_owned(),
            Kind::RemoteNode => "other nodes".to_owned(),
            Kind::Group(group) => self.groups.get(&group).map(|group| group.key.to_string()).unwrap_or_default(),
        };
        match self.regions.prefix(bound.region) {
            Some(region) => format!("{who} in {region}"),
            None => who,
        }
    }

    /// An identity came or went: tables that speak of it must be compiled again.
    fn touch_identity(&mut self, kind: Kind, region: Region) {
        let mut peers = Vec::new();
        if let Kind::Group(group) = kind {
            peers.extend(self.groups.get(&group).into_iter().flat_map(|group| &group.peers));
        }
        if region != 0 {
            peers.extend(
                self.blocks
                    .iter()
                    .filter(|peer| self.peers.get(peer).is_some_and(|peer| peer.regions.contains(&region))),
            );
        }
        for peer in peers {
            self.touch_peer(peer);
        }
    }

    /// A prefix became a region (or is none any more): what lies in it has another identity.
    pub(super) fn split(&mut self, prefix: IpNet, region: Region, exists: bool) {
        if exists {
            self.acquire(Kind::World, region);
        }
        self.changed.insert(prefix);
        self.regions_changed = true;
        let inside: Vec<IpAddr> =
            self.addresses.range(prefix.network()..=prefix.broadcast()).map(|(address, _)| *address).collect();
        for address in inside {
            self.settle(address);
        }
        if !exists {
            self.release(Kind::World, region);
        }
    }
}
