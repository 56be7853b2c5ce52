//! Control groups of a cluster: one subtree in every hierarchy of the machine (v1, hybrid or pure v2).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::{mounts, process, wait};

/// The mount points of every cgroup hierarchy.
pub fn hierarchies() -> Result<Vec<PathBuf>> {
    let mounted = mounts::all()?;
    Ok(mounted.into_iter().filter(|m| matches!(m.kind.as_str(), "cgroup" | "cgroup2")).map(|m| m.point).collect())
}

/// The mount point of the v2 hierarchy, where BPF programs attach.
pub fn unified() -> Result<PathBuf> {
    let mounted = mounts::all()?;
    mounted
        .into_iter()
        .find(|m| m.kind == "cgroup2")
        .map(|m| m.point)
        .context("no cgroup2 filesystem is mounted: mount one, for example at /sys/fs/cgroup/unified")
}

/// The names of all top cgroups of the v2 hierarchy that begin with `prefix`.
pub fn list(prefix: &str) -> Result<Vec<String>> {
    let names = children(&unified()?).into_iter().filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
    Ok(names.filter(|name| name.starts_with(prefix)).collect())
}

/// Ends every process below `name` in every hierarchy and removes the subtree.
pub fn remove(name: &str) -> Result<()> {
    let name = name.trim_matches('/');
    anyhow::ensure!(!name.is_empty(), "the root cgroup cannot be removed");
    for hierarchy in hierarchies()? {
        let top = hierarchy.join(name);
        if !top.exists() {
            continue;
        }
        for pid in members(&top) {
            process::end(pid);
        }
        // The kernel lets a cgroup go a moment after its last process.
        wait::until(&format!("cannot remove cgroup {}", top.display()), Duration::from_secs(10), || remove_tree(&top))?;
    }
    Ok(())
}

fn members(folder: &Path) -> Vec<i32> {
    let own = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let own = own.lines().filter_map(|line| line.parse().ok()).collect::<Vec<i32>>();
    children(folder).iter().flat_map(|child| members(child)).chain(own).collect()
}

fn remove_tree(folder: &Path) -> Result<()> {
    for child in children(folder) {
        remove_tree(&child)?;
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context(folder.display().to_string()),
        _ => Ok(()),
    }
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.filter_map(Result::ok).filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}
