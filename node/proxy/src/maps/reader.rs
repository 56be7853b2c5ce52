//! A read-only view of the pinned maps, for tools. It takes no lock and disturbs nobody.

pub mod conntrack;
pub mod status;
mod tcp;
pub mod trace;

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use aya::{
    Pod,
    maps::{MapData, PerCpuHashMap, PerCpuValues},
};
use serde::Serialize;
use skep_ebpf_common::{BackendValue, Segment, ServiceCounters, ServiceValue, SlotKey, host_port, service_flags};

use crate::{
    Error, Result,
    bpffs::{self, Paths},
    kernel,
    maps::{FlowMaps, ServiceMaps},
    service::{Frontend, Kind, Protocol, from_map},
};

pub use skep_ebpf_common::tcp::TcpTotals;
pub use tcp::TcpWatch;

/// Backends by id, in slot order.
type Choices = Vec<(u32, BackendValue)>;

/// How often a service that changes while it is read is read again.
const REREADS: usize = 8;

/// One service port as the kernel serves it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRecord {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// Name of the port; may be empty.
    pub port_name: String,
    /// Where it is reached, the ClusterIP first.
    pub frontends: Vec<FrontendRecord>,
    /// Number in the maps.
    pub id: u32,
    /// Live generation.
    pub generation: u32,
    /// Choices of a backend.
    pub connections: u64,
    /// Attempts refused for want of a backend.
    pub refused: u64,
    /// How long a client keeps its backend, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity_seconds: Option<u32>,
    /// Backends in slot order: those for the whole cluster, then those a policy `Local` adds.
    pub backends: Vec<BackendRecord>,
}

/// One place where a service port is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendRecord {
    /// How it came to be.
    pub kind: Kind,
    /// Address; the unspecified one of its family for a node port.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// One backend of one service port.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendRecord {
    /// Number in the maps.
    pub id: u32,
    /// Where it is.
    pub address: SocketAddr,
    /// Is it on this node?
    pub local: bool,
    /// How often it was chosen.
    pub connections: u64,
}

/// The pinned maps of a node, opened for reading.
#[derive(Debug)]
pub struct Reader {
    bpf_root: PathBuf,
    paths: Paths,
    maps: ServiceMaps,
    flows: FlowMaps,
}

