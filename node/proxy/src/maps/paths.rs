//! The counters of packets that programs forwarded.

use std::path::Path as Folder;

use aya::maps::{Map, MapData, PerCpuArray};
use skep_ebpf_common::packet::Path;

use super::PACKET_PATHS;
use crate::{Error, Result};

/// Every path with its packets, from the map pinned in `folder`; nothing where no program sees packets.
pub(crate) fn read(folder: &Folder) -> Result<Vec<(Path, u64)>> {
    let pin = folder.join(PACKET_PATHS);
    if !pin.exists() {
        return Ok(Vec::new());
    }
    let failed = |source| Error::Map { name: PACKET_PATHS, source };
    let map = Map::from_map_data(MapData::from_pin(pin).map_err(failed)?).map_err(failed)?;
    let paths: PerCpuArray<MapData, u64> = map.try_into().map_err(failed)?;
    Path::ALL.into_iter().map(|path| Ok((path, paths.get(&(path as u32), 0).map_err(failed)?.iter().sum()))).collect()
}
