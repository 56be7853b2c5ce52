//! Reading back what a former daemon wrote.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddrV4,
};

use skep_ebpf_common::{ServiceKey, SlotKey, host_port, octets};

use super::{Live, Placed, Programmer, Writes, erase, ids::Ids, slot_keys};
use crate::{
    Result,
    maps::ServiceMaps,
    service::{Frontend, ServicePortName},
};

/// Builds the mirror. Removes what no service refers to: it was left by a change that was cut short.
pub(super) fn recover(mut maps: ServiceMaps) -> Result<Programmer> {
    let slots: HashMap<SlotKey, u32> = maps
        .slots
        .entries()?
        .into_iter()
        .map(|(key, value)| (key, if value.is_sealed_for(&key) { value.backend } else { 0 }))
        .collect();
    let backends: HashMap<u32, _> = maps.backends.entries()?.into_iter().collect();
    let mut infos: HashMap<u32, _> = maps.info.entries()?.into_iter().collect();
    let mut known_vips: HashSet<u32> = maps.vips.entries()?.into_iter().map(|(vip, _)| vip).collect();

    let mut highest_service = infos.keys().copied().max().unwrap_or(0);
    let highest_backend = backends.keys().copied().max().unwrap_or(0);
    let mut writes = Writes::default();
    let mut services = HashMap::new();
    let mut vips: HashMap<u32, u32> = HashMap::new();
    let mut used_slots = HashSet::new();
    let mut used_backends = HashSet::new();

    let entries: Vec<(ServiceKey, _)> = maps.services.entries()?;
    for (key, value) in entries {
        let Some(frontend) = Frontend::from_key(&key).filter(|_| value.is_sealed_for(&key)) else {
            maps.services.remove(&key)?;
            writes.deletes += 1;
            continue;
        };
        highest_service = highest_service.max(value.id);
        let placed: Vec<Placed> = slot_keys(value.id, value.generation, value.count as usize)
            .filter_map(|slot| {
                let id = *slots.get(&slot)?;
                let backend = backends.get(&id).filter(|backend| backend.is_sealed_for(id))?;
                let address = SocketAddrV4::new(octets(backend.address).into(), host_port(backend.port));
                (backend.service == value.id).then_some(Placed { id, address })
            })
            .collect();
        let name = infos.remove(&value.id).map(|info| {
            let (namespace, name, port) = info.names();
            ServicePortName { namespace: namespace.into(), name: name.into(), port: port.into() }
        });
        let mut distinct = HashSet::new();
        let found = placed.len();
        let backends: Vec<Placed> = placed.into_iter().filter(|placed| distinct.insert(placed.address)).collect();
        let count = value.count as usize;
        let whole = found == count && backends.len() == count;
        if !whole {
            tracing::warn!(service = %frontend, "the maps hold this service in part only; it will be written again");
        }
        used_slots.extend(slot_keys(value.id, value.generation, count));
        used_backends.extend(backends.iter().map(|placed| placed.id));
        *vips.entry(key.vip).or_default() += 1;
        services.insert(frontend, Live { id: value.id, generation: value.generation, count, name, backends, whole });
    }

    for vip in vips.keys() {
        if !known_vips.remove(vip) {
            maps.vips.insert(vip, &1)?;
            writes.updates += 1;
        }
    }
    for vip in known_vips {
        maps.vips.remove(&vip)?;
        writes.deletes += 1;
    }
    let lost_slots: Vec<SlotKey> = slots.keys().filter(|slot| !used_slots.contains(*slot)).copied().collect();
    let lost_backends: Vec<u32> = backends.keys().filter(|id| !used_backends.contains(*id)).copied().collect();
    erase(&mut maps.slots, &lost_slots, true)?;
    erase(&mut maps.backends, &lost_backends, true)?;
    for id in infos.keys() {
        maps.info.remove(id)?;
    }
    writes.deletes += (lost_slots.len() + lost_backends.len() + infos.len()) as u64;

    // Counters may outlive their owners when a program counted just as the owner went.
    let ids: HashSet<u32> = services.values().map(|live: &Live| live.id).collect();
    let stale: Vec<u32> = maps.service_stats.keys().flatten().filter(|id| !ids.contains(id)).collect();
    for id in stale {
        let _ = maps.service_stats.remove(&id);
    }
    let stale: Vec<u32> = maps.backend_stats.keys().flatten().filter(|id| !used_backends.contains(id)).collect();
    for id in stale {
        let _ = maps.backend_stats.remove(&id);
    }

    let slots = slots.len() - lost_slots.len();
    Ok(Programmer {
        maps,
        services,
        vips,
        slots,
        service_ids: Ids::new(ids, highest_service),
        backend_ids: Ids::new(used_backends, highest_backend),
        writes,
        batching: true,
    })
}
