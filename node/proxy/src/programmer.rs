//! Writes services into the maps, so that no program ever sees a half-made change.
//!
//! Order of a change: names, new backends, the new generation's slots; then the service's entry is replaced (the flip, for
//! all its frontends); then the old slots and the backends nobody uses go. A program that read the old entry before the
//! flip may miss an old slot; it looks the service up again. Frontends come last and go first, so that each leads to a
//! service that is there.
//!
//! Cost: proportional to the service that changes. The mirror kept here never asks the maps after it was read once.

mod addresses;
mod check;
mod entries;
mod ids;
mod locals;
mod plan;
mod recover;
mod room;

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    path::Path,
};

use skep_ebpf_common::{FrontendKey, FrontendValue, ServiceValue};

pub(crate) use self::room::Refused;
use self::{addresses::Addresses, entries::erase, ids::Ids, plan::Plan};
use crate::{
    Error, Result,
    maps::{ServiceMaps, Table},
    service::{Backend, Family, Frontend, Kind, Protocol, Service, ServicePort, ServiceTable},
    sockets::Gone,
};

/// Map writes so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    /// Entries inserted or replaced.
    pub updates: u64,
    /// Entries removed.
    pub deletes: u64,
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Name of the map.
    pub map: &'static str,
    /// Entries in it.
    pub used: usize,
    /// Entries it can hold.
    pub capacity: usize,
}

/// What the maps say about one service port.
#[derive(Debug)]
struct Live {
    id: u32,
    generation: u32,
    /// Number of slots of that generation.
    count: usize,
    service: Service,
    backends: Vec<Placed>,
    /// Do all those slots lead to these backends? Not after a recovery from damaged maps.
    whole: bool,
}

/// A backend in the maps.
#[derive(Clone, Copy, Debug)]
struct Placed {
    id: u32,
    backend: Backend,
}

/// Owner of the service maps.
#[derive(Debug)]
pub struct Programmer {
    maps: ServiceMaps,
    services: HashMap<ServicePort, Live>,
    /// Whose each frontend in the maps is.
    owners: HashMap<Frontend, ServicePort>,
    addresses: Addresses,
    slots: usize,
    service_ids: Ids,
    backend_ids: Ids,
    writes: Writes,
    batching: bool,
    /// Backends that UDP service ports have lost, until somebody takes them.
    gone: Vec<Gone>,
}

impl Programmer {
    /// Opens the maps pinned below `<bpf root>/v<layout>/maps` and reads what they hold. Leftovers of a change that was
    /// cut short are removed.
    ///
    /// # Errors
    /// When the maps are absent, of another layout, or cannot be read.
    pub(crate) fn open(maps: &Path) -> Result<Self> {
        recover::recover(ServiceMaps::open(maps)?)
    }

    /// Makes one service port look like `service`. A frontend that another service port has is taken over. Returns whether
    /// anything had to be written.
    ///
    /// # Errors
    /// When a map is full or refuses a write. What was served before the call is still served, or already what is wanted.
    pub fn apply(&mut self, port: &ServicePort, service: &Service) -> Result<bool> {
        let Some(live) = self.services.get(port) else {
            self.add(port, service)?;
            return Ok(true);
        };
        if live.whole && live.service == *service {
            return Ok(false);
        }
        let same_choice = live.whole && {
            let (a, b) = (&live.service, service);
            (&a.cluster, &a.places) == (&b.cluster, &b.places)
                && a.local == b.local
                && (a.internal_local, a.external_local) == (b.internal_local, b.external_local)
                && (a.affinity, a.maglev) == (b.affinity, b.maglev)
                && (&a.source_ranges, a.deny_ranges) == (&b.source_ranges, b.deny_ranges)
        };
        if !same_choice {
            self.replace(port, service)?;
        }
        self.sync_frontends(port, service)?;
        Ok(true)
    }

