//! Writing and removing the entries of one kind.

use std::net::IpAddr;

use aya::maps::{MapError, lpm_trie};
use skep_ebpf_common::{BackendValue, ServiceInfo, SlotKey, SlotValue, SourceRange, port};

use super::{Placed, Programmer, locals};
use crate::{
    Error, Result,
    maps::Table,
    service::{Backend, ServicePort, to_map},
};

impl Programmer {
    pub(super) fn write_info(&mut self, id: u32, port: &ServicePort) -> Result<()> {
        self.maps.info.insert(&id, &info(port))?;
        self.writes.updates += 1;
        Ok(())
    }

    /// Writes new backends under new ids; on failure none of them is left.
    pub(super) fn place(&mut self, service: u32, backends: &[Backend]) -> Result<Vec<Placed>> {
        let placed: Vec<Placed> =
            backends.iter().map(|backend| Placed { id: self.backend_ids.take(), backend: *backend }).collect();
        let keys: Vec<u32> = placed.iter().map(|placed| placed.id).collect();
        let values: Vec<BackendValue> = placed.iter().map(|placed| backend_value(service, placed)).collect();
        if let Err(error) = write(&mut self.maps.backends, &keys, &values, self.batching) {
            keys.iter().for_each(|id| self.backend_ids.release(*id));
            return Err(error);
        }
        self.writes.updates += keys.len() as u64;
        self.writes.updates += locals::note(&mut self.maps.locals, service, &placed);
        Ok(placed)
    }

    /// Writes the slots of a generation; on failure none of them is left.
    pub(super) fn write_slots(&mut self, service: u32, generation: u32, backends: &[u32]) -> Result<()> {
        let keys: Vec<SlotKey> = slot_keys(service, generation, backends.len()).collect();
        let values: Vec<SlotValue> =
            keys.iter().zip(backends).map(|(key, backend)| SlotValue::sealed(key, *backend)).collect();
        write(&mut self.maps.slots, &keys, &values, self.batching)?;
        self.writes.updates += keys.len() as u64;
        self.slots += keys.len();
        Ok(())
    }

    pub(super) fn drop_slots(&mut self, service: u32, generation: u32, count: usize) -> Result<()> {
        let keys: Vec<SlotKey> = slot_keys(service, generation, count).collect();
        erase(&mut self.maps.slots, &keys, self.batching)?;
        self.writes.deletes += keys.len() as u64;
        self.slots = self.slots.saturating_sub(keys.len());
        Ok(())
    }

    pub(super) fn drop_backends(&mut self, service: u32, backends: &[Placed]) -> Result<()> {
        self.writes.deletes += locals::forget(&mut self.maps.locals, service, backends)?;
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

    pub(super) fn write_ranges(&mut self, service: u32, ranges: &[(IpAddr, u8)]) -> Result<()> {
        for range in ranges {
            self.maps.source_ranges.insert(&range_key(service, *range), 1, 0).map_err(|error| match error {
                MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::ENOSPC) => {
                    let capacity = self.maps.ranges_capacity;
                    Error::MapFull { map: "SOURCE_RANGES", used: capacity, capacity, wanted: ranges.len() }
                }
                source => Error::Map { name: "SOURCE_RANGES", source },
            })?;
            self.writes.updates += 1;
        }
        Ok(())
    }

    pub(super) fn drop_ranges(&mut self, service: u32, ranges: &[(IpAddr, u8)]) -> Result<()> {
        for range in ranges {
            self.maps.source_ranges.remove(&range_key(service, *range)).map_err(Error::map("SOURCE_RANGES"))?;
            self.writes.deletes += 1;
        }
        Ok(())
    }
}

pub(super) fn info(port: &ServicePort) -> ServiceInfo {
    let name = &port.name;
    ServiceInfo::new(&name.namespace, &name.name, &name.port, port.family.number())
}

pub(super) fn backend_value(service: u32, placed: &Placed) -> BackendValue {
    let at = placed.backend.address;
    let flags = if placed.backend.local { BackendValue::LOCAL } else { 0 };
    BackendValue::sealed(placed.id, service, to_map(at.ip()), port(at.port()), flags)
}

pub(super) fn range_key(service: u32, (address, length): (IpAddr, u8)) -> lpm_trie::Key<SourceRange> {
    let before = if address.is_ipv4() { 32 + 96 } else { 32 };
    lpm_trie::Key::new(before + u32::from(length), SourceRange { service, address: to_map(address) })
}

pub(super) fn slot_keys(service: u32, generation: u32, count: usize) -> impl Iterator<Item = SlotKey> {
    (0..count as u32).map(move |slot| SlotKey { service, generation, slot })
}

/// Writes new entries; on failure none of them is left.
pub(super) fn write<K: aya::Pod, V: aya::Pod>(
    table: &mut Table<K, V>,
    keys: &[K],
    values: &[V],
    batching: bool,
) -> Result<()> {
    let result = if batching && keys.len() > 1 {
        table.insert_batch(keys, values)
    } else {
        keys.iter().zip(values).try_for_each(|(key, value)| table.insert(key, value))
    };
    result.inspect_err(|_| keys.iter().for_each(|key| drop(table.remove(key))))
}

pub(super) fn erase<K: aya::Pod, V: aya::Pod>(table: &mut Table<K, V>, keys: &[K], batching: bool) -> Result<()> {
    if batching && keys.len() > 1 {
        table.remove_batch(keys)
    } else {
        keys.iter().try_for_each(|key| table.remove(key))
    }
}
