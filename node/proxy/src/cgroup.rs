//! Finding the cgroup to attach to.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use crate::{Error, Result};

/// The given cgroup, or the root of the mounted cgroup2 file system.
pub(crate) fn root(configured: Option<&Path>) -> Result<PathBuf> {
    let root = match configured {
        Some(path) => path.to_owned(),
        None => {
            let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(Error::io("read /proc/self/mountinfo"))?;
            mounted(&mounts).ok_or(Error::NoCgroup2)?
        }
    };
    match statfs(&root) {
        Ok(fs) if fs.filesystem_type() == CGROUP2_SUPER_MAGIC => Ok(root),
        Ok(_) => Err(Error::NotCgroup2(root)),
        Err(errno) => Err(Error::io(format!("look at cgroup {}", root.display()))(errno.into())),
    }
}

/// The kernel's number of a cgroup: the inode of its folder.
pub(crate) fn id(root: &Path) -> Result<u64> {
    Ok(fs::metadata(root).map_err(Error::io(format!("look at cgroup {}", root.display())))?.ino())
}

/// The folder of the cgroup with that number, in the mounted cgroup2 file system.
pub(crate) fn by_id(wanted: u64) -> Result<PathBuf> {
    let mut folders = vec![root(None)?];
    while let Some(folder) = folders.pop() {
        // Cgroups come and go while one looks.
        if id(&folder).is_ok_and(|id| id == wanted) {
            return Ok(folder);
        }
        let inside = fs::read_dir(&folder).into_iter().flatten().flatten();
        folders
            .extend(inside.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()));
    }
    Err(Error::NoCgroup)
}

/// Mount point of a cgroup2 file system in the text of `/proc/self/mountinfo`; one that shows its root is preferred.
fn mounted(mountinfo: &str) -> Option<PathBuf> {
    let mut best = None;
    for line in mountinfo.lines() {
        let Some((mount, source)) = line.split_once(" - ") else { continue };
        if source.split(' ').next() != Some("cgroup2") {
            continue;
        }
        let mut fields = mount.split(' ').skip(3);
        let (Some(shown), Some(point)) = (fields.next(), fields.next()) else { continue };
        let point = PathBuf::from(unescape(point));
        if shown == "/" {
            return Some(point);
        }
        best.get_or_insert(point);
    }
    best
}

/// Undoes the octal escapes of /proc/self/mountinfo for space, tab, newline and backslash.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup2_mount_is_found_in_a_hybrid_layout() {
        let text = "31 24 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                    32 31 0:28 / /sys/fs/cgroup/cpu rw,relatime shared:5 - cgroup cgroup rw,cpu\n\
                    41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(mounted(text), Some(PathBuf::from("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn a_mount_that_shows_the_root_is_preferred_and_spaces_are_understood() {
        let text = "1 0 0:38 /kubepods /a rw - cgroup2 cgroup2 rw\n2 0 0:38 / /b\\040c rw - cgroup2 cgroup2 rw\n";
        assert_eq!(mounted(text), Some(PathBuf::from("/b c")));
        assert_eq!(mounted("1 0 0:38 /kubepods /a rw - cgroup2 cgroup2 rw\n"), Some(PathBuf::from("/a")));
        assert_eq!(mounted("nonsense\n"), None);
    }
}
