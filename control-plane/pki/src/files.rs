//! Files that are whole or not there: written beside their place, synced, then renamed over it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

/// No file of a PKI comes near this; anything larger is not one.
const MAX_FILE: u64 = 4 << 20;

/// Writes a file only its owner may read (mode 0600), atomically.
///
/// # Errors
/// [`Error::Io`] naming the file.
pub fn write_private(path: &Path, contents: &str) -> Result<()> {
    write(path, contents, 0o600)
}

/// Writes a file everyone may read (mode 0644), atomically.
///
/// # Errors
/// [`Error::Io`] naming the file.
pub fn write_public(path: &Path, contents: &str) -> Result<()> {
    write(path, contents, 0o644)
}

fn write(path: &Path, contents: &str, mode: u32) -> Result<()> {
    // A name of our own for each write: two processes (or threads) writing the same file never share a temporary.
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.{}.tmp", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed)));
    let temporary = PathBuf::from(temporary);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.write_all(contents.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        // The rename itself must survive a power cut too.
        match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => File::open(parent)?.sync_all(),
            None => File::open(".")?.sync_all(),
        }
    })();
    written.map_err(|source| {
        let _ = fs::remove_file(&temporary);
        Error::Io { action: "write", path: path.to_owned(), source }
    })
}

/// The text of a file, or `None` when there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    let mut text = String::new();
    match file.take(MAX_FILE).read_to_string(&mut text) {
        Ok(_) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::InvalidData => Err(Error::invalid(path.display(), "not a text file")),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

/// Makes a directory (and its parents) that only its owner may enter; one that exists is left as it is.
pub(crate) fn create_dir(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::io("create", path))
}

/// Holds a directory for one process at a time; released on drop, and by the kernel when the process dies.
pub(crate) struct DirLock(#[expect(dead_code, reason = "held for its lock")] File);

impl DirLock {
    /// Waits until no other process holds `dir`.
    pub(crate) fn acquire(dir: &Path) -> Result<Self> {
        let path = dir.join(".lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io("create", &path))?;
        file.lock().map_err(Error::io("lock", &path))?;
        Ok(Self(file))
    }
}
