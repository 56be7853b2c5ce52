//! Writes services into the maps, so that no program ever sees a half-made change.
//!
//! Order of a change: virtual address, names, new backends, the new generation's slots; then the service's entry is
//! replaced (the flip); then the old slots and the backends nobody uses go. A program that read the old entry before the
//! flip may miss an old slot; it looks the service up again.
//!
//! Cost: proportional to the service that changes. The mirror kept here never asks the maps after it was read once.

mod ids;
mod recover;

use std::{collections::HashMap, net::SocketAddrV4, path::Path};

use skep_ebpf_common::{BackendValue, ServiceInfo, ServiceKey, ServiceValue, SlotKey, SlotValue, address, port};

use self::ids::Ids;
use crate::{
    Error, Result,
    maps::{ServiceMaps, Table},
    service::{Frontend, Service, ServicePortName, ServiceTable},
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
    /// `None`: the maps do not say it.
    name: Option<ServicePortName>,
    backends: Vec<Placed>,
    /// Do all those slots lead to these backends? Not after a recovery from damaged maps.
    whole: bool,
}

/// A backend in the maps.
#[derive(Clone, Copy, Debug)]
struct Placed {
    id: u32,
    address: SocketAddrV4,
}

/// Owner of the service maps.
#[derive(Debug)]
pub struct Programmer {
    maps: ServiceMaps,
    services: HashMap<Frontend, Live>,
    /// Virtual address (map's order) -> number of its ports.
    vips: HashMap<u32, u32>,
    slots: usize,
    service_ids: Ids,
    backend_ids: Ids,
    writes: Writes,
    batching: bool,
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

    /// Makes one service port look like `service`. Returns whether anything had to be written.
    ///
    /// # Errors
    /// When a map is full or refuses a write. What was served before the call is still served, or already what is wanted.
    pub fn apply(&mut self, frontend: &Frontend, service: &Service) -> Result<bool> {
        let Some(live) = self.services.get(frontend) else {
            self.add(frontend, service)?;
            return Ok(true);
        };
        let same_name = live.name.as_ref() == Some(service.name());
        let same_backends = live.whole
            && live.backends.len() == service.backends().len()
            && live.backends.iter().all(|placed| service.backends().binary_search(&placed.address).is_ok());
        if !same_name {
            let (id, info) = (live.id, info(service.name()));
            self.maps.info.insert(&id, &info)?;
            self.writes.updates += 1;
            if let Some(live) = self.services.get_mut(frontend) {
                live.name = Some(service.name().clone());
            }
        }
        if !same_backends {
            self.replace(frontend, service)?;
        }
        Ok(!(same_name && same_backends))
    }

    /// Removes one service port. Returns whether it was there.
    ///
    /// # Errors
    /// When a map refuses the write. Either the port is still served, or it is gone and leaves entries nobody reads, which
    /// the next start removes.
    pub fn remove(&mut self, frontend: &Frontend) -> Result<bool> {
        if !self.services.contains_key(frontend) {
            return Ok(false);
        }
        let key = frontend.key();
        self.maps.services.remove(&key)?;
        self.writes.deletes += 1;
        let Some(live) = self.services.remove(frontend) else { return Ok(false) };
        // Only now: from here on the address is nobody's. A part that cannot be removed does not keep the others.
        let result = self.release_vip(key.vip);
        let result = result.and(self.drop_slots(live.id, live.generation, live.count));
        let result = result.and(self.drop_backends(&live.backends));
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
        for frontend in self.frontends().filter(|frontend| !table.contains_key(frontend)).collect::<Vec<_>>() {
            result = result.and(self.remove(&frontend).map(drop));
        }
        for (frontend, service) in table {
            result = result.and(self.apply(frontend, service).map(drop));
        }
        result
    }

