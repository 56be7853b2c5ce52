//! The very first start on a data directory. An etcd that is killed in the middle of it leaves a member that belongs to no
//! cluster and never elects a leader. A marker file tells such a directory from one that holds data: it is written
//! before etcd first runs there and removed, durably, before anybody is told where that etcd listens.

use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use tracing::warn;

/// A start that is under way.
#[must_use]
pub(super) struct Bootstrap {
    /// `None`: the directory was in use before.
    marker: Option<PathBuf>,
}

/// Clears what a first start left unfinished, and marks a new one.
pub(super) fn begin(data_dir: &Path, marker: PathBuf) -> Result<Bootstrap> {
    // Everything etcd keeps is in here.
    let member = data_dir.join("member");
    let step = || -> io::Result<bool> {
        if marker.try_exists()? {
            if member.try_exists()? {
                warn!(data_dir = %data_dir.display(), "etcd was killed before it first answered here; setting it up anew");
                fs::remove_dir_all(&member)?;
            }
            return Ok(true);
        }
        if member.try_exists()? {
            return Ok(false);
        }
        File::create(&marker)?;
        sync_parent(&marker)?;
        Ok(true)
    };
    match step() {
        Ok(first) => Ok(Bootstrap { marker: first.then_some(marker) }),
        Err(e) => Err(Error::Supervisor(format!("cannot prepare {}: {e}", data_dir.display()))),
    }
}

impl Bootstrap {
    /// etcd has answered: from now on its data counts.
    pub(super) fn complete(self) -> Result<()> {
        let Some(marker) = self.marker else { return Ok(()) };
        // If it came back after a power failure, data would be taken for an unfinished start.
        let removed = fs::remove_file(&marker).and_then(|()| sync_parent(&marker));
        removed.map_err(|e| Error::Supervisor(format!("cannot remove {}: {e}", marker.display())))
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}
