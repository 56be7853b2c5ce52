//! The few system calls without a safe form: batches of map elements, opening a pin without knowing what it is, and what the
//! kernel says of this network namespace.
//!
//! Audit: the only module of this crate with `unsafe`. Those that call `bpf(2)` pass pointers to buffers they borrow for the
//! duration of the call, with lengths taken from those buffers.
#![allow(unsafe_code)]

pub(crate) mod raw;
pub(crate) mod verdict;

use std::{
    ffi::CString,
    io,
    mem::{MaybeUninit, size_of},
    net::IpAddr,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya::Pod;
use aya_log::EbpfLogger;
use log::Log;
use tokio::io::{Interest, unix::AsyncFd};

/// `SO_NETNS_COOKIE`, which libc does not name everywhere.
const SO_NETNS_COOKIE: libc::c_int = 71;

const BPF_OBJ_GET: libc::c_int = 7;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_int = 26;
const BPF_MAP_DELETE_BATCH: libc::c_int = 27;

/// `bpf_attr.batch`.
#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// `bpf_attr` of `BPF_OBJ_GET`.
#[repr(C)]
#[derive(Default)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a repr(C) prefix of `union bpf_attr` of the size passed along; the kernel reads the rest as zero.
    // The pointers inside are checked by the callers below.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Writes all pairs. Minimum kernel: 5.6. On failure the first of them may have been written.
pub(crate) fn update_batch<K: Pod, V: Pod>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> io::Result<()> {
    if keys.len() != values.len() || keys.len() > u32::MAX as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    if keys.is_empty() {
        return Ok(());
    }
    // The kernel only reads `count` elements of the map's key and value size from each; `Table` checked those sizes.
    bpf(
        BPF_MAP_UPDATE_BATCH,
        &mut Batch {
            keys: keys.as_ptr().addr() as u64,
            values: values.as_ptr().addr() as u64,
            count: keys.len() as u32,
            map_fd: map.as_raw_fd() as u32,
            ..Batch::default()
        },
    )
    .map(drop)
}

/// Removes all keys. Minimum kernel: 5.6. On failure (a key is absent, say) the first of them may have been removed.
pub(crate) fn delete_batch<K: Pod>(map: BorrowedFd<'_>, keys: &[K]) -> io::Result<()> {
    if keys.len() > u32::MAX as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    if keys.is_empty() {
        return Ok(());
    }
    // The kernel only reads `count` keys of the map's key size; `Table` checked that size.
    bpf(
        BPF_MAP_DELETE_BATCH,
        &mut Batch {
            keys: keys.as_ptr().addr() as u64,
            count: keys.len() as u32,
            map_fd: map.as_raw_fd() as u32,
            ..Batch::default()
        },
    )
    .map(drop)
}

/// Reads all pairs of a hash map. Minimum kernel: 5.6. Entries that change meanwhile may be missed or seen twice.
pub(crate) fn lookup_all<K: Pod, V: Pod>(map: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    let mut all = Vec::new();
    each_batch(map, |keys: &[K], values: &[V]| all.extend(keys.iter().copied().zip(values.iter().copied())))?;
    Ok(all)
}

/// Counts the pairs of a hash map, as [`lookup_all`] sees them.
pub(crate) fn count<K: Pod, V: Pod>(map: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count = 0;
    each_batch(map, |keys: &[K], _: &[V]| count += keys.len())?;
    Ok(count)
}

/// Reads a hash map batch by batch.
fn each_batch<K: Pod, V: Pod>(map: BorrowedFd<'_>, mut each: impl FnMut(&[K], &[V])) -> io::Result<()> {
    // A batch never splits a bucket, so it must hold the fullest one; the kernel says ENOSPC when it does not.
    let mut size = 1024;
    let mut cursor: Option<u32> = None;
    let mut keys: Vec<MaybeUninit<K>> = Vec::new();
    let mut values: Vec<MaybeUninit<V>> = Vec::new();
    loop {
        keys.resize_with(size, MaybeUninit::uninit);
        values.resize_with(size, MaybeUninit::uninit);
        let mut next = 0_u32;
        let mut attr = Batch {
            in_batch: cursor.as_ref().map_or(0, |cursor| std::ptr::from_ref(cursor).addr() as u64),
            out_batch: std::ptr::from_mut(&mut next).addr() as u64,
            keys: keys.as_mut_ptr().addr() as u64,
            values: values.as_mut_ptr().addr() as u64,
            count: size as u32,
            map_fd: map.as_raw_fd() as u32,
            ..Batch::default()
        };
        let result = bpf(BPF_MAP_LOOKUP_BATCH, &mut attr);
        let last = match &result {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && size < 1 << 20 => {
                size *= 2;
                continue;
            }
            Err(_) => return result.map(drop),
        };
        let count = (attr.count as usize).min(size);
        // SAFETY: the kernel filled the first `count` elements of both buffers, which hold at least as many; any bytes are a
        // value of a Pod.
        let filled = unsafe {
            (
                std::slice::from_raw_parts(keys.as_ptr().cast::<K>(), count),
                std::slice::from_raw_parts(values.as_ptr().cast::<V>(), count),
            )
        };
        each(filled.0, filled.1);
        if last {
            return Ok(());
        }
        cursor = Some(next);
    }
}

/// Opens whatever is pinned at `path`.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let fd = bpf(BPF_OBJ_GET, &mut ObjGet { pathname: path.as_ptr().addr() as u64, ..ObjGet::default() })?;
    // SAFETY: a successful BPF_OBJ_GET returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Waits for a log ring to become readable. Must be called in a tokio runtime with I/O enabled.
pub(crate) fn readable<L: Log>(ring: EbpfLogger<L>) -> io::Result<AsyncFd<EbpfLogger<L>>> {
    // SAFETY: the logger owns its map's descriptor, always names that one, and closes it only when dropped; `AsyncFd`
    // keeps the logger until it has deregistered.
    unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }.map_err(io::Error::from)
}