impl Reader {
    /// Opens the maps pinned under `bpf_root`.
    ///
    /// # Errors
    /// [`Error::NotLoaded`] if nothing is pinned there, [`Error::OtherLayout`] if it is by another version,
    /// [`Error::Privilege`] if the process may not look.
    pub fn open(bpf_root: &Path) -> Result<Self> {
        kernel::check_reader()?;
        let paths = Paths::new(bpf_root);
        match fs::metadata(paths.maps.join("SERVICES")) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let other = bpffs::other_versions(bpf_root)?.pop();
                return Err(match other.as_deref().and_then(Path::file_name) {
                    Some(name) => Error::OtherLayout(bpf_root.to_owned(), name.to_string_lossy().into()),
                    None => Error::NotLoaded(bpf_root.to_owned()),
                });
            }
            Err(error) => return Err(Error::io(format!("look at the maps under {}", bpf_root.display()))(error)),
        }
        let maps = ServiceMaps::open(&paths.maps)?;
        let flows = FlowMaps::open(&paths.maps)?;
        Ok(Self { bpf_root: bpf_root.to_owned(), paths, maps, flows })
    }

    /// The maps that are in force by now: larger ones may have taken the places of those this one has open.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn reopen(&self) -> Result<Self> {
        Self::open(&self.bpf_root)
    }

    /// Every service port with its backends, sorted by namespace, name and port.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn services(&self) -> Result<Vec<ServiceRecord>> {
        let slots: HashMap<SlotKey, u32> =
            self.maps.slots.entries()?.into_iter().map(|(key, value)| (key, value.backend)).collect();
        let backends: HashMap<u32, BackendValue> = self.maps.backends.entries()?.into_iter().collect();
        let infos: HashMap<u32, _> = self.maps.info.entries()?.into_iter().collect();
        let mut frontends: HashMap<u32, Vec<FrontendRecord>> = HashMap::new();
        for (key, value) in self.maps.frontends.entries()? {
            let (Some(frontend), Some(kind)) = (Frontend::from_key(&key), Kind::from_number(value.kind)) else {
                continue;
            };
            let Frontend { address, port, protocol } = frontend;
            frontends.entry(value.service).or_default().push(FrontendRecord { kind, address, port, protocol });
        }
        let mut records = Vec::new();
        for (service, value) in self.maps.services.entries()? {
            let snapshot = |slot: &SlotKey| {
                let id = *slots.get(slot)?;
                Some((id, *backends.get(&id)?))
            };
            // `None`: removed meanwhile.
            let Some((value, chosen)) = self.choices(service, value, snapshot)? else { continue };
            let names = infos.get(&service).map(|info| info.names()).unwrap_or_default();
            let counters = sum(&self.maps.service_stats, service, |total: &mut ServiceCounters, cpu| {
                total.connections += cpu.connections;
                total.refused += cpu.refused;
            });
            let mut seen = HashSet::new();
            let backends = chosen
                .into_iter()
                .filter(|(id, _)| seen.insert(*id))
                .map(|(id, backend)| BackendRecord {
                    id,
                    address: SocketAddr::new(from_map(backend.address), host_port(backend.port)),
                    local: backend.flags & BackendValue::LOCAL != 0,
                    connections: sum(&self.maps.backend_stats, id, |total: &mut u64, cpu| *total += cpu),
                })
                .collect();
            let mut frontends = frontends.remove(&service).unwrap_or_default();
            frontends.sort_by_key(|frontend| (frontend.kind, frontend.address, frontend.port, frontend.protocol));
            records.push(ServiceRecord {
                namespace: names.0.into(),
                name: names.1.into(),
                port_name: names.2.into(),
                frontends,
                id: service,
                generation: value.generation,
                connections: counters.connections,
                refused: counters.refused,
                affinity_seconds: (value.flags & service_flags::AFFINITY != 0).then_some(value.affinity),
                backends,
            });
        }
        let place = |record: &ServiceRecord| record.frontends.first().map(|f| (f.address, f.port, f.protocol));
        records.sort_by(|a, b| (&a.namespace, &a.name, place(a)).cmp(&(&b.namespace, &b.name, place(b))));
        Ok(records)
    }

    /// What a service port chooses from, all of one generation. A change while the maps were read leaves a hole in the
    /// snapshot; then this service is read once more by itself. Holes that stay are damage, and shown as they are.
    fn choices(
        &self,
        service: u32,
        mut value: ServiceValue,
        snapshot: impl Fn(&SlotKey) -> Option<(u32, BackendValue)>,
    ) -> Result<Option<(ServiceValue, Choices)>> {
        let slots = |value: &ServiceValue| {
            let end = |segment: Segment| segment.start.saturating_add(segment.count);
            let count = [value.cluster, value.internal, value.external].map(end).into_iter().max().unwrap_or(0);
            let generation = value.generation;
            (0..count).map(move |slot| SlotKey { service, generation, slot })
        };
        let mut chosen: Vec<_> = slots(&value).filter_map(|slot| snapshot(&slot)).collect();
        for _ in 0..REREADS {
            if chosen.len() == slots(&value).count() {
                break;
            }
            let Some(now) = self.maps.services.get(&service)? else { return Ok(None) };
            value = now;
            chosen.clear();
            for slot in slots(&value) {
                let Some(slot) = self.maps.slots.get(&slot)? else { continue };
                chosen.extend(self.maps.backends.get(&slot.backend)?.map(|backend| (slot.backend, backend)));
            }
        }
        Ok(Some((value, chosen)))
    }
}

/// One entry's sum over all CPUs; an absent entry was never counted.
fn sum<V: Pod, T: Default>(map: &PerCpuHashMap<MapData, u32, V>, id: u32, add: impl Fn(&mut T, V)) -> T {
    let values: Option<PerCpuValues<V>> = map.get(&id, 0).ok();
    let mut total = T::default();
    for value in values.iter().flat_map(|values| values.iter()) {
        add(&mut total, *value);
    }
    total
}