    /// Removes one service port. Returns whether it was there.
    ///
    /// # Errors
    /// When a map refuses the write. Either the port is still served, or it is gone and leaves entries nobody reads, which
    /// the next start removes.
    pub fn remove(&mut self, port: &ServicePort) -> Result<bool> {
        let Some(live) = self.services.get(port) else { return Ok(false) };
        let id = live.id;
        let frontends: Vec<Frontend> = live.service.frontends.keys().copied().collect();
        self.drop_frontends(port, &frontends)?;
        self.maps.services.remove(&id)?;
        self.writes.deletes += 1;
        let Some(live) = self.services.remove(port) else { return Ok(false) };
        // A part that cannot be removed does not keep the others.
        let result = self.drop_slots(live.id, live.generation, live.count);
        let result = result.and(self.drop_backends(live.id, &live.backends));
        let result = result.and(self.drop_ranges(live.id, &live.service.source_ranges));
        let result = result.and(self.maps.info.remove(&live.id));
        self.writes.deletes += 1;
        self.service_ids.release(live.id);
        // Counts nothing depends on; absent if the service was never used.
        let _ = self.maps.service_stats.remove(&live.id);
        result.map(|()| true)
    }

    /// Makes the maps equal to `table`, writing only what differs. Goes on past services that cannot be written and
    /// returns the first error after the rest is done.
    ///
    /// # Errors
    /// As [`Programmer::apply`] and [`Programmer::remove`].
    pub fn sync(&mut self, table: &ServiceTable) -> Result<()> {
        let mut result = Ok(());
        let gone: Vec<ServicePort> = self.ports().filter(|port| !table.contains_key(port)).cloned().collect();
        for port in gone {
            result = result.and(self.remove(&port).map(drop));
        }
        for (port, service) in table {
            result = result.and(self.apply(port, service).map(drop));
        }
        result
    }

    /// Says which addresses are this node's: node ports are served there. An address with a network namespace (its cookie)
    /// counts only for sockets in that one. Returns whether anything had to be written.
    ///
    /// # Errors
    /// When the map is full or refuses a write; the rest is done all the same.
    pub fn set_node_addresses(&mut self, addresses: &HashMap<IpAddr, u64>) -> Result<bool> {
        let before = self.writes;
        self.addresses.set_node(addresses, &mut self.maps.addresses, &mut self.writes)?;
        Ok(self.writes != before)
    }

