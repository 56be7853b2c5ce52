//! Reading back what a former daemon wrote.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use aya::maps::lpm_trie;
use skep_ebpf_common::{
    BackendValue, FrontendKey, Segment, ServiceInfo, ServiceValue, SlotKey, SourceRange, host_port, service_flags,
};

use super::{
    Addresses, Live, Placed, Plan, Programmer, Writes,
    entries::{erase, slot_keys},
    ids::Ids,
    locals,
};
use crate::{
    Error, Result,
    maps::ServiceMaps,
    service::{Backend, Family, Frontend, Kind, Service, ServicePort, ServicePortName, from_map, sorted},
};

/// Builds the mirror. Removes what no service refers to: it was left by a change that was cut short.
pub(super) fn recover(mut maps: ServiceMaps) -> Result<Programmer> {
    let slots: HashMap<SlotKey, u32> = maps
        .slots
        .entries()?
        .into_iter()
        .map(|(key, value)| (key, if value.is_sealed_for(&key) { value.backend } else { 0 }))
        .collect();
    let backends: HashMap<u32, BackendValue> = maps.backends.entries()?.into_iter().collect();
    let mut infos: HashMap<u32, ServiceInfo> = maps.info.entries()?.into_iter().collect();
    let mut writes = Writes::default();

    let mut highest_service = infos.keys().copied().max().unwrap_or(0);
    let highest_backend = backends.keys().copied().max().unwrap_or(0);
    let mut services: HashMap<ServicePort, Live> = HashMap::new();
    let mut ports: HashMap<u32, ServicePort> = HashMap::new();
    let mut used_slots = HashSet::new();
    let mut used_backends = HashSet::new();
    for (id, value) in maps.services.entries()? {
        highest_service = highest_service.max(id);
        let port = infos.get(&id).and_then(service_port).filter(|port| !services.contains_key(port));
        let Some(port) = port.filter(|_| value.is_sealed_for(id)) else {
            maps.services.remove(&id)?;
            writes.deletes += 1;
            continue;
        };
        infos.remove(&id);
        let live = read(id, &value, &slots, &backends);
        if !live.whole {
            tracing::warn!(service = %port, "the maps hold this service in part only; it will be written again");
        }
        used_slots.extend(slot_keys(id, value.generation, live.count));
        used_backends.extend(live.backends.iter().map(|placed| placed.id));
        ports.insert(id, port.clone());
        services.insert(port, live);
    }

    let mut owners = HashMap::new();
    let mut lost_frontends: Vec<FrontendKey> = Vec::new();
    for (key, value) in maps.frontends.entries()? {
        let port = ports.get(&value.service).filter(|_| value.is_sealed_for(&key));
        let live = port.and_then(|port| services.get_mut(port));
        match (Frontend::from_key(&key), Kind::from_number(value.kind), port, live) {
            (Some(frontend), Some(kind), Some(port), Some(live)) => {
                live.service.frontends.insert(frontend, kind);
                owners.insert(frontend, port.clone());
            }
            _ => lost_frontends.push(key),
        }
    }
    erase(&mut maps.frontends, &lost_frontends, true)?;
    let frontends = services.values().flat_map(|live| &live.service.frontends);
    let frontends = frontends.map(|(frontend, kind)| (frontend.address, *kind));
    let addresses = Addresses::recover(frontends, &mut maps.addresses, &mut writes)?;

    let ranges: Vec<lpm_trie::Key<SourceRange>> =
        maps.source_ranges.keys().collect::<Result<_, _>>().map_err(Error::map("SOURCE_RANGES"))?;
    for key in ranges {
        let live = ports.get(&{ key.data() }.service).and_then(|port| services.get_mut(port));
        match (live, read_range(&key)) {
            (Some(live), Some(range)) => live.service.source_ranges.push(range),
            _ => {
                maps.source_ranges.remove(&key).map_err(Error::map("SOURCE_RANGES"))?;
                writes.deletes += 1;
            }
        }
    }
    services.values_mut().for_each(|live| live.service.source_ranges.sort_unstable());

    let lost_slots: Vec<SlotKey> = slots.keys().filter(|slot| !used_slots.contains(*slot)).copied().collect();
    let lost_backends: Vec<u32> = backends.keys().filter(|id| !used_backends.contains(*id)).copied().collect();
    erase(&mut maps.slots, &lost_slots, true)?;
    erase(&mut maps.backends, &lost_backends, true)?;
    for id in infos.keys() {
        maps.info.remove(id)?;
    }
    let lost = lost_frontends.len() + lost_slots.len() + lost_backends.len() + infos.len();
    writes.deletes += lost as u64;

    let (written, removed) = locals::recover(&mut maps.locals, services.values())?;
    writes.updates += written;
    writes.deletes += removed;

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
        owners,
        addresses,
        slots,
        service_ids: Ids::new(ids, highest_service),
        backend_ids: Ids::new(used_backends, highest_backend),
        writes,
        batching: true,
        gone: Vec::new(),
    })
}

