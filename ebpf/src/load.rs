//! Open connections of each backend, for `--backend-choice least-connections`. All of it is absent from the programs that
//! are loaded without that option.
//!
//! | opened | ends |
//! |---|---|
//! | a socket connects to a Service (TCP, and UDP that connects) | the socket is closed, or connects again |
//! | a flow past the sockets is noted | FIN of both sides, RST, a choice made anew |
//!
//! A flow that is forgotten otherwise (silence, a full map) tells nobody; user space compares the counts with the sockets
//! and flows that are there every minute. Datagrams of sockets that do not connect are not counted.

use core::arch::asm;

use aya_ebpf::{
    Global,
    bindings::BPF_F_NO_PREALLOC,
    macros::{cgroup_sock, map},
    maps::HashMap,
    programs::SockContext,
};
use skep_ebpf_common::{
    Address,
    conntrack::{Flow, is_over},
    load::{LoadKey, open},
};

use crate::peer::cookie;

/// 1 if the less loaded of two backends is chosen. Set before loading; the verifier then drops the other branch.
#[unsafe(no_mangle)]
static LEAST_CONNECTIONS: Global<u8> = Global::new(0);

/// Backend -> open connections.
#[map]
static LOADS: HashMap<LoadKey, u64> = HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

/// Socket cookie -> the backend it is connected to. Full, it counts no more connections, and forgets none.
#[map]
static CONNECTED: HashMap<u64, LoadKey> = HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

/// Are connections counted?
#[inline(always)]
pub(crate) fn is_on() -> bool {
    LEAST_CONNECTIONS.load() == 1
}

/// How many connections a backend has.
#[inline(always)]
pub(crate) fn of(backend: &LoadKey) -> u64 {
    // SAFETY: one aligned word; an aliased value is another backend's, for one choice.
    unsafe { LOADS.get(backend) }.map_or(0, |count| open(*count))
}

/// A connection to that backend begins.
#[inline(always)]
pub(crate) fn begin(backend: &LoadKey) {
    if let Some(count) = LOADS.get_ptr_mut(backend) {
        add(count, 1);
    } else {
        // Another CPU may have been faster: one connection is not counted then.
        let _ = LOADS.insert(backend, &1, 0);
    }
}

/// A connection to that backend ends.
#[inline(always)]
pub(crate) fn end(backend: &LoadKey) {
    if let Some(count) = LOADS.get_ptr_mut(backend) {
        add(count, -1);
    }
}

/// Adds to a count that other CPUs change, too. The compiler takes this target for one without threads, and has no word for
/// it.
#[inline(always)]
fn add(count: *mut u64, by: i64) {
    // SAFETY: an aligned word of a map's value. One that has changed hands is put right by user space.
    unsafe { asm!("lock *(u64 *)({count} + 0) += {by}", count = in(reg) count, by = in(reg) by, options(nostack)) };
}

/// A socket connects to a backend.
#[inline(always)]
pub(crate) fn connect(socket: u64, backend: &LoadKey) {
    if CONNECTED.insert(&socket, backend, 0).is_ok() {
        begin(backend);
    }
}

/// A socket is connected no more, if it was.
#[inline(always)]
pub(crate) fn disconnect(socket: u64) {
    // SAFETY: an element in other hands names another backend, for one count that user space puts right.
    if let Some(backend) = unsafe { CONNECTED.get(socket) }.copied()
        && CONNECTED.remove(socket).is_ok()
    {
        end(&backend);
    }
}

/// A flow was noted.
#[inline(always)]
pub(crate) fn noted(flow: &Flow) {
    if is_on() && flow.is_open() {
        begin(&LoadKey::new(flow.to, flow.to_port));
    }
}

/// A flow was forgotten.
#[inline(always)]
pub(crate) fn forgotten(flow: &Flow) {
    if is_on() && flow.is_open() {
        end(&LoadKey::new(flow.to, flow.to_port));
    }
}

/// A flow to that backend had one state, and more was learned.
#[inline(always)]
pub(crate) fn learned(backend: &Address, port: u16, state: u32, learned: u32) {
    if is_on() && !is_over(state) && is_over(state | learned) {
        end(&LoadKey::new(*backend, port));
    }
}

/// A socket is closed. Minimum kernel: 5.9. Attached only with the option.
#[cgroup_sock(sock_release)]
fn sock_release(ctx: SockContext) -> i32 {
    if is_on() {
        disconnect(cookie(&ctx));
    }
    1
}
