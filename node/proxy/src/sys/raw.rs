//! Maps and links whatever their types: copying one map into another, exchanging the program of a link.
//!
//! Audit: pointers handed to the kernel are to buffers that live for the call and hold at least as many elements, of the
//! sizes the kernel itself told of that map.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use aya::{
    maps::{MapData, MapType},
    util::nr_cpus,
};

use super::{BPF_MAP_LOOKUP_BATCH, BPF_MAP_UPDATE_BATCH, Batch, bpf};

const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_GET_NEXT_KEY: libc::c_int = 4;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_DETACH: libc::c_int = 34;

const BPF_ANY: u64 = 0;
const BPF_NOEXIST: u64 = 1;

/// How many entries are asked for at once at first.
const BATCH: usize = 4096;

/// `bpf_attr` of the calls about one element.
#[repr(C)]
#[derive(Default)]
struct Element {
    map_fd: u32,
    pad: u32,
    key: u64,
    /// Or the next key.
    value: u64,
    flags: u64,
}

/// `bpf_attr.link_update`.
#[repr(C)]
#[derive(Default)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Puts a program into a link in place of the one it has; no packet and no call meets none. Minimum kernel: 5.7 for links of
/// cgroups, 5.9 for XDP, 6.6 for TCX.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdate {
        link_fd: link.as_raw_fd() as u32,
        new_prog_fd: program.as_raw_fd() as u32,
        ..LinkUpdate::default()
    };
    bpf(BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// `bpf_attr.link_detach`.
#[repr(C)]
#[derive(Default)]
struct LinkDetach {
    link_fd: u32,
}

/// Takes the program of a link off, at once: else it is for a moment after the link's last holder is gone. Minimum kernel: 5.9.
pub(crate) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(BPF_LINK_DETACH, &mut LinkDetach { link_fd: link.as_raw_fd() as u32 }).map(drop)
}

/// Which entries a copy writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copy {
    /// All of them.
    All,
    /// Those that lack.
    Missing,
}

/// A map of any type that has keys.
#[derive(Debug)]
pub(crate) struct RawMap {
    fd: OwnedFd,
    kind: MapType,
    key: usize,
    /// Bytes of a value as system calls have it: that of every CPU, for maps with one for each.
    value: usize,
    capacity: u32,
}

impl RawMap {
    /// Opens the map pinned there.
    pub(crate) fn open(pin: &Path) -> io::Result<Self> {
        let data = MapData::from_pin(pin).map_err(io::Error::other)?;
        let info = data.info().map_err(io::Error::other)?;
        let kind = info.map_type().map_err(io::Error::other)?;
        let value = info.value_size() as usize;
        let value = match kind {
            MapType::PerCpuHash | MapType::LruPerCpuHash => {
                value.next_multiple_of(8) * nr_cpus().map_err(|(_, error)| error)?
            }
            _ => value,
        };
        let fd = data.fd().as_fd().try_clone_to_owned()?;
        Ok(Self { fd, kind, key: info.key_size() as usize, value, capacity: info.max_entries() })
    }

    /// How many entries it can hold.
    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Writes this map's entries into another one of the same shape. What changes meanwhile may be missed.
    pub(crate) fn copy_to(&self, to: &Self, which: Copy) -> io::Result<()> {
        if (self.kind, self.key, self.value) != (to.kind, to.key, to.value) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the maps differ in shape"));
        }
        match self.kind {
            MapType::Hash | MapType::LruHash | MapType::PerCpuHash | MapType::LruPerCpuHash => {
                self.copy_batches(to, which)
            }
            _ => self.copy_singly(to, which),
        }
    }

    fn copy_batches(&self, to: &Self, which: Copy) -> io::Result<()> {
        // A batch never splits a bucket, so it must hold the fullest one; the kernel says ENOSPC when it does not.
        let mut size = BATCH;
        let mut cursor: Option<u32> = None;
        loop {
            let (mut keys, mut values) = (vec![0_u8; size * self.key], vec![0_u8; size * self.value]);
            let mut next = 0_u32;
            let mut attr = Batch {
                in_batch: cursor.as_ref().map_or(0, |cursor| std::ptr::from_ref(cursor).addr() as u64),
                out_batch: std::ptr::from_mut(&mut next).addr() as u64,
                keys: keys.as_mut_ptr().addr() as u64,
                values: values.as_mut_ptr().addr() as u64,
                count: size as u32,
                map_fd: self.fd.as_raw_fd() as u32,
                ..Batch::default()
            };
            let last = match bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) {
                Ok(_) => false,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && size < 1 << 20 => {
                    size *= 2;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let count = (attr.count as usize).min(size);
            to.write(&keys[..count * self.key], &values[..count * self.value], which)?;
            if last {
                return Ok(());
            }
            cursor = Some(next);
        }
    }

    fn copy_singly(&self, to: &Self, which: Copy) -> io::Result<()> {
        let (mut key, mut next, mut value) = (None, vec![0_u8; self.key], vec![0_u8; self.value]);
        loop {
            let mut attr = self.element(key.as_deref(), Some(&mut next), BPF_ANY);
            match bpf(BPF_MAP_GET_NEXT_KEY, &mut attr) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
                Err(error) => return Err(error),
            }
            let mut attr = self.element(Some(&next), Some(&mut value), BPF_ANY);
            match bpf(BPF_MAP_LOOKUP_ELEM, &mut attr) {
                Ok(_) => to.write(&next, &value, which)?,
                // Gone meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
            key = Some(next.clone());
        }
    }

    /// Writes entries that lie one behind the other.
    fn write(&self, keys: &[u8], values: &[u8], which: Copy) -> io::Result<()> {
        if which == Copy::All && keys.len() > self.key {
            let mut attr = Batch {
                keys: keys.as_ptr().addr() as u64,
                values: values.as_ptr().addr() as u64,
                count: (keys.len() / self.key) as u32,
                map_fd: self.fd.as_raw_fd() as u32,
                ..Batch::default()
            };
            return bpf(BPF_MAP_UPDATE_BATCH, &mut attr).map(drop);
        }
        let flags = if which == Copy::All { BPF_ANY } else { BPF_NOEXIST };
        for (key, value) in keys.chunks_exact(self.key).zip(values.chunks_exact(self.value)) {
            let mut attr = Element {
                map_fd: self.fd.as_raw_fd() as u32,
                key: key.as_ptr().addr() as u64,
                value: value.as_ptr().addr() as u64,
                flags,
                ..Element::default()
            };
            match bpf(BPF_MAP_UPDATE_ELEM, &mut attr) {
                Err(error) if error.raw_os_error() != Some(libc::EEXIST) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn element(&self, key: Option<&[u8]>, value: Option<&mut Vec<u8>>, flags: u64) -> Element {
        Element {
            map_fd: self.fd.as_raw_fd() as u32,
            pad: 0,
            key: key.map_or(0, |key| key.as_ptr().addr() as u64),
            value: value.map_or(0, |value| value.as_mut_ptr().addr() as u64),
            flags,
        }
    }
}
