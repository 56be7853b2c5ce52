//! Kernel settings of the calling thread's network namespace.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use crate::{Error, Result};

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(name)
}

/// The value of `net/NAME`.
pub(crate) fn get(name: &str) -> Result<String> {
    let path = path(name);
    Ok(fs::read_to_string(&path).map_err(Error::io("read", &path))?.trim().to_owned())
}

/// Sets `net/NAME` unless it has the value already (so that a read-only /proc/sys with the right values will do).
pub(crate) fn set(name: &str, value: &str) -> Result<()> {
    if get(name)? == value {
        return Ok(());
    }
    let path = path(name);
    fs::write(&path, value).map_err(Error::io("write", &path))
}

/// As [`set`], but a kernel without the setting (IPv6 not built in or disabled) is fine.
pub(crate) fn set_if_present(name: &str, value: &str) -> Result<()> {
    match set(name, value) {
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