    /// Every service port in the maps.
    pub fn frontends(&self) -> impl Iterator<Item = Frontend> + '_ {
        self.services.keys().copied()
    }

    /// Writes since the maps were opened.
    pub fn writes(&self) -> Writes {
        self.writes
    }

    /// Whether several writes to one map go in one call (they do by default).
    pub fn set_batching(&mut self, batching: bool) {
        self.batching = batching;
    }

    /// How full the maps are.
    pub fn fill(&self) -> [Fill; 4] {
        let fill = |map, used, capacity| Fill { map, used, capacity };
        let maps = &self.maps;
        [
            fill(maps.services.name(), self.services.len(), maps.services.capacity()),
            fill(maps.vips.name(), self.vips.len(), maps.vips.capacity()),
            fill(maps.slots.name(), self.slots, maps.slots.capacity()),
            fill(maps.backends.name(), self.backend_ids.len(), maps.backends.capacity()),
        ]
    }

    fn add(&mut self, frontend: &Frontend, service: &Service) -> Result<()> {
        room(&self.maps.services, self.services.len(), 1)?;
        room(&self.maps.info, self.services.len(), 1)?;
        let key = frontend.key();
        let wanted = service.backends().len();
        room(&self.maps.slots, self.slots, wanted)?;
        room(&self.maps.backends, self.backend_ids.len(), wanted)?;

        // From here on the address is refused rather than passed on.
        self.claim_vip(key.vip)?;
        let id = self.service_ids.take();
        let added = self.write_info(id, service.name()).and_then(|()| {
            let placed = self.place(id, service.backends())?;
            self.write_slots(id, 1, &placed).inspect_err(|_| drop(self.drop_backends(&placed)))?;
            Ok(placed)
        });
        let flipped = added.and_then(|placed| match self.flip(&key, id, 1, placed.len()) {
            Ok(()) => Ok(placed),
            Err(error) => {
                let _ = self.drop_slots(id, 1, placed.len());
                let _ = self.drop_backends(&placed);
                Err(error)
            }
        });
        match flipped {
            Ok(backends) => {
                let name = Some(service.name().clone());
                let live = Live { id, generation: 1, count: backends.len(), name, backends, whole: true };
                self.services.insert(*frontend, live);
                Ok(())
            }
            Err(error) => {
                let _ = self.maps.info.remove(&id);
                let _ = self.release_vip(key.vip);
                self.service_ids.release(id);
                Err(error)
            }
        }
    }

    fn replace(&mut self, frontend: &Frontend, service: &Service) -> Result<()> {
        let Some(live) = self.services.get(frontend) else { return Ok(()) };
        let (id, old_generation, old_count) = (live.id, live.generation, live.count);
        let (mut next, gone): (Vec<Placed>, Vec<Placed>) =
            live.backends.iter().partition(|placed| service.backends().binary_search(&placed.address).is_ok());
        let mut kept: Vec<SocketAddrV4> = next.iter().map(|placed| placed.address).collect();
        kept.sort_unstable();
        let new: Vec<SocketAddrV4> =
            service.backends().iter().copied().filter(|address| kept.binary_search(address).is_err()).collect();
        room(&self.maps.slots, self.slots, service.backends().len())?;
        room(&self.maps.backends, self.backend_ids.len(), new.len())?;

        let generation = old_generation.wrapping_add(1);
        let placed = self.place(id, &new)?;
        next.extend(&placed);
        let written = self.write_slots(id, generation, &next).and_then(|()| {
            self.flip(&frontend.key(), id, generation, next.len())
                .inspect_err(|_| drop(self.drop_slots(id, generation, next.len())))
        });
        if let Err(error) = written {
            let _ = self.drop_backends(&placed);
            return Err(error);
        }
        if let Some(live) = self.services.get_mut(frontend) {
            live.generation = generation;
            live.count = next.len();
            live.backends = next;
            live.whole = true;
        }
        // The backends go even if the old slots do not: sockets that remember one must not keep it.
        let slots = self.drop_slots(id, old_generation, old_count);
        slots.and(self.drop_backends(&gone))
    }

    /// The flip: from now on programs choose from that generation.
    fn flip(&mut self, key: &ServiceKey, id: u32, generation: u32, count: usize) -> Result<()> {
        // `room` saw to it that the count is below the capacity of a map, which is a u32.
        self.maps.services.insert(key, &ServiceValue::sealed(key, id, generation, count as u32))?;
        self.writes.updates += 1;
        Ok(())
    }

    fn write_info(&mut self, id: u32, name: &ServicePortName) -> Result<()> {
        self.maps.info.insert(&id, &info(name))?;
        self.writes.updates += 1;
        Ok(())
    }

    /// Writes new backends under new ids; on failure none of them is left.
    fn place(&mut self, service: u32, backends: &[SocketAddrV4]) -> Result<Vec<Placed>> {
        let placed: Vec<Placed> =
            backends.iter().map(|backend| Placed { id: self.backend_ids.take(), address: *backend }).collect();
        let keys: Vec<u32> = placed.iter().map(|placed| placed.id).collect();
        let values: Vec<BackendValue> = placed
            .iter()
            .map(|Placed { id, address: at }| {
                BackendValue::sealed(*id, service, address(at.ip().octets()), port(at.port()))
            })
            .collect();
        if let Err(error) = write(&mut self.maps.backends, &keys, &values, self.batching) {
            keys.iter().for_each(|id| self.backend_ids.release(*id));
            return Err(error);
        }
        self.writes.updates += keys.len() as u64;
        Ok(placed)
    }

    /// Writes the slots of a generation; on failure none of them is left.
    fn write_slots(&mut self, service: u32, generation: u32, backends: &[Placed]) -> Result<()> {
        let keys: Vec<SlotKey> = slot_keys(service, generation, backends.len()).collect();
        let values: Vec<SlotValue> =
            keys.iter().zip(backends).map(|(key, placed)| SlotValue::sealed(key, placed.id)).collect();
        write(&mut self.maps.slots, &keys, &values, self.batching)?;
        self.writes.updates += keys.len() as u64;
        self.slots += keys.len();
        Ok(())
    }

    fn drop_slots(&mut self, service: u32, generation: u32, count: usize) -> Result<()> {
        let keys: Vec<SlotKey> = slot_keys(service, generation, count).collect();
        erase(&mut self.maps.slots, &keys, self.batching)?;
        self.writes.deletes += keys.len() as u64;
        self.slots = self.slots.saturating_sub(keys.len());
        Ok(())
    }

    fn drop_backends(&mut self, backends: &[Placed]) -> Result<()> {
        let keys: Vec<u32> = backends.iter().map(|placed| placed.id).collect();
        erase(&mut self.maps.backends, &keys, self.batching)?;
        self.writes.deletes += keys.len() as u64;
        for key in &keys {
            self.backend_ids.release(*key);
            // Counts nothing depends on; absent if the backend was never chosen.
            let _ = self.maps.backend_stats.remove(key);
        }
        Ok(())
    }

    fn claim_vip(&mut self, vip: u32) -> Result<()> {
        if let Some(ports) = self.vips.get_mut(&vip) {
            *ports += 1;
            return Ok(());
        }
        room(&self.maps.vips, self.vips.len(), 1)?;
        self.maps.vips.insert(&vip, &1)?;
        self.writes.updates += 1;
        self.vips.insert(vip, 1);
        Ok(())
    }

    fn release_vip(&mut self, vip: u32) -> Result<()> {
        match self.vips.get_mut(&vip) {
            Some(ports) if *ports > 1 => {
                *ports -= 1;
                Ok(())
            }
            Some(_) => {
                self.vips.remove(&vip);
                self.writes.deletes += 1;
                self.maps.vips.remove(&vip)
            }
            None => Ok(()),
        }
    }
}

