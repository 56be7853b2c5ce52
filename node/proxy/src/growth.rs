//! Maps are made larger while everything goes on serving.
//!
//! The kernel cannot enlarge a map. So a larger one is made, filled, and put under programs that replace those that run:
//!
//! ```text
//! prepare   v4/filling/NAME  larger and empty; the attached programs once more, on these maps, attached nowhere yet
//! fill      what v4/maps/NAME hold; then v4/filling becomes v4/next at once
//! switch    each link gets its program on the new maps, in place; then what the old ones noted meanwhile is copied, too
//! settle    v4/next/NAME takes the place of v4/maps/NAME, one by one
//! ```
//!
//! Only the first takes long (the verifier looks at each program), and it can run beside everything else. During the others
//! nobody else may write to the maps that say what is served.
//!
//! # What a death leaves
//! Before `v4/next` is there: the old maps, and programs on nothing else; [`resume`] removes `v4/filling`. Afterwards: maps
//! that hold the same twice, and each program on either; [`resume`] goes on from there. Both serve meanwhile.
//!
//! # What it costs
//! Nothing that is in the maps is lost. Programs of different devices must not know different flows, so while the maps of
//! flows are copied and exchanged (tens of milliseconds) no flow begins: a first packet is dropped, as on a bad line, and
//! comes again; a death meanwhile makes that [`HOLD`]. Counters miss what is counted meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::{Array, Map, MapData, MapError},
    programs::Program,
};

use crate::{
    Error, MapSizes, Result,
    bpffs::{self, Paths},
    devices::filters::{self, Placed},
    maps::{self, FLOWS, LOADS, Part, REPLIES, reader::trace::since_boot},
    object,
    sys::{
        self,
        raw::{Copy, RawMap, link_update},
    },
    verifier,
};

/// Larger maps by name, with how many entries each shall hold.
pub type Larger = BTreeMap<&'static str, u32>;

/// For how long at most no flow may begin, seconds.
const HOLD: u64 = 3;

/// Name of the map with the word that says so.
const TRACKING: &str = "TRACKING";

/// Larger maps on their way. Dropping it at any point leaves what a death would leave.
#[derive(Debug)]
pub struct Growth {
    paths: Paths,
    part: Part,
    ebpf: Ebpf,
    /// The maps that are replaced.
    names: BTreeSet<&'static str>,
}

impl Growth {
    /// Makes maps of that many entries, and loads the programs that are attached onto them. Takes about a second for each
    /// program that sees packets.
    ///
    /// # Errors
    /// When the kernel refuses something, or has no memory for the maps. Nothing is left of it then.
    pub fn prepare(bpf_root: &Path, larger: &Larger) -> Result<Self> {
        let paths = Paths::new(bpf_root);
        bpffs::remove_folder(&paths.filling)?;
        fs::create_dir(&paths.filling).map_err(Error::io(format!("create {}", paths.filling.display())))?;
        let part = part(&paths);
        let prepared = Self::load(&paths, part, &paths.filling, larger);
        prepared.inspect_err(|_| drop(bpffs::remove_folder(&paths.filling)))
    }

