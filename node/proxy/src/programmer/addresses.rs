//! What `ADDRESSES` says: the mirror of it, with the reasons.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
};

use skep_ebpf_common::{Address, AddressValue, address_bits};

use super::{Writes, room};
use crate::{
    Result,
    maps::Table,
    service::{Kind, from_map, to_map},
};

/// Why an address is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reasons {
    /// Number of frontends that make it a Service's own.
    whole: u32,
    /// Number of frontends at an address shared with others.
    partial: u32,
    /// It is this node's, in that network namespace (zero: any).
    node: Option<u64>,
}

impl Reasons {
    fn value(self) -> AddressValue {
        let bit = |set: bool, bit: u32| if set { bit } else { 0 };
        let bits = bit(self.whole > 0, address_bits::WHOLE)
            | bit(self.partial > 0, address_bits::PARTIAL)
            | bit(self.node.is_some(), address_bits::NODE);
        AddressValue { bits, pad: 0, netns: self.node.unwrap_or(0) }
    }

    fn of(&mut self, kind: Kind) -> Option<&mut u32> {
        match kind {
            Kind::ClusterIP => Some(&mut self.whole),
            Kind::LoadBalancer | Kind::ExternalIP => Some(&mut self.partial),
            Kind::NodePort | Kind::HostPort => None,
        }
    }
}

/// The known addresses.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    known: HashMap<Address, Reasons>,
}

impl Addresses {
    /// From what the maps hold: each frontend, and the node's addresses as the map has them. Makes the map fit.
    pub(super) fn recover(
        frontends: impl Iterator<Item = (IpAddr, Kind)>,
        map: &mut Table<Address, AddressValue>,
        writes: &mut Writes,
    ) -> Result<Self> {
        let mut known: HashMap<Address, Reasons> = HashMap::new();
        for (address, kind) in frontends {
            let count = |reasons: &mut Reasons| reasons.of(kind).map(|count| *count += 1);
            let mut reasons = Reasons::default();
            if count(&mut reasons).is_some() {
                count(known.entry(to_map(address)).or_default());
            }
        }
        let stored: HashMap<Address, AddressValue> = map.entries()?.into_iter().collect();
        for (address, value) in &stored {
            if value.bits & address_bits::NODE != 0 {
                known.entry(*address).or_default().node = Some(value.netns);
            }
        }
        for (address, reasons) in &known {
            if stored.get(address) != Some(&reasons.value()) {
                map.insert(address, &reasons.value())?;
                writes.updates += 1;
            }
        }
        for address in stored.keys().filter(|address| !known.contains_key(*address)) {
            map.remove(address)?;
            writes.deletes += 1;
        }
        Ok(Self { known })
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// Every address with its value.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Address, AddressValue)> + '_ {
        self.known.iter().map(|(address, reasons)| (*address, reasons.value()))
    }

    /// One frontend of that kind more has this address.
    pub(super) fn claim(
        &mut self,
        address: IpAddr,
        kind: Kind,
        map: &mut Table<Address, AddressValue>,
        writes: &mut Writes,
    ) -> Result<()> {
        self.change(to_map(address), map, writes, |reasons| {
            if let Some(count) = reasons.of(kind) {
                *count += 1;
            }
        })
    }

    /// One frontend of that kind less has this address.
    pub(super) fn release(
        &mut self,
        address: IpAddr,
        kind: Kind,
        map: &mut Table<Address, AddressValue>,
        writes: &mut Writes,
    ) -> Result<()> {
        self.change(to_map(address), map, writes, |reasons| {
            if let Some(count) = reasons.of(kind) {
                *count = count.saturating_sub(1);
            }
        })
    }

    /// These are the node's addresses, and no others.
    pub(super) fn set_node(
        &mut self,
        addresses: &HashMap<IpAddr, u64>,
        map: &mut Table<Address, AddressValue>,
        writes: &mut Writes,
    ) -> Result<()> {
        let mut result = Ok(());
        let former = self.known.iter().filter(|(_, reasons)| reasons.node.is_some());
        let gone: Vec<Address> = former
            .map(|(address, _)| *address)
            .filter(|address| !addresses.contains_key(&from_map(*address)))
            .collect();
        for address in gone {
            result = result.and(self.change(address, map, writes, |reasons| reasons.node = None));
        }
        for (address, netns) in addresses {
            result = result.and(self.change(to_map(*address), map, writes, |reasons| reasons.node = Some(*netns)));
        }
        result
    }

    fn change(
        &mut self,
        address: Address,
        map: &mut Table<Address, AddressValue>,
        writes: &mut Writes,
        change: impl FnOnce(&mut Reasons),
    ) -> Result<()> {
        let used = self.known.len();
        let (before, mut after) = match self.known.entry(address) {
            Entry::Occupied(entry) => (Some(*entry.get()), *entry.get()),
            Entry::Vacant(_) => (None, Reasons::default()),
        };
        change(&mut after);
        if after == Reasons::default() {
            if before.is_some() {
                map.remove(&address)?;
                writes.deletes += 1;
                self.known.remove(&address);
            }
            return Ok(());
        }
        if before.map(Reasons::value) != Some(after.value()) {
            if before.is_none() {
                room(map, used, 1)?;
            }
            map.insert(&address, &after.value())?;
            writes.updates += 1;
        }
        self.known.insert(address, after);
        Ok(())
    }
}
