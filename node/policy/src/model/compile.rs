//! A group's table from the policies that select it.

use super::{Model, groups::Group, groups::GroupId, policies::names_ports};
use crate::{
    Direction, Entry, Identity, Table,
    object::{GroupKey, Peer, Ports, Rule},
};

impl Model {
    /// The table of a group that has local pods.
    pub(super) fn compile(&self, id: GroupId) -> Option<Table> {
        let group = self.groups.get(&id).filter(|group| !group.endpoints.is_empty())?;
        let (mut ingress, mut egress, mut entries) = (false, false, Vec::new());
        for policy in group.policies.iter().filter_map(|policy| self.policies.get(policy)) {
            if let Some(rules) = &policy.record.ingress {
                ingress = true;
                rules.iter().for_each(|rule| self.expand(Direction::Ingress, group, rule, &mut entries));
            }
            if let Some(rules) = &policy.record.egress {
                egress = true;
                rules.iter().for_each(|rule| self.expand(Direction::Egress, group, rule, &mut entries));
            }
        }
        Some(Table::new(ingress, egress, entries))
    }

    fn expand(&self, direction: Direction, subject: &Group, rule: &Rule, entries: &mut Vec<Entry>) {
        let mut emit = |identity: Identity, peer: Option<&GroupKey>| {
            // Named ports are those of the pod a connection goes to.
            let destination = match direction {
                Direction::Ingress => Some(&*subject.key),
                Direction::Egress => peer,
            };
            allow(direction, identity, rule, destination, entries);
        };
        let Some(peers) = &rule.peers else {
            emit(Identity::ANY, None);
            if direction == Direction::Egress && names_ports(rule) {
                self.each(&Peer::Pods, &mut emit);
            }
            return;
        };
        for peer in peers {
            self.each(peer, &mut emit);
        }
    }

    /// The identities a peer stands for, with the group of each that is a pod's.
    fn each(&self, peer: &Peer, emit: &mut impl FnMut(Identity, Option<&GroupKey>)) {
        let Some(state) = self.peer_ids.get(peer).and_then(|id| self.peers.get(id)) else { return };
        for group in state.groups.iter().filter_map(|group| self.groups.get(group)) {
            for identity in group.identities.values() {
                emit(*identity, Some(&group.key));
            }
        }
        for region in &state.regions {
            for (kind, identity) in self.identities.by_region.get(region).into_iter().flatten() {
                let group = match kind {
                    super::addresses::Kind::Group(group) => self.groups.get(group),
                    _ => None,
                };
                emit(*identity, group.map(|group| &*group.key));
            }
        }
    }
}

fn allow(
    direction: Direction,
    identity: Identity,
    rule: &Rule,
    destination: Option<&GroupKey>,
    entries: &mut Vec<Entry>,
) {
    let Some(ports) = &rule.ports else {
        entries.push(Entry { direction, identity, protocol: 0, low: 0, high: u16::MAX });
        return;
    };
    for port in ports {
        match port {
            Ports::Range(protocol, low, high) => {
                entries.push(Entry { direction, identity, protocol: *protocol, low: *low, high: *high });
            }
            Ports::Named(protocol, name) => {
                let all = destination.into_iter().flat_map(|group| &group.ports);
                for (_, _, number) in all.filter(|(n, p, _)| n == name && p == protocol) {
                    entries.push(Entry { direction, identity, protocol: *protocol, low: *number, high: *number });
                }
            }
        }
    }
}
