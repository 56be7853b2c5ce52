//! Network namespaces of pods.

use std::fs::File;
use std::path::Path;

use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, statfs};

use crate::{Error, Result};

/// Opens the file that stands for a network namespace.
pub(crate) fn open(path: &Path) -> Result<File> {
    let failed = |source| Error::Namespace { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    if !is_namespace(path) {
        return Err(failed(std::io::Error::other("the file is not a namespace (its mount is gone)")));
    }
    Ok(file)
}

/// Whether `path` still stands for a namespace: a file whose namespace was unmounted is an ordinary, empty one.
pub(crate) fn is_namespace(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.filesystem_type() == NSFS_MAGIC)
}

/// Runs `work` inside the namespace, on a thread of its own that ends with it: no other work can ever run in it by mistake.
pub(crate) fn within<T: Send>(path: &Path, namespace: &File, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let entered = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET)
                .map_err(|errno| Error::Namespace { path: path.to_owned(), source: errno.into() })?;
            work()
        });
        entered.join().unwrap_or_else(|_| Err(Error::Broken("the thread inside the pod's namespace died".to_owned())))
    })
}
