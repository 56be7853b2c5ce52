//! The kernel's side: the object loaded onto pinned maps, its programs on pods' devices.
//!
//! ```text
//! <bpf root>/policy/v1/maps/POLICY_STATE ...
//! <bpf root>/policy/v1/links/policy_from_pod-<device> ...
//! ```
//!
//! Maps and links outlive the daemon: what was enforced stays enforced while it is away.

mod attach;
pub(crate) mod maps;
mod sys;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::{Ebpf, EbpfLoader, programs::SchedClassifier};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use skep_ebpf_common::policy::POLICY_LAYOUT_VERSION;

use crate::{Error, PodDevice, Result, Sizes};

pub(crate) use attach::{Method, PROGRAMS};
pub(crate) use maps::Maps;
pub(crate) use sys::wait_for_programs;

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SKEP_POLICY_OBJECT"));

/// Folders of the pins.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    own: PathBuf,
    version: PathBuf,
    pub(crate) maps: PathBuf,
    pub(crate) links: PathBuf,
}

impl Paths {
    pub(crate) fn new(bpf_root: &Path) -> Self {
        let own = bpf_root.join("policy");
        let version = own.join(format!("v{POLICY_LAYOUT_VERSION}"));
        Self { maps: version.join("maps"), links: version.join("links"), own, version }
    }

    /// Is something pinned there?
    pub(crate) fn exist(&self) -> bool {
        self.maps.join("POLICY_STATE").exists()
    }
}

/// The loaded object. Dropping it leaves what is attached attached.
#[derive(Debug)]
pub(crate) struct Kernel {
    ebpf: Ebpf,
    paths: Paths,
    attacher: attach::Attacher,
}

impl Kernel {
    /// Loads the programs on the maps pinned below `bpf_root`, which are created if need be. Attaches nothing yet.
    pub(crate) fn open(bpf_root: &Path, sizes: &Sizes, method: Method) -> Result<(Self, Maps)> {
        if !attach::is_at_least(5, 10) {
            let found = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
            return Err(Error::Kernel { found: found.trim().to_owned() });
        }
        if !is_bpffs(bpf_root) {
            return Err(Error::NoBpffs(bpf_root.to_owned()));
        }
        let paths = Paths::new(bpf_root);
        for path in [&paths.maps, &paths.links] {
            fs::create_dir_all(path).map_err(Error::io(format!("create {}", path.display())))?;
        }
        let mut ebpf = load(&paths, sizes)?;
        let maps = Maps::open(&paths.maps)?;
        attach::load(&mut ebpf)?;
        Ok((Self { ebpf, paths, attacher: attach::Attacher::new(method) }, maps))
    }

    /// Removes what daemons of other layouts left. To be called once this one enforces: until then it is they who do.
    pub(crate) fn remove_other_versions(&self) -> Result<()> {
        let versions = entries(&self.paths.own)?;
        versions.iter().filter(|version| **version != self.paths.version).try_for_each(|version| {
            tracing::info!(path = %version.display(), "removing what another version enforced policies with");
            remove_version(version)
        })
    }

    /// A loaded program, to be run on packets that were made up.
    pub(crate) fn program(&mut self, name: &'static str) -> Result<&mut SchedClassifier> {
        attach::program(&mut self.ebpf, name)
    }

    /// Attaches the programs to these devices, forgets those that are gone.
    pub(crate) fn attach(&mut self, devices: &[PodDevice]) -> Result<usize> {
        let links = &self.paths.links;
        // Somebody unmounted the file system, and the service data plane has mounted another.
        if !links.exists() && self.paths.own.parent().is_some_and(is_bpffs) {
            fs::create_dir_all(links).map_err(Error::io(format!("create {}", links.display())))?;
        }
        self.attacher.reconcile(&mut self.ebpf, &self.paths.links, devices)
    }
}

/// Loads the object; pinned maps are reused, missing ones created and pinned.
fn load(paths: &Paths, sizes: &Sizes) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    // The programs read no kernel structure that differs from kernel to kernel.
    loader.btf(None);
    for name in maps::PINNED {
        loader.map_pin_path(name, paths.maps.join(name));
    }
    for (name, capacity) in [
        ("POLICY_IDENTITIES", sizes.identities),
        // Many addresses share an identity; whose name finds no room is shown as a number.
        ("POLICY_NAMES", sizes.identities.min(65_536)),
        ("POLICY_RULES", sizes.rules),
        ("POLICY_FLOWS", sizes.flows),
    ] {
        loader.map_max_entries(name, capacity);
    }
    Ok(loader.load(OBJECT)?)
}

/// Takes all programs off the devices and removes maps and pins. Nothing there is no error.
///
/// # Errors
/// When a file operation fails.
pub(crate) fn cleanup(bpf_root: &Path) -> Result<()> {
    let paths = Paths::new(bpf_root);
    if !is_bpffs(bpf_root) || !paths.own.exists() {
        return Ok(());
    }
    attach::remove_filters();
    entries(&paths.own)?.iter().try_for_each(|version| remove_version(version))?;
    remove(&paths.own, fs::remove_dir)
}

/// Links first: nothing must run on maps that are half gone.
fn remove_version(version: &Path) -> Result<()> {
    for folder in [version.join("links"), version.join("maps")] {
        for pin in entries(&folder)? {
            remove(&pin, fs::remove_file)?;
        }
        remove(&folder, fs::remove_dir)?;
    }
    remove(version, fs::remove_dir)
}

/// What is in a folder; nothing if it is not there.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io(format!("read {}", folder.display()))(error)),
    }
}

/// Removes something; what is gone already is no error.
fn remove(path: &Path, how: impl FnOnce(PathBuf) -> io::Result<()>) -> Result<()> {
    match how(path.to_owned()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

fn is_bpffs(path: &Path) -> bool {
    let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    statfs(existing).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}