    /// Every service port in the maps.
    pub fn ports(&self) -> impl Iterator<Item = &ServicePort> + '_ {
        self.services.keys()
    }

    /// Writes since the maps were opened.
    pub fn writes(&self) -> Writes {
        self.writes
    }

    /// Whether several writes to one map go in one call (they do by default).
    pub fn set_batching(&mut self, batching: bool) {
        self.batching = batching;
    }

    /// Backends that UDP service ports have lost, each with those of its frontends at which it is not to be had any more;
    /// those that have no backend that `stays` are told once, the others when they do not stay any more.
    pub(crate) fn take_gone(&mut self, stays: impl Fn(&Frontend, SocketAddr) -> bool) -> Vec<Gone> {
        let (mut left, mut staying): (Vec<Gone>, Vec<Gone>) = Default::default();
        for Gone { backend, mut frontends } in std::mem::take(&mut self.gone) {
            // Another service port may have taken both over, as when it was renamed.
            frontends.retain(|frontend| {
                let owner = self.owners.get(frontend).and_then(|owner| self.services.get(owner));
                !owner.is_some_and(|live| live.backends.iter().any(|placed| placed.backend.address == backend))
            });
            let (stay, frontends): (Vec<_>, Vec<_>) =
                frontends.into_iter().partition(|frontend| stays(frontend, backend));
            for (list, frontends) in [(&mut left, frontends), (&mut staying, stay)] {
                let gone = Gone { backend, frontends };
                if !gone.frontends.is_empty() && !list.contains(&gone) {
                    list.push(gone);
                }
            }
        }
        self.gone = staying;
        left
    }

    /// Notes a backend to which a socket was sent that asked for an address, as if it had just gone from there. A former
    /// daemon may have known of one that stays and goes later; of those that are there nothing comes.
    pub(crate) fn note_asked(&mut self, address: SocketAddr, backend: SocketAddr) {
        let exact = Frontend { address: address.ip(), port: address.port(), protocol: Protocol::Udp };
        let any = Frontend { address: Family::of(address.ip()).unspecified(), ..exact };
        let known = [exact, any].into_iter().find(|frontend| self.owners.contains_key(frontend));
        self.gone.extend(known.map(|frontend| Gone { backend, frontends: vec![frontend] }));
    }

    /// How full the maps are.
    pub fn fill(&self) -> [Fill; 5] {
        let fill = |map, used, capacity| Fill { map, used, capacity };
        let maps = &self.maps;
        [
            fill(maps.services.name(), self.services.len(), maps.services.capacity()),
            fill(maps.frontends.name(), self.owners.len(), maps.frontends.capacity()),
            fill(maps.addresses.name(), self.addresses.len(), maps.addresses.capacity()),
            fill(maps.slots.name(), self.slots, maps.slots.capacity()),
            fill(maps.backends.name(), self.backend_ids.len(), maps.backends.capacity()),
        ]
    }

    fn add(&mut self, port: &ServicePort, service: &Service) -> Result<()> {
        room(&self.maps.services, self.services.len(), 1)?;
        room(&self.maps.info, self.services.len(), 1)?;
        let backends = service.backends();
        room(&self.maps.slots, self.slots, Plan::slots(service))?;
        room(&self.maps.backends, self.backend_ids.len(), backends.len())?;

        let id = self.service_ids.take();
        let added = self.write_info(id, port).and_then(|()| {
            let placed = self.place(id, &backends)?;
            match self.write_generation(id, 1, service, &placed, &[]) {
                Ok(count) => Ok((placed, count)),
                Err(error) => {
                    let _ = self.drop_backends(id, &placed);
                    Err(error)
                }
            }
        });
        let (placed, count) = match added {
            Ok(added) => added,
            Err(error) => {
                let _ = self.maps.info.remove(&id);
                self.service_ids.release(id);
                return Err(error);
            }
        };
        // Its frontends are noted as they are written.
        let noted = Service { frontends: Default::default(), ..service.clone() };
        let live = Live { id, generation: 1, count, service: noted, backends: placed, whole: true };
        self.services.insert(port.clone(), live);
        self.sync_frontends(port, service).inspect_err(|_| drop(self.remove(port)))
    }

    fn replace(&mut self, port: &ServicePort, service: &Service) -> Result<()> {
        let Some(live) = self.services.get(port) else { return Ok(()) };
        let (id, old_generation, old_count) = (live.id, live.generation, live.count);
        let old_ranges = live.service.source_ranges.clone();
        let wanted = service.backends();
        let (mut next, gone): (Vec<Placed>, Vec<Placed>) =
            live.backends.iter().partition(|placed| wanted.binary_search(&placed.backend).is_ok());
        let kept: HashSet<Backend> = next.iter().map(|placed| placed.backend).collect();
        let new: Vec<Backend> = wanted.into_iter().filter(|backend| !kept.contains(backend)).collect();
        room(&self.maps.slots, self.slots, Plan::slots(service))?;
        room(&self.maps.backends, self.backend_ids.len(), new.len())?;

        let generation = old_generation.wrapping_add(1);
        let placed = self.place(id, &new)?;
        next.extend(&placed);
        let count = match self.write_generation(id, generation, service, &next, &old_ranges) {
            Ok(count) => count,
            Err(error) => {
                let _ = self.drop_backends(id, &placed);
                return Err(error);
            }
        };
        if let Some(live) = self.services.get_mut(port) {
            let stays = |at| next.iter().any(|placed| placed.backend.address == at);
            let lost = gone.iter().filter(|placed| !stays(placed.backend.address));
            note_gone(&mut self.gone, live.service.frontends.keys(), lost);
            live.generation = generation;
            live.count = count;
            live.backends = next;
            live.whole = true;
            let frontends = std::mem::take(&mut live.service.frontends);
            live.service = Service { frontends, ..service.clone() };
        }
        let ranges: Vec<(IpAddr, u8)> =
            old_ranges.into_iter().filter(|range| !service.source_ranges.contains(range)).collect();
        // The backends go even if the old slots do not: sockets that remember one must not keep it.
        let result = self.drop_slots(id, old_generation, old_count);
        result.and(self.drop_backends(id, &gone)).and(self.drop_ranges(id, &ranges))
    }

    /// Writes slots and source ranges of a generation and makes it live. Returns the number of slots; on failure none of
    /// them is left.
    /// `old_ranges` are those that are there already.
    fn write_generation(
        &mut self,
        id: u32,
        generation: u32,
        service: &Service,
        placed: &[Placed],
        old_ranges: &[(IpAddr, u8)],
    ) -> Result<usize> {
        let plan = Plan::new(service, placed);
        self.write_slots(id, generation, &plan.slots)?;
        // From now on programs choose from that generation.
        let value = ServiceValue { generation, ..plan.value }.sealed(id);
        let flipped =
            self.write_ranges(id, &service.source_ranges).and_then(|()| self.maps.services.insert(&id, &value));
        if let Err(error) = flipped {
            let _ = self.drop_slots(id, generation, plan.slots.len());
            for range in service.source_ranges.iter().filter(|range| !old_ranges.contains(range)) {
                // Those behind the one that failed are not there.
                let _ = self.drop_ranges(id, &[*range]);
            }
            return Err(error);
        }
        self.writes.updates += 1;
        Ok(plan.slots.len())
    }

    /// Writes the frontends that lack, then removes those that are too many.
    fn sync_frontends(&mut self, port: &ServicePort, service: &Service) -> Result<()> {
        let Some(live) = self.services.get(port) else { return Ok(()) };
        let id = live.id;
        let known = &live.service.frontends;
        let new: Vec<(Frontend, Kind)> = service
            .frontends
            .iter()
            .filter(|(frontend, kind)| known.get(frontend) != Some(kind))
            .map(|(frontend, kind)| (*frontend, *kind))
            .collect();
        let gone: Vec<Frontend> =
            known.keys().filter(|frontend| !service.frontends.contains_key(frontend)).copied().collect();
        let fresh = new.iter().filter(|(frontend, _)| !self.owners.contains_key(frontend)).count();
        room(&self.maps.frontends, self.owners.len(), fresh)?;
        for (frontend, kind) in new {
            self.put_frontend(port, id, frontend, kind)?;
        }
        self.drop_frontends(port, &gone)
    }

    fn put_frontend(&mut self, port: &ServicePort, id: u32, frontend: Frontend, kind: Kind) -> Result<()> {
        self.addresses.claim(frontend.address, kind, &mut self.maps.addresses, &mut self.writes)?;
        let key = frontend.key();
        if let Err(error) = self.maps.frontends.insert(&key, &FrontendValue::sealed(&key, id, kind.number())) {
            let _ = self.addresses.release(frontend.address, kind, &mut self.maps.addresses, &mut self.writes);
            return Err(error);
        }
        self.writes.updates += 1;
        // Whoever had it, this service port included, has it no more.
        let former = self.owners.insert(frontend, port.clone()).and_then(|owner| self.services.get_mut(&owner));
        let former = former.and_then(|live| {
            note_gone(&mut self.gone, std::iter::once(&frontend), live.backends.iter());
            live.service.frontends.remove(&frontend)
        });
        if let Some(live) = self.services.get_mut(port) {
            live.service.frontends.insert(frontend, kind);
        }
        match former {
            Some(former) => {
                self.addresses.release(frontend.address, former, &mut self.maps.addresses, &mut self.writes)
            }
            None => Ok(()),
        }
    }

    fn drop_frontends(&mut self, port: &ServicePort, frontends: &[Frontend]) -> Result<()> {
        let keys: Vec<FrontendKey> = frontends.iter().map(Frontend::key).collect();
        erase(&mut self.maps.frontends, &keys, self.batching)?;
        self.writes.deletes += keys.len() as u64;
        if let Some(live) = self.services.get(port) {
            note_gone(&mut self.gone, frontends.iter(), live.backends.iter());
        }
        let mut result = Ok(());
        for frontend in frontends {
            self.owners.remove(frontend);
            let kind = self.services.get_mut(port).and_then(|live| live.service.frontends.remove(frontend));
            if let Some(kind) = kind {
                let (maps, writes) = (&mut self.maps.addresses, &mut self.writes);
                result = result.and(self.addresses.release(frontend.address, kind, maps, writes));
            }
        }
        result
    }
}

/// Notes backends that a service port at these frontends has lost.
fn note_gone<'a>(
    gone: &mut Vec<Gone>,
    frontends: impl Iterator<Item = &'a Frontend>,
    lost: impl Iterator<Item = &'a Placed>,
) {
    let frontends: Vec<Frontend> = frontends.filter(|at| at.protocol == Protocol::Udp).copied().collect();
    if !frontends.is_empty() {
        gone.extend(lost.map(|placed| Gone { backend: placed.backend.address, frontends: frontends.clone() }));
    }
}

/// Is there room for `wanted` more entries?
fn room<K: aya::Pod, V: aya::Pod>(table: &Table<K, V>, used: usize, wanted: usize) -> Result<()> {
    let capacity = table.capacity();
    if used + wanted <= capacity {
        return Ok(());
    }
    Err(Error::MapFull { map: table.name(), used, capacity, wanted })
}
