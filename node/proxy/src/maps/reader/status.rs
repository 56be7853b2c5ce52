//! State of the data plane on this node: programs, where they are attached, how full the maps are, what was dropped.

use std::path::{Path, PathBuf};

use aya::{
    Pod,
    maps::{MapData, PerCpuHashMap},
    programs::ProgramInfo,
};
use serde::Serialize;
use skep_ebpf_common::{
    Address, LAYOUT_VERSION, SourceRange,
    conntrack::{Flow, FragmentKey, FragmentPorts, Reply, Tuple},
    load::LoadKey,
};

use super::Reader;
use crate::{
    Error, MapSizes, Result, bpffs,
    devices::{self, pins},
    kernel,
    maps::{CONNECTED, FLOWS, INSIDE, LOADS, Part, REPLIES, Table, drops, paths, pinned, trie},
    object::{Link, ON_CLOSE, PROGRAMS},
};

/// A map that is fuller than this is worth a warning, percent.
const NEARLY_FULL: usize = 90;

/// State of the data plane on this node.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Kernel release.
    pub kernel: String,
    /// Folder of the pins.
    pub bpf_root: PathBuf,
    /// Version of the pinned layout.
    pub layout: u32,
    /// What is not as it should be, in words; nothing mostly.
    pub warnings: Vec<String>,
    /// The programs of sockets and where they are attached.
    pub programs: Vec<ProgramRecord>,
    /// The programs of devices; none where only sockets are served.
    pub devices: Vec<DeviceRecord>,
    /// The maps and how full they are.
    pub maps: Vec<MapRecord>,
    /// Packets that ended in a program, by reason; none where no program sees packets.
    pub drops: Vec<DropRecord>,
    /// Packets that were translated and sent on, by the program that did it; none where no program sees packets.
    pub forwarded: Vec<PathRecord>,
}

/// One program of sockets.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgramRecord {
    /// Name, which is that of its hook.
    pub name: String,
    /// Is it attached to a living cgroup?
    pub attached: bool,
    /// The kernel's number of it.
    pub id: Option<u32>,
    /// Checksum of its instructions.
    pub tag: Option<String>,
    /// The cgroup's number: the inode of its folder.
    pub cgroup_id: Option<u64>,
    /// Size of its machine code in bytes.
    pub jited_bytes: Option<u32>,
}

/// One program on one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceRecord {
    /// Name of the program.
    pub program: String,
    /// Name of the device.
    pub device: String,
    /// Does the device live?
    pub attached: bool,
    /// Is it a filter of the device's clsact qdisc, and no link?
    pub is_filter: bool,
    /// The kernel's number of the program.
    pub id: Option<u32>,
    /// Checksum of its instructions.
    pub tag: Option<String>,
}

/// One map.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MapRecord {
    /// Name.
    pub name: String,
    /// Entries in it.
    pub entries: usize,
    /// Entries it can hold.
    pub capacity: usize,
    /// Entries it is made to hold when it fills up; the same number if it stays as it is.
    pub most: usize,
}

/// Packets that ended for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DropRecord {
    /// The reason, as metrics have it.
    pub reason: &'static str,
    /// How many.
    pub packets: u64,
}

/// Packets that went one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PathRecord {
    /// The way, as metrics have it: `tc`, or `xdp` for the fast lane.
    pub path: &'static str,
    /// How many.
    pub packets: u64,
}

impl Reader {
    /// Programs, attach points, the fill of every map, and what was dropped.
    ///
    /// # Errors
    /// When a map or the folder of links cannot be read.
    pub fn status(&self) -> Result<Status> {
        let links = bpffs::pins(&self.paths.links)?;
        let counts = self.paths.maps.join(LOADS).exists();
        let programs = PROGRAMS.into_iter().chain(counts.then_some(ON_CLOSE));
        let programs: Vec<_> = programs.map(|name| self.program(name, &links)).collect();
        let devices = on_devices(devices::programs().chain(devices::xdp::PINS), &self.paths.links)?;
        let mut maps = self.maps_of_sockets()?;
        maps.extend(self.maps_of_packets()?);
        for (name, most) in growing() {
            maps.iter_mut().filter(|map| map.name == name).for_each(|map| map.most = map.most.max(most as usize));
        }
        Ok(Status {
            kernel: kernel::release(),
            bpf_root: self.bpf_root.clone(),
            layout: LAYOUT_VERSION,
            warnings: warnings(&programs, &devices, &maps),
            programs,
            devices,
            maps,
            drops: self.drops()?,
            forwarded: self.forwarded()?,
        })
    }

