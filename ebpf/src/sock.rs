//! What the hooks of both families share.

use aya_ebpf::{
    EbpfContext,
    bindings::bpf_sock_addr,
    helpers::generated::{bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_set_retval},
    programs::SockAddrContext,
};
use skep_ebpf_common::{Address, AffinityKey, FrontendKey, StickyKey, StickyValue, TCP, UDP, load::LoadKey};

use crate::{
    load,
    lookup::{self, Client, Origin, Verdict},
    maps::{HAS_SET_RETVAL, STICKY},
    peer,
};

/// Let the call go on, with whatever address is now in the context.
pub(crate) const ALLOW: i32 = 1;
/// Fail the call.
const DENY: i32 = 0;

const ECONNREFUSED: i32 = 111;

const IPPROTO_MPTCP: u32 = 262;

/// A socket that names a peer.
struct Socket<'a> {
    ctx: &'a SockAddrContext,
    /// The peer it names, if the choice is to be kept from one datagram to the next.
    sticky: Option<(Address, u16)>,
}

impl Socket<'_> {
    #[inline(always)]
    fn sticky_key(&self) -> Option<StickyKey> {
        let (address, port) = self.sticky?;
        Some(StickyKey { cookie: peer::cookie(self.ctx), address, port, pad: [0; 3] })
    }
}

impl Client for Socket<'_> {
    #[inline(always)]
    fn address(&self) -> Address {
        AffinityKey::netns(self.netns())
    }

    #[inline(always)]
    fn netns(&self) -> u64 {
        // SAFETY: the context is the one this program was called with.
        unsafe { bpf_get_netns_cookie(self.ctx.as_ptr()) }
    }

    #[inline(always)]
    fn hash(&self) -> u32 {
        // SAFETY: the helper takes no argument and always succeeds.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn remembered(&self, service: u32) -> u32 {
        let Some(key) = self.sticky_key() else { return 0 };
        // SAFETY: an aliased value names another backend; it is used only if that one belongs to this very service.
        match unsafe { STICKY.get(&key) }.copied() {
            Some(choice) if choice.service == service => choice.backend,
            _ => 0,
        }
    }

    #[inline(always)]
    fn remember(&self, service: u32, backend: u32) {
        let Some(key) = self.sticky_key() else { return };
        // An LRU map makes room by itself; should it fail all the same, the next datagram chooses anew.
        let _ = STICKY.insert(&key, &StickyValue { service, backend }, 0);
    }
}

/// Sends the call where `peer` (network order) leads, by way of `write`, and remembers how to show it. `sticky` for
/// unconnected sockets. The result is the hook's.
#[inline(always)]
pub(crate) fn forward(
    ctx: &SockAddrContext,
    peer: (Address, u16),
    sticky: bool,
    write: impl FnOnce(*mut bpf_sock_addr, &Address, u16),
) -> i32 {
    let Some(protocol) = protocol(ctx.sock_addr) else {
        return ALLOW;
    };
    if load::is_on() && !sticky {
        load::disconnect(peer::cookie(ctx));
    }
    let key = FrontendKey::new(peer.0, peer.1, protocol);
    let socket = Socket { ctx, sticky: sticky.then_some(peer) };
    match lookup::lookup(ctx, &key, Origin::Internal, &socket) {
        Verdict::Pass => ALLOW,
        Verdict::Refuse(_) => refuse(),
        Verdict::Backend(chosen) => {
            let backend = (chosen.backend.address, chosen.backend.port);
            peer::remember(protocol, peer::cookie(ctx), backend, peer);
            if load::is_on() && !sticky {
                load::connect(peer::cookie(ctx), &LoadKey::new(backend.0, backend.1));
            }
            write(ctx.sock_addr, &backend.0, backend.1);
            ALLOW
        }
    }
}

/// Shows the frontend in place of the backend in the context, if the socket asked for one.
#[inline(always)]
pub(crate) fn reveal(
    ctx: &SockAddrContext,
    protocol: u8,
    backend: (Address, u16),
    write: impl FnOnce(*mut bpf_sock_addr, &Address, u16),
) -> i32 {
    if let Some((address, port)) = peer::recall(protocol, peer::cookie(ctx), backend) {
        write(ctx.sock_addr, &address, port);
    }
    ALLOW
}

/// As [`reveal`], of a datagram.
#[inline(always)]
pub(crate) fn reveal_source(
    ctx: &SockAddrContext,
    backend: (Address, u16),
    write: impl FnOnce(*mut bpf_sock_addr, &Address, u16),
) -> i32 {
    reveal(ctx, UDP, backend, write)
}

/// Fails the call with ECONNREFUSED, or EPERM where the kernel cannot tell it apart.
#[inline(always)]
fn refuse() -> i32 {
    if HAS_SET_RETVAL.load() == 1 {
        // SAFETY: a plain number; connect and sendmsg hooks may set the result of the call.
        unsafe { bpf_set_retval(-ECONNREFUSED) };
    }
    DENY
}

/// The socket's protocol as frontends name it, if Services know it.
#[inline(always)]
pub(crate) fn protocol(ctx: *mut bpf_sock_addr) -> Option<u8> {
    // SAFETY: the kernel hands a valid context to the program.
    match unsafe { (&raw const (*ctx).protocol).read_volatile() } {
        6 | IPPROTO_MPTCP => Some(TCP),
        17 => Some(UDP),
        _ => None,
    }
}

/// Port in the context, network order.
#[inline(always)]
pub(crate) fn port(ctx: *mut bpf_sock_addr) -> u16 {
    // SAFETY: the kernel hands a valid context to the program. It keeps the port's two bytes at the front of the field.
    unsafe { (&raw const (*ctx).user_port).read_volatile() as u16 }
}

/// Writes the port into the context.
#[inline(always)]
pub(crate) fn set_port(ctx: *mut bpf_sock_addr, port: u16) {
    // SAFETY: as above; the field is writable in these hooks.
    unsafe { (&raw mut (*ctx).user_port).write_volatile(u32::from(port)) };
}
