//! The kernel object: loading it onto the pinned maps, attaching it, keeping what is attached already.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, loaded_maps},
    programs::{
        CgroupAttachMode, Program, ProgramError, ProgramInfo,
        links::{FdLink, LinkError},
    },
};

use crate::{
    Error, MapSizes, Result,
    bpffs::{self, Paths},
    kernel,
    maps::{self, Part},
    sys, verifier,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SKEP_EBPF_OBJECT"));

/// The programs, each named after its hook.
pub(crate) const PROGRAMS: [&str; 8] =
    ["connect4", "sendmsg4", "recvmsg4", "getpeername4", "connect6", "sendmsg6", "recvmsg6", "getpeername6"];

/// The one that hears of sockets that are closed, where connections are counted.
pub(crate) const ON_CLOSE: &str = "sock_release";

/// Loads the object; maps of that part pinned below `paths` are reused, missing ones created and pinned.
pub(crate) fn load(paths: &Paths, part: Part, sizes: &MapSizes) -> Result<Ebpf> {
    let maps = maps::pinned(part, sizes);
    load_onto(part, maps.into_iter().map(|(name, capacity)| (name, paths.maps.join(name), capacity)))
}

/// Loads the object onto maps: name, pin, and the capacity if it is created.
pub(crate) fn load_onto(
    part: Part,
    maps: impl IntoIterator<Item = (&'static str, PathBuf, Option<u32>)>,
) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    // The programs read no kernel structure that differs from kernel to kernel. aya has parsed the kernel's types by now
    // all the same (20 MiB, for a moment); at least they are not kept while the object is loaded.
    loader.btf(None);
    let has_set_retval = u8::from(kernel::has_set_retval());
    loader.override_global("HAS_SET_RETVAL", &has_set_retval, true);
    let mut counts = false;
    for (name, pin, capacity) in maps {
        counts |= name == maps::LOADS;
        loader.map_pin_path(name, pin);
        if let Some(capacity) = capacity {
            loader.map_max_entries(name, capacity);
        }
    }
    let least_connections = u8::from(counts);
    loader.override_global("LEAST_CONNECTIONS", &least_connections, true);
    if !counts {
        // Nobody's, as below.
        loader.map_max_entries(maps::LOADS, 1).map_max_entries(maps::CONNECTED, 1);
    }
    if let Part::Sockets { .. } = part {
        // An object is loaded with all its maps. These are nobody's, and go with it.
        for name in maps::OF_PACKETS {
            loader.map_max_entries(name, 1);
        }
    }
    Ok(loader.load(OBJECT)?)
}

/// What became of one program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// The same program was attached already and stays.
    Kept,
    /// It was attached, in place of an older one if there was one.
    Attached,
}

/// Attaches every program to the cgroup, or keeps the one that runs if it is the same. The new one always runs before the
/// old one goes: once the first has rewritten an address the second finds no Service behind it and does nothing.
pub(crate) fn attach(ebpf: &mut Ebpf, paths: &Paths, cgroup: &Path) -> Result<Vec<(&'static str, Attachment)>> {
    let cgroup_id = crate::cgroup::id(cgroup)?;
    let folder = File::open(cgroup).map_err(Error::io(format!("open cgroup {}", cgroup.display())))?;
    let pinned = pinned_maps(paths)?;
    let counts = paths.maps.join(maps::LOADS).exists();
    if !counts {
        for folder in [&paths.links, &paths.programs] {
            others(folder, ON_CLOSE)?.iter().try_for_each(|pin| bpffs::unpin(pin))?;
        }
    }
    PROGRAMS
        .into_iter()
        .chain(counts.then_some(ON_CLOSE))
        .map(|name| {
            let program = ebpf.program_mut(name).ok_or_else(|| Error::Object(format!("program {name}")))?;
            attach_one(name, program, paths, &pinned, &folder, cgroup_id).map(|attachment| (name, attachment))
        })
        .collect()
}