    /// Packets that ended in a program, by reason; none where no program sees packets.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn drops(&self) -> Result<Vec<DropRecord>> {
        let drops = drops::read(&self.paths.maps)?;
        Ok(drops.into_iter().map(|(reason, packets)| DropRecord { reason: reason.name(), packets }).collect())
    }

    /// Packets that were sent on, by the program that did it; none where no program sees packets.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn forwarded(&self) -> Result<Vec<PathRecord>> {
        let paths = paths::read(&self.paths.maps)?;
        Ok(paths.into_iter().map(|(path, packets)| PathRecord { path: path.name(), packets }).collect())
    }

    fn program(&self, name: &str, links: &[PathBuf]) -> ProgramRecord {
        let prefix = format!("{name}-");
        let path = links
            .iter()
            .find(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&prefix)));
        let link = path.and_then(|path| Link::read(path));
        let pin = path.and_then(|path| path.file_name()).map(|name| self.paths.programs.join(name));
        ProgramRecord {
            name: name.into(),
            // The link of a cgroup that is gone stays, but leads nowhere.
            attached: link.is_some_and(|link| link.cgroup_id != 0),
            id: link.map(|link| link.program_id),
            tag: link.map(|link| format!("{:016x}", link.tag)),
            cgroup_id: link.map(|link| link.cgroup_id),
            jited_bytes: pin.and_then(|pin| ProgramInfo::from_pin(pin).ok()).map(|info| info.size_jitted()),
        }
    }

    fn maps_of_sockets(&self) -> Result<Vec<MapRecord>> {
        let mut records = vec![
            record(&self.maps.services)?,
            record(&self.maps.slots)?,
            record(&self.maps.backends)?,
            record(&self.maps.frontends)?,
            record(&self.maps.addresses)?,
            ranges::<SourceRange>(&self.paths.maps, "SOURCE_RANGES")?,
            record(&self.maps.info)?,
            record(&self.flows.affinity)?,
            record(&self.flows.sticky)?,
            record(&self.flows.udp_peers)?,
            record(&self.flows.tcp_peers)?,
            counted("SERVICE_STATS", &self.maps.service_stats, self.maps.services.capacity()),
            counted("BACKEND_STATS", &self.maps.backend_stats, self.maps.backends.capacity()),
        ];
        if self.paths.maps.join(LOADS).exists() {
            records.push(record(&Table::<LoadKey, u64>::open(&self.paths.maps, LOADS)?)?);
            records.push(record(&Table::<u64, LoadKey>::open(&self.paths.maps, CONNECTED)?)?);
        }
        Ok(records)
    }

    fn maps_of_packets(&self) -> Result<Vec<MapRecord>> {
        let folder = &self.paths.maps;
        if !folder.join(FLOWS).exists() {
            return Ok(Vec::new());
        }
        Ok(vec![
            record(&Table::<Tuple, Flow>::open(folder, FLOWS)?)?,
            record(&Table::<Tuple, Reply>::open(folder, REPLIES)?)?,
            record(&Table::<FragmentKey, FragmentPorts>::open(folder, "FRAGMENTS")?)?,
            ranges::<Address>(folder, INSIDE)?,
        ])
    }
}

/// Where programs of these names are on devices, in that order: by links pinned in the folder `links`, or as filters of a clsact
/// qdisc in this thread's network namespace.
///
/// # Errors
/// When the folder cannot be read, or the kernel not be asked.
pub fn on_devices(programs: impl IntoIterator<Item = &'static str>, links: &Path) -> Result<Vec<DeviceRecord>> {
    let pins = bpffs::pins(links)?;
    let filters = devices::filters::all()?;
    let mut records = Vec::new();
    for program in programs {
        records.extend(pins.iter().filter_map(|pin| linked(program, pin)));
        let placed = filters.iter().filter(|(_, _, filter)| filter.program == program);
        records.extend(placed.map(|(device, _, filter)| DeviceRecord {
            program: program.into(),
            device: device.clone(),
            attached: filter.id.is_some(),
            is_filter: true,
            id: filter.id,
            tag: filter.tag.map(|tag| format!("{tag:016x}")),
        }));
    }
    Ok(records)
}

