//! Counting, and telling whoever listens.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use skep_ebpf_common::policy::{PolicyEvent, Verdict, direction};

use crate::maps::{COUNTERS, EVENTS, LISTEN, Scratch, TOLD};

/// Events a CPU tells in a second; whoever is flooded by them could not read more.
const LIMIT: u64 = 256;
const SECOND: u64 = 1_000_000_000;

/// Counts a verdict, and tells it if somebody listens.
#[inline(never)]
pub(crate) fn tell(scratch: &Scratch, verdict: Verdict) {
    count(scratch, verdict);
    // SAFETY: the helper takes no argument and always succeeds.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if !LISTEN.get(0).is_some_and(|until| now < *until) {
        return;
    }
    if !is_within_limit(now / SECOND) {
        return count(scratch, Verdict::Untold);
    }
    let Some(mut event) = EVENTS.reserve::<PolicyEvent>(0) else { return count(scratch, Verdict::Untold) };
    event.write(PolicyEvent {
        time: now,
        tuple: scratch.packet.tuple,
        device: scratch.index,
        table: scratch.device.table,
        identity: scratch.identity,
        verdict: verdict as u32,
        direction: scratch.side,
        pad: [0; 7],
    });
    event.submit(0);
}

#[inline(always)]
fn is_within_limit(second: u64) -> bool {
    let Some(told) = TOLD.get_ptr_mut(0) else { return false };
    // SAFETY: a per-CPU value is this CPU's alone.
    let told = unsafe { &mut *told };
    if told[0] != second {
        *told = [second, 0];
    }
    told[1] += 1;
    told[1] <= LIMIT
}

#[inline(always)]
fn count(scratch: &Scratch, verdict: Verdict) {
    let side = if scratch.side == direction::EGRESS { 1 } else { 0 };
    if let Some(counter) = COUNTERS.get_ptr_mut(2 * verdict as u32 + side) {
        // SAFETY: a per-CPU value is this CPU's alone.
        unsafe { *counter += 1 };
    }
}