    /// Loads the object onto the maps in `folder` (which are made if they are in `larger` and not there yet), and the others
    /// where they are.
    fn load(paths: &Paths, part: Part, folder: &Path, larger: &Larger) -> Result<Self> {
        let mut names = BTreeSet::new();
        let places: Vec<(&'static str, PathBuf, Option<u32>)> = maps::pinned(part, &there(paths))
            .into_iter()
            .map(|(name, _)| {
                let pin = folder.join(name);
                if larger.contains_key(name) || pin.exists() {
                    names.insert(name);
                    (name, pin, larger.get(name).copied())
                } else {
                    (name, paths.maps.join(name), None)
                }
            })
            .collect();
        let ebpf = object::load_onto(part, places)?;
        let mut this = Self { paths: paths.clone(), part, ebpf, names };
        let linked = this.links()?.into_iter().map(|(_, name)| name);
        let filters = this.filters()?;
        for name in linked.chain(filters.iter().map(|filter| filter.program().to_owned())) {
            this.program(&name)?;
        }
        Ok(this)
    }

    /// Does the rest. Afterwards the larger maps are where the others were.
    ///
    /// # Errors
    /// When the kernel refuses something. Everything is as it was then, or [`resume`] will go on with it.
    pub fn finish(mut self) -> Result<()> {
        let _turn = bpffs::take_maps(&self.paths)?;
        let held = self.hold()?;
        let done = self.fill().and_then(|()| self.switch());
        drop(held);
        if done.is_err() && !self.paths.next.exists() {
            // They would only take memory.
            bpffs::remove_folder(&self.paths.filling)?;
        }
        done.and_then(|()| self.settle())
    }

    /// Lets no flow begin while the maps of flows are exchanged.
    fn hold(&self) -> Result<Option<Held>> {
        let of_flows = self.part == Part::Packets && [FLOWS, REPLIES].iter().any(|name| self.names.contains(name));
        of_flows.then(|| Held::new(&self.paths)).transpose()
    }

    /// Copies what the maps hold. From now on there is no way back.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn fill(&mut self) -> Result<()> {
        if part(&self.paths) != self.part {
            // Programs that see packets came meanwhile; those loaded here know nothing of their maps.
            return Err(Error::Superseded);
        }
        self.copy(&self.paths.filling, Copy::All)?;
        fs::rename(&self.paths.filling, &self.paths.next)
            .map_err(Error::io(format!("rename {}", self.paths.filling.display())))
    }

    /// Exchanges the program of every link, in place.
    ///
    /// # Errors
    /// When a program cannot be loaded, or a map not be read or written. A link that refuses its program is logged.
    pub fn switch(&mut self) -> Result<()> {
        for (pin, name) in self.links()? {
            self.replace(&pin, &name)?;
        }
        for filter in self.filters()? {
            let program = self.program(filter.program())?;
            let program = program.try_into().map_err(|source| Error::Program { name: filter.program(), source })?;
            filter.replace(program)?;
        }
        self.copy(&self.paths.next, Copy::Missing)
    }

    /// Puts the larger maps into their places.
    ///
    /// # Errors
    /// When a pin cannot be renamed.
    pub fn settle(self) -> Result<()> {
        for pin in bpffs::pins(&self.paths.next)? {
            if let Some(name) = pin.file_name() {
                fs::rename(&pin, self.paths.maps.join(name)).map_err(Error::io(format!("rename {}", pin.display())))?;
            }
        }
        bpffs::remove_folder(&self.paths.next)
    }

    /// Copies the maps that are replaced, as far as they are still in their places, into those in `folder`.
    fn copy(&self, folder: &Path, which: Copy) -> Result<()> {
        for name in self.names.iter().copied() {
            let failed = |action| move |source| Error::MapIo { map: name, action, source };
            let from = RawMap::open(&self.paths.maps.join(name)).map_err(failed("open"))?;
            let to = folder.join(name);
            if to.exists() {
                from.copy_to(&RawMap::open(&to).map_err(failed("open"))?, which).map_err(failed("copy"))?;
            }
        }
        Ok(())
    }

    /// Pinned links, each with the name of its program; those of programs this object has not got are not ours.
    fn links(&self) -> Result<Vec<(PathBuf, String)>> {
        let programs: Vec<&str> = self.ebpf.programs().map(|(name, _)| name).collect();
        // The name before the first hyphen begins with the program's; a mode may follow that.
        let of = |pin: &Path| {
            let file = pin.file_name()?.to_str()?.split('-').next()?;
            let is_of = |name: &&&str| file.starts_with(**name);
            programs.iter().filter(is_of).max_by_key(|name| name.len()).map(|name| (*name).to_owned())
        };
        let pins = bpffs::pins(&self.paths.links)?;
        Ok(pins.into_iter().filter_map(|pin| of(&pin).map(|name| (pin, name))).collect())
    }

    /// Programs that are filters of devices.
    fn filters(&self) -> Result<Vec<Placed>> {
        if self.part == Part::Packets { filters::ours() } else { Ok(Vec::new()) }
    }

