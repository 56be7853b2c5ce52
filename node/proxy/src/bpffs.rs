//! The place of the pins: a BPF file system, mounted if need be, and taken down again by [`cleanup`].
//!
//! ```text
//! <mount point>/mounted-by-skep/   there if we mounted it (a BPF file system holds no plain files)
//! <bpf root>/v3/maps/SERVICES ...
//! <bpf root>/v3/links/connect4-<program tag>-<cgroup id> ...
//! <bpf root>/v3/programs/connect4-<program tag>-<cgroup id> ...
//! <bpf root>/v3/filling/, next/   only while maps grow, or after a death meanwhile: see `growth`
//! ```

use std::{
    ffi::OsString,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use skep_ebpf_common::LAYOUT_VERSION;

use crate::{Error, Result};

/// Where BPF file systems are mounted by custom. Nothing can be created beside it, so it is mounted as a whole.
const SYSTEM: &str = "/sys/fs/bpf";

const MARKER: &str = "mounted-by-skep";

/// Their names.
const FOLDERS: [&str; 5] = ["maps", "links", "programs", "filling", "next"];

/// Folders of the pins.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) version: PathBuf,
    pub(crate) maps: PathBuf,
    pub(crate) links: PathBuf,
    pub(crate) programs: PathBuf,
    /// Larger maps that nobody uses yet.
    pub(crate) filling: PathBuf,
    /// Larger maps that are whole, and take the places of others.
    pub(crate) next: PathBuf,
}

impl Paths {
    pub(crate) fn new(bpf_root: &Path) -> Self {
        let version = bpf_root.join(format!("v{LAYOUT_VERSION}"));
        let [maps, links, programs, filling, next] = FOLDERS.map(|folder| version.join(folder));
        Self { version, maps, links, programs, filling, next }
    }

    fn all(&self) -> [&Path; 3] {
        [&self.maps, &self.links, &self.programs]
    }
}

/// Makes sure the folders exist on a BPF file system.
pub(crate) fn prepare(bpf_root: &Path) -> Result<Paths> {
    let point = point_for(bpf_root);
    let _turn = take_turn(point)?;
    if !is_bpffs(&existing(bpf_root)) {
        mount_on(point)?;
        let marker = point.join(MARKER);
        fs::create_dir_all(&marker).map_err(Error::io(format!("create {}", marker.display())))?;
    }
    let paths = Paths::new(bpf_root);
    for path in paths.all() {
        fs::create_dir_all(path).map_err(Error::io(format!("create {}", path.display())))?;
    }
    Ok(paths)
}

/// Keeps other daemons off the maps below a bpf root. It is gone with the process that holds it.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held for its locks")] Vec<File>);

/// Takes the lock: on the folder of every layout version, for two daemons of different versions must not run at once either.
pub(crate) fn lock(bpf_root: &Path) -> Result<Lock> {
    let mut folders = Vec::new();
    // In the same order for everybody, so that of two that start together one gets it.
    for version in pins(bpf_root)?.into_iter().filter(|path| is_layout(path)) {
        let what = || format!("lock {}", version.display());
        let folder = match File::open(&version) {
            Ok(folder) => folder,
            // Removed meanwhile by the daemon that took over.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::io(what())(error)),
        };
        match folder.try_lock() {
            Ok(()) => folders.push(folder),
            Err(TryLockError::WouldBlock) => return Err(Error::Busy(bpf_root.to_owned())),
            Err(TryLockError::Error(source)) => return Err(Error::io(what())(source)),
        }
    }
    Ok(Lock(folders))
}

/// Lets one at a time put programs onto devices or exchange maps, also within a process. To be held for moments only.
pub(crate) fn take_maps(paths: &Paths) -> Result<File> {
    let folder = File::open(&paths.maps).map_err(Error::io(format!("open {}", paths.maps.display())))?;
    folder.lock().map_err(Error::io(format!("lock {}", paths.maps.display())))?;
    Ok(folder)
}

/// Makes a place for new pins if somebody took the former one away, and locks it. What was pinned goes on for as long as the
/// former lock is held; what is pinned from now on is found by the next daemon. `None`: all is well.
pub(crate) fn mend(bpf_root: &Path) -> Result<Option<Lock>> {
    if Paths::new(bpf_root).maps.is_dir() {
        return Ok(None);
    }
    prepare(bpf_root)?;
    lock(bpf_root).map(Some)
}