fn attach_one(
    name: &'static str,
    program: &mut Program,
    paths: &Paths,
    pinned: &BTreeSet<u32>,
    cgroup: &File,
    cgroup_id: u64,
) -> Result<Attachment> {
    let failed = |source| Error::Program { name, source };
    verifier::load(program).map_err(failed)?;
    let info = program.info().map_err(failed)?;
    let pin = format!("{name}-{:016x}-{cgroup_id}", info.tag());
    let link = paths.links.join(&pin);
    let runs = Link::read(&link).is_some_and(|link| link.tag == info.tag() && link.cgroup_id == cgroup_id)
        && ProgramInfo::from_pin(paths.programs.join(&pin)).is_ok_and(|old| same_maps(&old, &info, pinned));
    if !runs {
        // A pin of that name leads to a program on other maps or to a cgroup that is gone; it must not bar the way, yet go
        // only when the new one runs.
        if link.exists() {
            let aside = paths.links.join(format!("{name}-old"));
            bpffs::unpin(&aside)?;
            fs::rename(&link, &aside).map_err(Error::io(format!("rename {}", link.display())))?;
        }
        bpffs::unpin(&paths.programs.join(&pin))?;
        let owned = link_one(program, cgroup).map_err(failed)??;
        owned.pin(&link).map_err(|source| Error::Pin { what: format!("the link of {name}"), source })?;
        program
            .pin(paths.programs.join(&pin))
            .map_err(|source| Error::Pin { what: format!("program {name}"), source })?;
    }
    for folder in [&paths.links, &paths.programs] {
        for other in
            others(folder, name)?.iter().filter(|path| path.file_name().is_some_and(|name| name != pin.as_str()))
        {
            bpffs::unpin(other)?;
        }
    }
    Ok(if runs { Attachment::Kept } else { Attachment::Attached })
}

/// Attaches it. A link always allows others beside it; the kernel refuses to be told so.
fn link_one(program: &mut Program, cgroup: &File) -> Result<Result<FdLink, LinkError>, ProgramError> {
    let mode = CgroupAttachMode::Single;
    match program {
        Program::CgroupSockAddr(program) => {
            program.attach(cgroup, mode).and_then(|id| program.take_link(id)).map(TryInto::try_into)
        }
        Program::CgroupSock(program) => {
            program.attach(cgroup, mode).and_then(|id| program.take_link(id)).map(TryInto::try_into)
        }
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// The pins of a program in a folder, whatever version.
fn others(folder: &Path, name: &str) -> Result<Vec<PathBuf>> {
    let prefix = format!("{name}-");
    let ours = |path: &Path| path.file_name().and_then(|name| name.to_str()).is_some_and(|n| n.starts_with(&prefix));
    Ok(bpffs::pins(folder)?.into_iter().filter(|path| ours(path)).collect())
}

/// Do both programs work on the same pinned maps, and others of the same size? (Each has constants of its own besides. A
/// program that counts connections differs from one that does not only by them, and by the size of its maps.)
pub(crate) fn same_maps(a: &ProgramInfo, b: &ProgramInfo, pinned: &BTreeSet<u32>) -> bool {
    let maps = |program: &ProgramInfo| -> Option<BTreeMap<String, (u32, Option<u32>)>> {
        let ids: BTreeSet<u32> = program.map_ids().ok()??.into_iter().collect();
        let mut found = BTreeMap::new();
        for map in loaded_maps().filter_map(|map| map.ok()).filter(|map| ids.contains(&map.id())) {
            let pinned = pinned.contains(&map.id()).then_some(map.id());
            found.insert(map.name_as_str()?.to_owned(), (map.max_entries(), pinned));
        }
        (found.len() == ids.len()).then_some(found)
    };
    matches!((maps(a), maps(b)), (Some(a), Some(b)) if a == b)
}

/// The kernel's numbers of the pinned maps.
pub(crate) fn pinned_maps(paths: &Paths) -> Result<BTreeSet<u32>> {
    let pins = bpffs::pins(&paths.maps)?;
    Ok(pins.iter().filter_map(|pin| Some(MapData::from_pin(pin).ok()?.info().ok()?.id())).collect())
}

/// What the kernel says about a pinned link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) program_id: u32,
    pub(crate) tag: u64,
    pub(crate) cgroup_id: u64,
}

impl Link {
    /// `None` when nothing, or no link of a cgroup, is pinned there.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        let fd = sys::open_pin(path).ok()?;
        Self::parse(&fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?)
    }

    fn parse(fdinfo: &str) -> Option<Self> {
        let field =
            |name: &str| fdinfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim));
        Some(Self {
            program_id: field("prog_id")?.parse().ok()?,
            tag: u64::from_str_radix(field("prog_tag")?, 16).ok()?,
            cgroup_id: field("cgroup_id")?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_word_about_a_link_is_understood() {
        let text = "pos:\t0\nflags:\t02000000\nmnt_id:\t16\nino:\t1057\nlink_type:\tcgroup\nlink_id:\t4\nprog_tag:\t\
                    00000000deadbeef\nprog_id:\t21\ncgroup_id:\t1\nattach_type:\t10\n";
        assert_eq!(Link::parse(text), Some(Link { program_id: 21, tag: 0xdead_beef, cgroup_id: 1 }));
        assert_eq!(Link::parse("link_type:\txdp\nprog_id:\t1\nprog_tag:\t00\n"), None);
    }
}