fn linked(program: &'static str, pin: &Path) -> Option<DeviceRecord> {
    let device = pins::device(pin, program)?;
    let pinned = pins::Pinned::read(pin);
    Some(DeviceRecord {
        program: program.into(),
        device,
        attached: pinned.is_some(),
        is_filter: false,
        id: pinned.as_ref().map(|pinned| pinned.program),
        tag: pinned.as_ref().map(|pinned| format!("{:016x}", pinned.tag)),
    })
}

fn warnings(programs: &[ProgramRecord], devices: &[DeviceRecord], maps: &[MapRecord]) -> Vec<String> {
    let loose = programs.iter().filter(|program| !program.attached);
    let loose = loose.map(|program| format!("{} is attached to no cgroup: sockets are not served by it", program.name));
    let dead = devices.iter().filter(|device| !device.attached);
    let dead = dead.map(|device| format!("{} has a link whose device {} is gone", device.program, device.device));
    // Maps that make room by themselves are full on a busy node: their programs cope.
    let full = maps.iter().filter(|map| !MAKE_ROOM.contains(&map.name.as_str()));
    let full = full.filter(|map| map.entries * 100 > map.capacity * NEARLY_FULL);
    let full = full.map(|map| format!("{} is nearly full: {} of {} entries", map.name, map.entries, map.capacity));
    loose.chain(dead).chain(full).collect()
}

/// Maps that are made larger when they fill up, and how large.
fn growing() -> impl Iterator<Item = (&'static str, u32)> {
    // The room for Maglev tables is added to one of them, and goes without saying.
    let all = pinned(Part::Sockets { maglev: 0 }, &MapSizes::MOST).into_iter();
    all.filter(|(name, _)| !MAKE_ROOM.contains(name)).filter_map(|(name, most)| Some((name, most?)))
}

/// Maps that forget the entry that was not used for longest.
const MAKE_ROOM: [&str; 7] = ["AFFINITY", "STICKY", "UDP_PEERS", "TCP_PEERS", FLOWS, REPLIES, "FRAGMENTS"];

fn record<K: Pod, V: Pod>(table: &Table<K, V>) -> Result<MapRecord> {
    let capacity = table.capacity();
    Ok(MapRecord { name: table.name().into(), entries: table.count()?, capacity, most: capacity })
}

/// A trie of prefixes.
fn ranges<K: Pod>(folder: &Path, name: &'static str) -> Result<MapRecord> {
    let data = MapData::from_pin(folder.join(name)).map_err(Error::map(name))?;
    let capacity = data.info().map_err(Error::map(name))?.max_entries() as usize;
    let entries = trie::<K, u32>(folder, name)?.keys().flatten().count();
    Ok(MapRecord { name: name.into(), entries, capacity, most: capacity })
}

fn counted<V: Pod>(name: &str, map: &PerCpuHashMap<MapData, u32, V>, capacity: usize) -> MapRecord {
    MapRecord { name: name.into(), entries: map.keys().flatten().count(), capacity, most: capacity }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_loose_dead_or_nearly_full_is_warned_of() {
        let program = |name: &str, attached| ProgramRecord {
            name: name.into(),
            attached,
            id: None,
            tag: None,
            cgroup_id: None,
            jited_bytes: None,
        };
        let device = |attached| DeviceRecord {
            program: "from_pod".into(),
            device: "eth0".into(),
            attached,
            is_filter: false,
            id: None,
            tag: None,
        };
        let map = |name: &str, entries| MapRecord { name: name.into(), entries, capacity: 100, most: 100 };
        assert_eq!(warnings(&[program("connect4", true)], &[device(true)], &[map("SERVICES", 90)]), [""; 0]);
        let all = warnings(&[program("connect4", false)], &[device(false)], &[map("SERVICES", 91), map("FLOWS", 100)]);
        assert_eq!(all.len(), 3);
        assert!(
            all[0].starts_with("connect4 is attached to no cgroup")
                && all[2] == "SERVICES is nearly full: 91 of 100 entries"
        );
    }
}
