//! From a virtual address to a backend.

use aya_ebpf::{EbpfContext, helpers::generated::bpf_get_prandom_u32};
use aya_log_ebpf::warn;
use skep_ebpf_common::{BackendValue, ServiceKey, ServiceValue, SlotKey, StickyKey, StickyValue, TCP, UDP, host_port};

use crate::{
    maps::{BACKENDS, SERVICES, SLOTS, STICKY, VIPS},
    peer, stats,
};

/// How often a lookup is tried when it met a service in the middle of a change. One retry is enough unless this program
/// is held up between two lookups for as long as user space needs for a whole change, that many times in a row.
const ATTEMPTS: u32 = 4;

const IPPROTO_MPTCP: u32 = 262;

/// What becomes of a peer address.
pub(crate) enum Verdict {
    /// Not a Service: leave it.
    Pass,
    /// A Service, but nobody answers for it.
    Refuse,
    /// Go there instead. Network order.
    Redirect {
        /// Backend address.
        address: u32,
        /// Backend port.
        port: u16,
        /// The kernel's number of the socket.
        cookie: u64,
    },
}

/// The protocol as service keys name it, if Services know it.
#[inline(always)]
pub(crate) fn protocol(protocol: u32) -> Option<u8> {
    match protocol {
        6 | IPPROTO_MPTCP => Some(TCP),
        17 => Some(UDP),
        _ => None,
    }
}

/// Chooses a backend for `key`. A `sticky` choice is remembered for the socket and kept while the backend lives.
#[inline(always)]
pub(crate) fn select<C: EbpfContext>(ctx: &C, key: &ServiceKey, sticky: bool) -> Verdict {
    for _ in 0..ATTEMPTS {
        // SAFETY: the map does not preallocate, and the copy is only believed when its seal fits.
        let Some(service) = (unsafe { SERVICES.get(key) }).copied() else {
            // SAFETY: only the presence of the entry matters.
            if unsafe { VIPS.get(&key.vip) }.is_none() {
                return Verdict::Pass;
            }
            // No such port, or an update of a neighbour in the same bucket hid it for a moment: look again.
            continue;
        };
        if !service.is_sealed_for(key) {
            continue;
        }
        if service.count == 0 {
            stats::refused(service.id);
            return Verdict::Refuse;
        }
        // Not before: most connects are not to a Service and shall not pay for it.
        let cookie = peer::cookie(ctx);
        let chosen =
            if sticky { remembered(key, &service, cookie) } else { pick(&service).map(|(_, backend)| backend) };
        if let Some(backend) = chosen {
            return Verdict::Redirect { address: backend.address, port: backend.port, cookie };
        }
    }
    // SAFETY: only the presence of the entry matters.
    if unsafe { SERVICES.get(key) }.is_some() {
        warn!(
            ctx,
            "no consistent view of service {:i}:{} after {} attempts, refused",
            u32::from_be(key.vip),
            host_port(key.port),
            ATTEMPTS
        );
    }
    Verdict::Refuse
}

/// A backend of the live generation, evenly at random. `None`: that generation is just going away.
#[inline(always)]
fn pick(service: &ServiceValue) -> Option<(u32, BackendValue)> {
    // SAFETY: the helper takes no argument and always succeeds.
    let random = unsafe { bpf_get_prandom_u32() };
    let slot = ((u64::from(random) * u64::from(service.count)) >> 32) as u32;
    let key = SlotKey { service: service.id, generation: service.generation, slot };
    // SAFETY: the map does not preallocate, and the copy is only believed when its seal fits.
    let value = *unsafe { SLOTS.get(&key) }?;
    if !value.is_sealed_for(&key) {
        return None;
    }
    let backend = backend(value.backend, service.id)?;
    stats::chosen(service.id, value.backend);
    Some((value.backend, backend))
}

/// The backend this socket got before, or a new one to be remembered.
#[inline(always)]
fn remembered(key: &ServiceKey, service: &ServiceValue, cookie: u64) -> Option<BackendValue> {
    let sticky = StickyKey { cookie, vip: key.vip, port: key.port, pad: 0 };
    // SAFETY: an aliased value names another backend; it is used only if that one belongs to this very service.
    if let Some(choice) = unsafe { STICKY.get(&sticky) }.copied()
        && choice.service == service.id
        && let Some(backend) = backend(choice.backend, service.id)
    {
        return Some(backend);
    }
    let (id, backend) = pick(service)?;
    // An LRU map makes room by itself; should it fail all the same, the next datagram chooses anew.
    let _ = STICKY.insert(&sticky, &StickyValue { service: service.id, backend: id }, 0);
    Some(backend)
}

/// The backend with that id, if it (still) belongs to that service.
#[inline(always)]
fn backend(id: u32, service: u32) -> Option<BackendValue> {
    // SAFETY: the map does not preallocate, and the copy is only believed when its seal fits.
    let backend = *unsafe { BACKENDS.get(&id) }?;
    (backend.is_sealed_for(id) && backend.service == service).then_some(backend)
}
