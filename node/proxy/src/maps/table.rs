//! One hash map: single writes, batches, reading everything.

use std::{
    fmt, io,
    marker::PhantomData,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError},
};

use crate::{Error, Result, sys};

/// A hash map with keys `K` and values `V`, whose sizes were compared with the kernel's when it was opened.
pub(crate) struct Table<K: Pod, V: Pod> {
    name: &'static str,
    capacity: usize,
    map: HashMap<MapData, K, V>,
    /// The same map once more: aya keeps its own descriptor to itself.
    fd: OwnedFd,
    types: PhantomData<(K, V)>,
}

impl<K: Pod, V: Pod> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("name", &self.name).field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

impl<K: Pod, V: Pod> Table<K, V> {
    /// Opens the map pinned in `folder` under `name`.
    pub(crate) fn open(folder: &Path, name: &'static str) -> Result<Self> {
        let data = MapData::from_pin(folder.join(name)).map_err(Error::map(name))?;
        let info = data.info().map_err(Error::map(name))?;
        let capacity = info.max_entries() as usize;
        let fd = data.fd().as_fd().try_clone_to_owned().map_err(Error::io(format!("duplicate map {name}")))?;
        let fits = |error| match error {
            MapError::InvalidKeySize { .. } | MapError::InvalidValueSize { .. } | MapError::InvalidMapType { .. } => {
                Error::Layout { name, detail: error.to_string() }
            }
            source => Error::Map { name, source },
        };
        let map = Map::from_map_data(data).map_err(fits)?.try_into().map_err(fits)?;
        Ok(Self { name, capacity, map, fd, types: PhantomData })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// The value of a key, if it is there.
    pub(crate) fn get(&self, key: &K) -> Result<Option<V>> {
        match self.map.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(self.failed("lookup", error)),
        }
    }

    pub(crate) fn insert(&mut self, key: &K, value: &V) -> Result<()> {
        self.map.insert(key, value, 0).map_err(|error| self.failed("update", error))
    }

    /// Removes a key; an absent one is no error.
    pub(crate) fn remove(&mut self, key: &K) -> Result<()> {
        match self.map.remove(key) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) if os_error(&error) == Some(libc::ENOENT) => Ok(()),
            Err(error) => Err(self.failed("delete", error)),
        }
    }

    /// Writes all pairs with one call. On failure the first of them may have been written.
    pub(crate) fn insert_batch(&mut self, keys: &[K], values: &[V]) -> Result<()> {
        sys::update_batch(self.fd.as_fd(), keys, values).map_err(|source| Error::MapIo {
            map: self.name,
            action: "batch update",
            source,
        })
    }

    /// Removes all keys; absent ones are no error.
    pub(crate) fn remove_batch(&mut self, keys: &[K]) -> Result<()> {
        match sys::delete_batch(self.fd.as_fd(), keys) {
            Ok(()) => Ok(()),
            // A batch ends at the first absent key.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                keys.iter().try_for_each(|key| self.remove(key))
            }
            Err(source) => Err(Error::MapIo { map: self.name, action: "batch delete", source }),
        }
    }

    /// All pairs.
    pub(crate) fn entries(&self) -> Result<Vec<(K, V)>> {
        sys::lookup_all(self.fd.as_fd()).map_err(|source| Error::MapIo {
            map: self.name,
            action: "batch lookup",
            source,
        })
    }

    /// How many pairs there are.
    pub(crate) fn count(&self) -> Result<usize> {
        sys::count::<K, V>(self.fd.as_fd()).map_err(|source| Error::MapIo {
            map: self.name,
            action: "batch lookup",
            source,
        })
    }

    fn failed(&self, action: &'static str, error: MapError) -> Error {
        match error {
            MapError::SyscallError(error) => Error::MapIo { map: self.name, action, source: error.io_error },
            source => Error::Map { name: self.name, source },
        }
    }
}

fn os_error(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(error) => io::Error::raw_os_error(&error.io_error),
        _ => None,
    }
}