/// One service port without its frontends and source ranges.
fn read(id: u32, value: &ServiceValue, slots: &HashMap<SlotKey, u32>, backends: &HashMap<u32, BackendValue>) -> Live {
    let end = |segment: Segment| segment.start.saturating_add(segment.count) as usize;
    let segments = [value.cluster, value.internal, value.external, value.maglev];
    // A damaged entry cannot claim more slots than there are.
    let count = segments.map(end).into_iter().max().unwrap_or(0).min(slots.len());
    let mut placed: BTreeMap<u32, Placed> = BTreeMap::new();
    let found: Vec<Option<u32>> = slot_keys(id, value.generation, count)
        .map(|slot| {
            let backend = *slots.get(&slot)?;
            let value = backends.get(&backend).filter(|value| value.is_sealed_for(backend) && value.service == id)?;
            let address = SocketAddr::new(from_map(value.address), host_port(value.port));
            let local = value.flags & BackendValue::LOCAL != 0;
            placed.insert(backend, Placed { id: backend, backend: Backend { address, local } });
            Some(backend)
        })
        .collect();
    let of = |segment: Segment| -> Vec<Backend> {
        let ids = found.iter().skip(segment.start as usize).take(segment.count as usize).flatten();
        sorted(ids.filter_map(|id| placed.get(id)).map(|placed| placed.backend))
    };
    let has = |flag: u32| value.flags & flag != 0;
    let (internal_local, external_local) = (has(service_flags::INTERNAL_LOCAL), has(service_flags::EXTERNAL_LOCAL));
    let local = if internal_local {
        of(value.internal)
    } else if external_local {
        of(value.external)
    } else {
        Vec::new()
    };
    let cluster = of(value.cluster);
    let service = Service {
        frontends: BTreeMap::new(),
        places: places(&cluster, value.cluster, &found, &placed),
        cluster,
        local,
        internal_local,
        external_local,
        affinity: has(service_flags::AFFINITY).then_some(value.affinity),
        source_ranges: Vec::new(),
        deny_ranges: has(service_flags::DENY_RANGES),
        maglev: value.maglev.count,
    };
    let backends: Vec<Placed> = placed.into_values().collect();
    let plan = Plan::new(&service, &backends);
    let whole = plan.slots.len() == found.len() && plan.slots.iter().zip(&found).all(|(a, b)| Some(*a) == *b);
    // A Maglev table says nothing when there is no backend; then its size comes with the next change.
    Live { id, generation: value.generation, count, service, backends, whole }
}

/// In how many places of the segment each of `backends` stands; empty if each stands in one.
fn places(backends: &[Backend], segment: Segment, found: &[Option<u32>], placed: &BTreeMap<u32, Placed>) -> Vec<u32> {
    let mut counts: HashMap<Backend, u32> = HashMap::new();
    let ids = found.iter().skip(segment.start as usize).take(segment.count as usize).flatten();
    ids.filter_map(|id| placed.get(id)).for_each(|placed| *counts.entry(placed.backend).or_default() += 1);
    let places: Vec<u32> = backends.iter().map(|backend| counts.get(backend).copied().unwrap_or(1)).collect();
    if places.iter().all(|count| *count == 1) { Vec::new() } else { places }
}

fn service_port(info: &ServiceInfo) -> Option<ServicePort> {
    let family = match info.family {
        4 => Family::IPv4,
        6 => Family::IPv6,
        _ => return None,
    };
    let (namespace, name, port) = info.names();
    let name = ServicePortName { namespace: namespace.into(), name: name.into(), port: port.into() };
    Some(ServicePort { name, family })
}

fn read_range(key: &lpm_trie::Key<SourceRange>) -> Option<(IpAddr, u8)> {
    let address = from_map({ key.data() }.address);
    let before = if address.is_ipv4() { 32 + 96 } else { 32 };
    Some((address, u8::try_from(key.prefix_len().checked_sub(before)?).ok()?))
}
