//! The pinned maps, from user space.

pub(crate) mod drops;
pub(crate) mod paths;
pub mod reader;
mod table;

use std::{fmt, path::Path};

use aya::maps::{LpmTrie, Map, MapData, PerCpuHashMap};
use skep_ebpf_common::{
    Address, AddressValue, AffinityKey, AffinityValue, BackendValue, FrontendKey, FrontendValue, PeerKey, PeerValue,
    ServiceCounters, ServiceInfo, ServiceValue, SlotKey, SlotValue, SourceRange, StickyKey, StickyValue, dsr::LocalKey,
};

pub use reader::Reader;
pub(crate) use table::Table;

use crate::{Error, MapSizes, Result};

/// Name of the log ring; pinned too, so that a new daemon reads what running programs say.
pub(crate) const LOGS: &str = "AYA_LOGS";
/// Name of the map of flows, by the packets clients send.
pub(crate) const FLOWS: &str = "FLOWS";
/// Name of the map of flows, by the packets backends send.
pub(crate) const REPLIES: &str = "REPLIES";
/// Name of the map of the cluster's own ranges.
pub(crate) const INSIDE: &str = "INSIDE";
/// Name of the counters of packets that end here.
pub(crate) const PACKET_DROPS: &str = "PACKET_DROPS";
/// Name of the counters of packets that are forwarded here.
pub(crate) const PACKET_PATHS: &str = "PACKET_PATHS";

/// Name of the map of open connections; there only while they are counted.
pub(crate) const LOADS: &str = "LOADS";
/// Name of the map of connected sockets; there only while connections are counted.
pub(crate) const CONNECTED: &str = "CONNECTED";

/// For how many Maglev tables there is room.
const MAGLEV_TABLES: u32 = 512;

/// Which programs of the object are wanted, and thus which maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Those that translate sockets; there is room for Maglev tables of that size.
    Sockets { maglev: u32 },
    /// Those that see packets, which use the others' maps too.
    Packets,
}

/// Every map of that part that is pinned, with its configured capacity (`None`: the object's own).
pub(crate) fn pinned(part: Part, sizes: &MapSizes) -> Vec<(&'static str, Option<u32>)> {
    let slots = match part {
        Part::Sockets { maglev } => Some(sizes.backends.saturating_add(maglev.saturating_mul(MAGLEV_TABLES))),
        // It is there by then.
        Part::Packets => None,
    };
    let mut maps = vec![
        // A service port has one or two frontends; with node ports and load balancers some have four.
        ("FRONTENDS", Some(sizes.services.saturating_mul(4))),
        ("ADDRESSES", Some(sizes.services.saturating_mul(2).saturating_add(1024))),
        ("SERVICES", Some(sizes.services)),
        ("SLOTS", slots),
        ("BACKENDS", Some(sizes.backends)),
        ("LOCALS", None),
        ("SOURCE_RANGES", Some(sizes.services)),
        ("SERVICE_INFO", Some(sizes.services)),
        ("SERVICE_STATS", Some(sizes.services)),
        ("BACKEND_STATS", Some(sizes.backends)),
        ("AFFINITY", Some(sizes.sticky)),
        ("STICKY", Some(sizes.sticky)),
        ("UDP_PEERS", Some(sizes.udp_peers)),
        ("TCP_PEERS", Some(sizes.tcp_peers)),
        (LOGS, None),
    ];
    if sizes.connections > 0 {
        maps.extend([(LOADS, Some(sizes.backends)), (CONNECTED, Some(sizes.connections))]);
    }
    if part == Part::Packets {
        maps.extend(OF_PACKETS.map(|name| (name, matches!(name, FLOWS | REPLIES).then_some(sizes.flows))));
    }
    maps
}

/// The maps that only programs use that see packets.
pub(crate) const OF_PACKETS: [&str; 10] = [
    FLOWS,
    REPLIES,
    "TRACKING",
    "FRAGMENTS",
    "NODE",
    INSIDE,
    PACKET_DROPS,
    crate::direct::PODS,
    PACKET_PATHS,
    crate::devices::xdp::DEVICES,
];

/// The maps that say what is served.
pub(crate) struct ServiceMaps {
    pub(crate) frontends: Table<FrontendKey, FrontendValue>,
    pub(crate) addresses: Table<Address, AddressValue>,
    pub(crate) services: Table<u32, ServiceValue>,
    pub(crate) slots: Table<SlotKey, SlotValue>,
    pub(crate) backends: Table<u32, BackendValue>,
    /// Backends on this node, as packets of other nodes name them.
    pub(crate) locals: Table<LocalKey, u32>,
    pub(crate) source_ranges: LpmTrie<MapData, SourceRange, u32>,
    /// How many entries that one can hold.
    pub(crate) ranges_capacity: usize,
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
            locals: Table::open(folder, "LOCALS")?,
            source_ranges: trie(folder, "SOURCE_RANGES")?,
            ranges_capacity: capacity(folder, "SOURCE_RANGES")?,
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

fn capacity(folder: &Path, name: &'static str) -> Result<usize> {
    let info = MapData::from_pin(folder.join(name)).and_then(|data| data.info()).map_err(Error::map(name))?;
    Ok(info.max_entries() as usize)
}

fn trie<K: aya::Pod, V: aya::Pod>(folder: &Path, name: &'static str) -> Result<LpmTrie<MapData, K, V>> {
    let data = MapData::from_pin(folder.join(name)).map_err(Error::map(name))?;
    Map::from_map_data(data).map_err(Error::map(name))?.try_into().map_err(Error::map(name))
}
