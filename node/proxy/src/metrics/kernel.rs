//! What only the kernel knows: packets that ended in a program, and how full the maps are that programs fill themselves.

use std::path::Path;

use aya::maps::{Map, MapData, PerCpuArray};
use skep_ebpf_common::{
    PeerKey, PeerValue,
    conntrack::{Flow, Reply, Tuple},
    packet::Drop,
};

use super::{Metrics, ReasonLabel};
use crate::{
    Error, Result,
    bpffs::Paths,
    maps::{FLOWS, PACKET_DROPS, REPLIES, Table},
    programmer::Fill,
};

impl Metrics {
    /// Reads the kernel's counts from the maps pinned below `bpf_root`; those that are not there are left out. Entries that
    /// are over count until they are pushed out or met again. Takes some milliseconds where maps are full.
    ///
    /// # Errors
    /// When a map is there and cannot be read.
    pub fn read_kernel(&self, bpf_root: &Path) -> Result<()> {
        let maps = Paths::new(bpf_root).maps;
        self.fill::<Tuple, Flow>(&maps, FLOWS)?;
        self.fill::<Tuple, Reply>(&maps, REPLIES)?;
        self.fill::<PeerKey, PeerValue>(&maps, "TCP_PEERS")?;
        self.fill::<PeerKey, PeerValue>(&maps, "UDP_PEERS")?;
        if !maps.join(PACKET_DROPS).exists() {
            return Ok(());
        }
        let failed = |source| Error::Map { name: PACKET_DROPS, source };
        let data = MapData::from_pin(maps.join(PACKET_DROPS)).map_err(failed)?;
        let map = Map::from_map_data(data).map_err(failed)?;
        let drops: PerCpuArray<MapData, u64> = map.try_into().map_err(failed)?;
        for reason in Drop::ALL {
            let count = drops.get(&(reason as u32), 0).map_err(failed)?.iter().sum();
            let counter = self.drops.get_or_create(&ReasonLabel { reason: reason.name() });
            counter.inner().store(count, std::sync::atomic::Ordering::Relaxed);
        }
        Ok(())
    }

    fn fill<K: aya::Pod, V: aya::Pod>(&self, maps: &Path, name: &'static str) -> Result<()> {
        if maps.join(name).exists() {
            let table = Table::<K, V>::open(maps, name)?;
            self.filled(&Fill { map: name, used: table.count()?, capacity: table.capacity() });
        }
        Ok(())
    }
}
