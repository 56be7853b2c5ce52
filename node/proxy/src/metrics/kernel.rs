//! What only the kernel knows: packets that ended in a program, and how full the maps are that programs fill themselves.

use std::path::Path;

use skep_ebpf_common::{
    PeerKey, PeerValue,
    conntrack::{Flow, Reply, Tuple},
    load::LoadKey,
};

use super::{Metrics, PathLabel, ReasonLabel};
use crate::{
    Result,
    bpffs::Paths,
    maps::{CONNECTED, FLOWS, LOADS, REPLIES, Table, drops, paths},
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
        self.fill::<LoadKey, u64>(&maps, LOADS)?;
        self.fill::<u64, LoadKey>(&maps, CONNECTED)?;
        for (reason, count) in drops::read(&maps)? {
            let counter = self.drops.get_or_create(&ReasonLabel { reason: reason.name() });
            counter.inner().store(count, std::sync::atomic::Ordering::Relaxed);
        }
        for (path, count) in paths::read(&maps)? {
            let counter = self.paths.get_or_create(&PathLabel { path: path.name() });
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
