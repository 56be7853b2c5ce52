//! What all changes so far add up to: the content the kernel's maps should have.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;

use crate::{Changes, Direction, Endpoint, Entry, Identity, TableId};

/// The maps' content. Answers by the same lookups as the kernel programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirror {
    /// Prefix → identity, longest match.
    pub identities: HashMap<IpNet, Identity>,
    /// Local pod's address → table.
    pub endpoints: HashMap<IpAddr, Endpoint>,
    /// The tables' entries.
    pub tables: BTreeMap<TableId, BTreeSet<Entry>>,
}

impl Mirror {
    /// Takes changes over.
    pub fn apply(&mut self, changes: &Changes) {
        for (prefix, identity) in &changes.identities {
            match identity {
                Some(identity) => drop(self.identities.insert(*prefix, *identity)),
                None => drop(self.identities.remove(prefix)),
            }
        }
        for (address, endpoint) in &changes.endpoints {
            match endpoint {
                Some(endpoint) => drop(self.endpoints.insert(*address, *endpoint)),
                None => drop(self.endpoints.remove(address)),
            }
        }
        for change in &changes.tables {
            let table = self.tables.entry(change.table).or_default();
            for entry in &change.removed {
                table.remove(entry);
            }
            table.extend(&change.added);
            if table.is_empty() {
                self.tables.remove(&change.table);
            }
        }
    }

    /// The identity of an address.
    pub fn identity(&self, address: IpAddr) -> Identity {
        let host = IpNet::from(address);
        let longest = (0..=host.prefix_len()).rev().find_map(|bits| {
            let prefix = IpNet::new(address, bits).ok()?.trunc();
            self.identities.get(&prefix)
        });
        longest.copied().unwrap_or(Identity::WORLD)
    }

    /// May a connection between the pod at `pod` and `peer` be opened, as far as the pod's own policies go? `port` is the
    /// destination's, 0 for protocols without ports.
    pub fn allows(&self, pod: IpAddr, direction: Direction, peer: IpAddr, protocol: u8, port: u16) -> bool {
        let Some(endpoint) = self.endpoints.get(&pod) else { return true };
        if !endpoint.isolated(direction) || pod == peer {
            return true;
        }
        let identity = self.identity(peer);
        if identity == Identity::HOST {
            return true;
        }
        let Some(table) = self.tables.get(&endpoint.table) else { return false };
        table.iter().any(|entry| {
            entry.direction == direction
                && (entry.identity == identity || entry.identity == Identity::ANY)
                && (entry.protocol == 0 || entry.protocol == protocol && (entry.low..=entry.high).contains(&port))
        })
    }
}
