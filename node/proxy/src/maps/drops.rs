//! The counters of packets that ended in a program.

use std::path::Path;

use aya::maps::{Map, MapData, PerCpuArray};
use skep_ebpf_common::packet::Drop;

use super::PACKET_DROPS;
use crate::{Error, Result};

/// Every reason with its packets, from the map pinned in `folder`; nothing where no program sees packets.
pub(crate) fn read(folder: &Path) -> Result<Vec<(Drop, u64)>> {
    let pin = folder.join(PACKET_DROPS);
    if !pin.exists() {
        return Ok(Vec::new());
    }
    let failed = |source| Error::Map { name: PACKET_DROPS, source };
    let map = Map::from_map_data(MapData::from_pin(pin).map_err(failed)?).map_err(failed)?;
    let drops: PerCpuArray<MapData, u64> = map.try_into().map_err(failed)?;
    Drop::ALL
        .into_iter()
        .map(|reason| Ok((reason, drops.get(&(reason as u32), 0).map_err(failed)?.iter().sum())))
        .collect()
}
