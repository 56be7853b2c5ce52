//! The pinned maps, from user space.

pub mod reader;
mod table;

use std::{fmt, path::Path};

use aya::maps::{LpmTrie, Map, MapData, PerCpuHashMap};
use skep_ebpf_common::{
    Address, AddressValue, AffinityKey, AffinityValue, BackendValue, FrontendKey, FrontendValue, PeerKey, PeerValue,
    ServiceCounters, ServiceInfo, ServiceValue, SlotKey, SlotValue, SourceRange, StickyKey, StickyValue,
};

pub use reader::Reader;
pub(crate) use table::Table;

use crate::{Error, MapSizes, Result};

/// Name of the log ring; pinned too, so that a new daemon reads what running programs say.
pub(crate) const LOGS: &str = "AYA_LOGS";

/// Every map that is pinned, with its configured capacity (`None`: the object's own).
pub(crate) fn pinned(sizes: &MapSizes) -> [(&'static str, Option<u32>); 19] {
    [
        // A service port has one or two frontends; with node ports and load balancers some have four.
        ("FRONTENDS", Some(sizes.services.saturating_mul(4))),
        ("ADDRESSES", Some(sizes.services.saturating_mul(2).saturating_add(1024))),
        ("SERVICES", Some(sizes.services)),
        ("SLOTS", Some(sizes.backends)),
        ("BACKENDS", Some(sizes.backends)),
        ("SOURCE_RANGES", Some(sizes.services)),
        ("SERVICE_INFO", Some(sizes.services)),
        ("SERVICE_STATS", Some(sizes.services)),
        ("BACKEND_STATS", Some(sizes.backends)),
        ("AFFINITY", Some(sizes.sticky)),
        ("STICKY", Some(sizes.sticky)),
        ("UDP_PEERS", Some(sizes.udp_peers)),
        ("TCP_PEERS", Some(sizes.tcp_peers)),
        // Flows of the per-packet path.
        ("FLOWS", Some(sizes.tcp_peers.saturating_mul(2))),
        ("REPLIES", Some(sizes.tcp_peers.saturating_mul(2))),
        ("FRAGMENTS", None),
        ("NODE", None),
        ("PACKET_DROPS", None),
        (LOGS, None),
    ]
}

/// The maps that say what is served.
pub(crate) struct ServiceMaps {
    pub(crate) frontends: Table<FrontendKey, FrontendValue>,
    pub(crate) addresses: Table<Address, AddressValue>,
    pub(crate) services: Table<u32, ServiceValue>,
    pub(crate) slots: Table<SlotKey, SlotValue>,
    pub(crate) backends: Table<u32, BackendValue>,
    pub(crate) source_ranges: LpmTrie<MapData, SourceRange, u32>,
    pub(crate) info: Table<u32, ServiceInfo>,
    pub(crate) service_stats: PerCpuHashMap<MapData, u32, ServiceCounters>,
    pub(crate) backend_stats: PerCpuHashMap<MapData, u32, u64>,
}

impl fmt::Debug for ServiceMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceMaps").field("services", &self.services).finish_non_exhaustive()
    }
}

impl ServiceMaps {
    /// Opens the maps pinned in `folder`.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        Ok(Self {
            frontends: Table::open(folder, "FRONTENDS")?,
            addresses: Table::open(folder, "ADDRESSES")?,
            services: Table::open(folder, "SERVICES")?,
            slots: Table::open(folder, "SLOTS")?,
            backends: Table::open(folder, "BACKENDS")?,
            source_ranges: trie(folder, "SOURCE_RANGES")?,
            info: Table::open(folder, "SERVICE_INFO")?,
            service_stats: per_cpu(folder, "SERVICE_STATS")?,
            backend_stats: per_cpu(folder, "BACKEND_STATS")?,
        })
    }
}

/// The maps programs write by themselves.
#[derive(Debug)]
pub(crate) struct FlowMaps {
    pub(crate) affinity: Table<AffinityKey, AffinityValue>,
    pub(crate) sticky: Table<StickyKey, StickyValue>,
    pub(crate) udp_peers: Table<PeerKey, PeerValue>,
    pub(crate) tcp_peers: Table<PeerKey, PeerValue>,
}

impl FlowMaps {
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        Ok(Self {
            affinity: Table::open(folder, "AFFINITY")?,
            sticky: Table::open(folder, "STICKY")?,
            udp_peers: Table::open(folder, "UDP_PEERS")?,
            tcp_peers: Table::open(folder, "TCP_PEERS")?,
        })
    }
}

fn per_cpu<V: aya::Pod>(folder: &Path, name: &'static str) -> Result<PerCpuHashMap<MapData, u32, V>> {
    let data = MapData::from_pin(folder.join(name)).map_err(Error::map(name))?;
    Map::from_map_data(data).map_err(Error::map(name))?.try_into().map_err(Error::map(name))
}

fn trie<K: aya::Pod, V: aya::Pod>(folder: &Path, name: &'static str) -> Result<LpmTrie<MapData, K, V>> {
    let data = MapData::from_pin(folder.join(name)).map_err(Error::map(name))?;
    Map::from_map_data(data).map_err(Error::map(name))?.try_into().map_err(Error::map(name))
}
