//! Which virtual address a socket asked for, so that it sees the same name it used.

use aya_ebpf::{EbpfContext, helpers::generated::bpf_get_socket_cookie};
use skep_ebpf_common::{Address, PeerKey, PeerValue, UDP};

use crate::maps::{TCP_PEERS, UDP_PEERS};

/// The kernel's number of the socket behind this context, never used twice.
#[inline(always)]
pub(crate) fn cookie<C: EbpfContext>(ctx: &C) -> u64 {
    // SAFETY: the context is the one this program was called with.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// Remembers that `cookie`, sent to the backend, asked for the virtual address.
#[inline(always)]
pub(crate) fn remember(protocol: u8, cookie: u64, backend: (Address, u16), vip: (Address, u16)) {
    let key = PeerKey { cookie, address: backend.0, port: backend.1, pad: [0; 3] };
    let value = PeerValue::sealed(&key, vip.0, vip.1);
    let peers = if protocol == UDP { &UDP_PEERS } else { &TCP_PEERS };
    // Unconnected sockets come here with every datagram: write only news.
    // SAFETY: an aliased value merely compares unequal.
    if protocol == UDP && unsafe { peers.get(&key) }.is_some_and(|known| *known == value) {
        return;
    }
    // An LRU map makes room by itself; should it fail all the same, the socket sees the backend's address.
    let _ = peers.insert(&key, &value, 0);
}

/// The virtual address `cookie` asked for when it was sent to that backend.
#[inline(always)]
pub(crate) fn recall(protocol: u8, cookie: u64, backend: (Address, u16)) -> Option<(Address, u16)> {
    let key = PeerKey { cookie, address: backend.0, port: backend.1, pad: [0; 3] };
    let peers = if protocol == UDP { &UDP_PEERS } else { &TCP_PEERS };
    // SAFETY: the copy is only believed when its seal fits.
    let value = *unsafe { peers.get(&key) }?;
    value.is_sealed_for(&key).then_some((value.address, value.port))
}
