//! What is mounted, from `/proc/self/mountinfo`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};

/// A line of `/proc/self/mountinfo`, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub point: PathBuf,
    /// The filesystem's type, such as `cgroup2`.
    pub kind: String,
    /// The filesystem's own options, such as `rw,cpu`.
    pub options: String,
}

/// All mounts of this mount namespace, in order.
pub fn all() -> Result<Vec<Mount>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    Ok(text.lines().filter_map(parse).collect())
}

fn parse(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    Some(Mount {
        point: PathBuf::from(left.split(' ').nth(4)?.replace("\\040", " ")),
        kind: right.next()?.to_owned(),
        options: right.nth(1)?.to_owned(),
    })
}

/// Unmounts everything at or below `folder`, innermost first.
pub fn unmount_below(folder: &Path) -> Result<()> {
    for mount in all()?.iter().rev().filter(|mount| mount.point.starts_with(folder)) {
        umount2(&mount.point, MntFlags::MNT_DETACH)
            .with_context(|| format!("cannot unmount {}", mount.point.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_split_at_its_separator() {
        let line = "38 31 0:31 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        let expected =
            Mount { point: "/sys/fs/cgroup/unified".into(), kind: "cgroup2".into(), options: "rw,nsdelegate".into() };
        assert_eq!(parse(line), Some(expected));
    }
}