fn info(name: &ServicePortName) -> ServiceInfo {
    ServiceInfo::new(&name.namespace, &name.name, &name.port)
}

fn slot_keys(service: u32, generation: u32, count: usize) -> impl Iterator<Item = SlotKey> {
    (0..count as u32).map(move |slot| SlotKey { service, generation, slot })
}

/// Is there room for `wanted` more entries?
fn room<K: aya::Pod, V: aya::Pod>(table: &Table<K, V>, used: usize, wanted: usize) -> Result<()> {
    let capacity = table.capacity();
    if used + wanted <= capacity {
        return Ok(());
    }
    Err(Error::MapFull { map: table.name(), used, capacity, wanted })
}

/// Writes new entries; on failure none of them is left.
fn write<K: aya::Pod, V: aya::Pod>(table: &mut Table<K, V>, keys: &[K], values: &[V], batching: bool) -> Result<()> {
    let result = if batching && keys.len() > 1 {
        table.insert_batch(keys, values)
    } else {
        keys.iter().zip(values).try_for_each(|(key, value)| table.insert(key, value))
    };
    result.inspect_err(|_| keys.iter().for_each(|key| drop(table.remove(key))))
}

fn erase<K: aya::Pod, V: aya::Pod>(table: &mut Table<K, V>, keys: &[K], batching: bool) -> Result<()> {
    if batching && keys.len() > 1 {
        table.remove_batch(keys)
    } else {
        keys.iter().try_for_each(|key| table.remove(key))
    }
}
