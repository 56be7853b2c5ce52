//! Counters. An entry appears with its first count, so an idle service costs nothing.

use aya_ebpf::bindings::BPF_NOEXIST;
use skep_ebpf_common::ServiceCounters;

use crate::maps::{BACKEND_STATS, SERVICE_STATS};

/// A backend of `service` was chosen.
#[inline(always)]
pub(crate) fn chosen(service: u32, backend: u32) {
    match SERVICE_STATS.get_ptr_mut(&service) {
        // SAFETY: a per-CPU value is this CPU's alone; a program on it may be preempted by another one, which at worst
        // loses a count.
        Some(counters) => unsafe { (*counters).connections += 1 },
        // Fails only when another CPU created the entry just now or the map is full: one count is lost.
        None => {
            let _ = SERVICE_STATS.insert(&service, &ServiceCounters { connections: 1, refused: 0 }, BPF_NOEXIST.into());
        }
    }
    match BACKEND_STATS.get_ptr_mut(&backend) {
        // SAFETY: as above.
        Some(count) => unsafe { *count += 1 },
        None => {
            let _ = BACKEND_STATS.insert(&backend, &1, BPF_NOEXIST.into());
        }
    }
}

/// `service` had no backend to give.
#[inline(always)]
pub(crate) fn refused(service: u32) {
    match SERVICE_STATS.get_ptr_mut(&service) {
        // SAFETY: as above.
        Some(counters) => unsafe { (*counters).refused += 1 },
        None => {
            let _ = SERVICE_STATS.insert(&service, &ServiceCounters { connections: 0, refused: 1 }, BPF_NOEXIST.into());
        }
    }
}