/// Removes every pin below `bpf_root`, and the mount if [`prepare`] made it and nobody else uses it. Programs detach and
/// maps vanish with their pins, unless a process still holds them. Nothing there is no error.
///
/// # Errors
/// When another process holds the lock, or a file operation fails.
pub(crate) fn cleanup(bpf_root: &Path) -> Result<()> {
    if !is_bpffs(&existing(bpf_root)) {
        return Ok(());
    }
    let point = point_for(bpf_root);
    let _turn = take_turn(point)?;
    if bpf_root.exists() {
        remove_pins(bpf_root)?;
    }
    let marker = point.join(MARKER);
    if point != bpf_root || !marker.is_dir() {
        // Someone else's pins in it keep it, and so does someone else's mount on it.
        let _ = fs::remove_dir(bpf_root);
    }
    // The kernel's own `maps.debug` and `progs.debug` are no pins: those have no dot in their names.
    let is_pin = |name: OsString| name != MARKER && !name.as_encoded_bytes().contains(&b'.');
    let used = || fs::read_dir(point).is_ok_and(|entries| entries.flatten().any(|entry| is_pin(entry.file_name())));
    if marker.is_dir() && !used() {
        fs::remove_dir(&marker).map_err(Error::io(format!("remove {}", marker.display())))?;
        umount2(point, MntFlags::empty()).map_err(|errno| {
            // Still mounted, and still ours to unmount next time.
            let _ = fs::create_dir(&marker);
            Error::io(format!("unmount {}", point.display()))(errno.into())
        })?;
    }
    Ok(())
}

/// Removes the pins of every layout version; not while a daemon works on them.
fn remove_pins(bpf_root: &Path) -> Result<()> {
    let _lock = lock(bpf_root)?;
    pins(bpf_root)?.iter().filter(|path| is_layout(path)).try_for_each(|version| remove_layout(version))
}

/// Layout versions other than this one that have pins below `bpf_root`.
pub(crate) fn other_versions(bpf_root: &Path) -> Result<Vec<PathBuf>> {
    let own = Paths::new(bpf_root).version;
    Ok(pins(bpf_root)?.into_iter().filter(|path| *path != own && is_layout(path)).collect())
}

/// Removes pins of other layout versions. To be called once this version's programs are attached and its maps filled: until
/// then it is the others that serve.
pub(crate) fn remove_other_versions(bpf_root: &Path) -> Result<()> {
    for path in other_versions(bpf_root)? {
        tracing::info!(path = %path.display(), "removing the pins of another version");
        remove_layout(&path)?;
    }
    Ok(())
}

/// The files pinned in a folder; none if it is not there.
pub(crate) fn pins(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(format!("read {}", folder.display()))(error)),
    };
    let mut pins: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    pins.sort();
    Ok(pins)
}

/// Removes one pin; one that is gone already is no error.
pub(crate) fn unpin(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// `v<number>`, and nothing else, is ours to remove.
fn is_layout(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix('v'));
    name.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Links first: nothing must run on maps that are half gone.
fn remove_layout(version: &Path) -> Result<()> {
    for folder in ["links", "programs", "maps", "filling", "next"] {
        remove_folder(&version.join(folder))?;
    }
    fs::remove_dir(version).map_err(Error::io(format!("remove {}", version.display())))
}

/// Removes a folder with the pins in it; nothing there is no error.
pub(crate) fn remove_folder(folder: &Path) -> Result<()> {
    for pin in pins(folder)? {
        unpin(&pin)?;
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", folder.display()))(error))
        }
        _ => Ok(()),
    }
}

/// Where a BPF file system is mounted, if need be, such that `bpf_root` lies in it.
fn point_for(bpf_root: &Path) -> &Path {
    if bpf_root.starts_with(SYSTEM) { Path::new(SYSTEM) } else { bpf_root }
}

/// Lets one process at a time look at, mount or unmount `point`: two that start together must not mount one upon the other.
/// The folder above is locked, for it stays the same whatever is mounted.
fn take_turn(point: &Path) -> Result<File> {
    let above = point.parent().unwrap_or(point);
    fs::create_dir_all(above).map_err(Error::io(format!("create {}", above.display())))?;
    let folder = File::open(above).map_err(Error::io(format!("open {}", above.display())))?;
    folder.lock().map_err(Error::io(format!("lock {}", above.display())))?;
    Ok(folder)
}

fn mount_on(point: &Path) -> Result<()> {
    if point != Path::new(SYSTEM) {
        fs::create_dir_all(point).map_err(Error::io(format!("create {}", point.display())))?;
    }
    tracing::info!(path = %point.display(), "mounting a BPF file system");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), point, Some("bpf"), flags, Some("mode=0700")).map_err(|errno| {
        let what = format!("mount a BPF file system on {} (needs CAP_SYS_ADMIN)", point.display());
        Error::io(what)(errno.into())
    })
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}

/// The nearest ancestor that exists.
fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbered_versions_are_ours_to_remove() {
        assert!(is_layout(Path::new("/x/v1")));
        assert!(is_layout(Path::new("/x/v12")));
        for other in ["/x/v", "/x/vip", "/x/1", "/x/mounted-by-skep", "/x/v1x"] {
            assert!(!is_layout(Path::new(other)), "{other}");
        }
    }
}