/// Lifts the limit on locked memory, which kernels before 5.11 charge maps to. Best effort.
pub(crate) fn lift_memlock_limit() {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the pointer is to a live rlimit for the duration of the call.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
}

/// The kernel's number of the calling thread's network namespace. Minimum kernel: 5.14; zero before that.
pub(crate) fn netns_cookie() -> u64 {
    let Ok(socket) = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0)) else { return 0 };
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: both pointers are to live variables, and the length is that of the first.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { cookie } else { 0 }
}

/// Every address of every interface in the calling thread's network namespace.
pub(crate) fn interface_addresses() -> io::Result<Vec<IpAddr>> {
    let mut first: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the pointer is to a live variable; what it receives is freed below.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut addresses = Vec::new();
    let mut next = first;
    while !next.is_null() {
        // SAFETY: the list stays until it is freed below, and its links lead to elements or to null.
        let entry = unsafe { &*next };
        if !entry.ifa_addr.is_null() {
            // SAFETY: an address is of the type its family names, and lives as long as the list.
            match i32::from(unsafe { (*entry.ifa_addr).sa_family }) {
                libc::AF_INET => {
                    // SAFETY: as above.
                    let address = unsafe { entry.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned() };
                    addresses.push(IpAddr::from(address.sin_addr.s_addr.to_ne_bytes()));
                }
                libc::AF_INET6 => {
                    // SAFETY: as above.
                    let address = unsafe { entry.ifa_addr.cast::<libc::sockaddr_in6>().read_unaligned() };
                    addresses.push(IpAddr::from(address.sin6_addr.s6_addr));
                }
                _ => {}
            }
        }
        next = entry.ifa_next;
    }
    // SAFETY: the list came from `getifaddrs` and is freed once.
    unsafe { libc::freeifaddrs(first) };
    Ok(addresses)
}

/// The number of a device in the calling thread's network namespace.
pub(crate) fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the pointer is to a live string that ends with a zero.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

/// A socket that becomes readable when an address of an interface comes or goes. Must be called in a tokio runtime with I/O
/// enabled.
pub(crate) fn address_news() -> io::Result<AsyncFd<OwnedFd>> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: a plain call; the descriptor it returns is nobody else's.
    let socket = unsafe {
        match libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) {
            -1 => return Err(io::Error::last_os_error()),
            fd => OwnedFd::from_raw_fd(fd),
        }
    };
    // SAFETY: any bytes, zeros too, are a value of it.
    let mut address: libc::sockaddr_nl = unsafe { MaybeUninit::zeroed().assume_init() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    address.nl_groups = (libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR) as u32;
    let length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
    // SAFETY: the pointer is to a live address of that length.
    if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: an owned descriptor names the same socket until it is dropped, after it was deregistered.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }.map_err(io::Error::from)
}

/// Takes what is waiting on such a socket; what it says does not matter.
pub(crate) fn drain(socket: BorrowedFd<'_>) {
    let mut buffer = [0_u8; 4096];
    loop {
        // SAFETY: the buffer lives and has that length.
        let got = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        // Lost messages (ENOBUFS) are news like any other.
        let lost = got < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOBUFS);
        if got <= 0 && !lost {
            return;
        }
    }
}