    /// A program, loaded when first asked for.
    fn program(&mut self, name: &str) -> Result<&mut Program> {
        let program = self.ebpf.program_mut(name).ok_or_else(|| Error::Object(format!("program {name}")))?;
        if program.fd().is_err() {
            verifier::load(program).map_err(|source| Error::Exchange { name: name.to_owned(), source })?;
        }
        Ok(program)
    }

    fn replace(&mut self, pin: &Path, name: &str) -> Result<()> {
        let program = self.program(name)?;
        let fd = program.fd().map_err(|source| Error::Exchange { name: name.to_owned(), source })?.as_fd();
        let updated = sys::open_pin(pin).and_then(|link| link_update(link.as_fd(), fd));
        match updated {
            Ok(()) => {}
            // Its device or cgroup is gone.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOLINK | libc::ENOENT)) => return Ok(()),
            Err(error) => tracing::error!(link = %pin.display(), %error, "a program stays on a map that was replaced"),
        }
        // Programs of cgroups are pinned beside their links.
        let Some(file) = pin.file_name() else { return Ok(()) };
        let pinned = self.paths.programs.join(file);
        if pinned.exists() {
            bpffs::unpin(&pinned)?;
            let what = format!("program {name}");
            self.program(name)?.pin(&pinned).map_err(|source| Error::Pin { what, source })?;
        }
        Ok(())
    }
}

/// While it lives no flow begins.
struct Held {
    word: Array<MapData, u32>,
    before: u32,
}

impl Held {
    fn new(paths: &Paths) -> Result<Self> {
        let failed = Error::map(TRACKING);
        let data = MapData::from_pin(paths.maps.join(TRACKING));
        let open = || -> Result<(Array<MapData, u32>, u32), MapError> {
            let word: Array<MapData, u32> = Map::from_map_data(data?)?.try_into()?;
            // What a death left is over: it was but a moment.
            let before = word.get(&0, 0)?.min(1);
            Ok((word, before))
        };
        let (mut word, before) = open().map_err(failed)?;
        let until = u32::try_from(since_boot()?.as_secs() + HOLD).unwrap_or(u32::MAX);
        word.set(0, until, 0).map_err(Error::map(TRACKING))?;
        Ok(Self { word, before })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // It ends by itself, too.
        let _ = self.word.set(0, self.before, 0);
    }
}

/// Goes on with what a former daemon left half done.
///
/// # Errors
/// When the kernel refuses something.
pub(crate) fn resume(paths: &Paths) -> Result<()> {
    bpffs::remove_folder(&paths.filling)?;
    if !paths.next.exists() {
        return Ok(());
    }
    tracing::info!("going on with maps that were being made larger");
    let mut growth = Growth::load(paths, part(paths), &paths.next, &Larger::new())?;
    let _turn = bpffs::take_maps(paths)?;
    let held = growth.hold()?;
    // What programs on the old maps have noted since is newer.
    growth.copy(&paths.next, Copy::All)?;
    growth.switch()?;
    drop(held);
    growth.settle()
}

/// The pinned maps that are smaller than they shall be. One that is larger stays so.
pub(crate) fn wanted(paths: &Paths, part: Part, sizes: &MapSizes) -> Larger {
    let mut larger = Larger::new();
    // Those of flows are there where programs see packets, whichever programs are loaded first.
    let of_flows = [FLOWS, REPLIES].map(|name| (name, Some(sizes.flows)));
    let all: BTreeMap<_, _> = maps::pinned(part, sizes).into_iter().chain(of_flows).collect();
    for (name, wanted) in all {
        let (Some(wanted), Ok(map)) = (wanted, RawMap::open(&paths.maps.join(name))) else { continue };
        let has = map.capacity();
        if has < wanted {
            larger.insert(name, wanted);
        } else if has > wanted {
            tracing::info!(map = name, has, wanted, "a map that is larger than asked for stays so");
        }
    }
    larger
}

/// Which maps are there.
fn part(paths: &Paths) -> Part {
    if paths.maps.join(FLOWS).exists() { Part::Packets } else { Part::Sockets { maglev: 0 } }
}

/// Which maps are there that need not be: what is asked of it is only their names.
fn there(paths: &Paths) -> MapSizes {
    MapSizes { connections: u32::from(paths.maps.join(LOADS).exists()), ..MapSizes::default() }
}
