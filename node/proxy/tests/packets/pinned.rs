//! The rig's maps where a reader finds them.

use std::{fs, path::PathBuf};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use skep_ebpf_common::LAYOUT_VERSION;
use skep_proxy::maps::Reader;
use tempfile::TempDir;

use crate::rig::Rig;

/// On a BPF file system only this thread sees.
pub(crate) struct Pinned {
    dir: TempDir,
}

impl Pinned {
    pub(crate) fn new(rig: &Rig) -> Self {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let nothing = None::<&str>;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
        let this = Self { dir: tempfile::tempdir().unwrap() };
        mount(Some("bpf"), this.dir.path(), Some("bpf"), MsFlags::empty(), nothing).unwrap();
        let maps: PathBuf = this.dir.path().join(format!("v{LAYOUT_VERSION}/maps"));
        fs::create_dir_all(&maps).unwrap();
        rig.pin(&maps);
        this
    }

    pub(crate) fn reader(&self) -> Reader {
        Reader::open(self.dir.path()).unwrap()
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = umount2(self.dir.path(), MntFlags::MNT_DETACH);
    }
}
