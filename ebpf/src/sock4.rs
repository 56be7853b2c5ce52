//! Hooks of IPv4 sockets.

use aya_ebpf::{
    bindings::bpf_sock_addr, helpers::generated::bpf_set_retval, macros::cgroup_sock_addr, programs::SockAddrContext,
};
use skep_ebpf_common::{ServiceKey, UDP};

use crate::{
    maps::HAS_SET_RETVAL,
    peer,
    select::{self, Verdict},
};

/// Let the call go on, with whatever address is now in the context.
pub(crate) const ALLOW: i32 = 1;
/// Fail the call.
const DENY: i32 = 0;

const ECONNREFUSED: i32 = 111;

/// Translates the peer of a TCP or connected UDP socket, once. Minimum kernel: 4.17.
#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    forward(&ctx, read(ctx.sock_addr), false, write)
}

/// Translates the destination of a datagram from an unconnected UDP socket. Minimum kernel: 4.18.
#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    forward(&ctx, read(ctx.sock_addr), true, write)
}

/// Shows the virtual address as the source of a received datagram. Minimum kernel: 5.2.
#[cgroup_sock_addr(recvmsg4)]
fn recvmsg4(ctx: SockAddrContext) -> i32 {
    if let Some((vip, port)) = peer::recall(UDP, peer::cookie(&ctx), read(ctx.sock_addr)) {
        write(ctx.sock_addr, vip, port);
    }
    ALLOW
}

/// Shows the virtual address as the peer of a connected socket. Minimum kernel: 5.8.
#[cgroup_sock_addr(getpeername4)]
fn getpeername4(ctx: SockAddrContext) -> i32 {
    if let Some(protocol) = protocol(ctx.sock_addr)
        && let Some((vip, port)) = peer::recall(protocol, peer::cookie(&ctx), read(ctx.sock_addr))
    {
        write(ctx.sock_addr, vip, port);
    }
    ALLOW
}

/// Sends the call where `peer` (network order) leads, by way of `write`, and remembers how to show it. `sticky` for
/// unconnected sockets. The result is the hook's.
#[inline(always)]
pub(crate) fn forward(
    ctx: &SockAddrContext,
    peer: (u32, u16),
    sticky: bool,
    write: impl FnOnce(*mut bpf_sock_addr, u32, u16),
) -> i32 {
    let Some(protocol) = protocol(ctx.sock_addr) else {
        return ALLOW;
    };
    let key = ServiceKey::new(peer.0, peer.1, protocol);
    match select::select(ctx, &key, sticky) {
        Verdict::Pass => ALLOW,
        Verdict::Refuse => refuse(),
        Verdict::Redirect { address, port, cookie } => {
            peer::remember(protocol, cookie, (address, port), peer);
            write(ctx.sock_addr, address, port);
            ALLOW
        }
    }
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

/// The socket's protocol, if Services know it.
#[inline(always)]
pub(crate) fn protocol(ctx: *mut bpf_sock_addr) -> Option<u8> {
    // SAFETY: the kernel hands a valid context to the program.
    select::protocol(unsafe { (&raw const (*ctx).protocol).read_volatile() })
}

/// Address and port in the context, network order.
#[inline(always)]
fn read(ctx: *mut bpf_sock_addr) -> (u32, u16) {
    // SAFETY: the kernel hands a valid context to the program.
    unsafe { ((&raw const (*ctx).user_ip4).read_volatile(), port(ctx)) }
}

/// Port in the context, network order.
#[inline(always)]
pub(crate) fn port(ctx: *mut bpf_sock_addr) -> u16 {
    // SAFETY: the kernel hands a valid context to the program. It keeps the port's two bytes at the front of the field.
    unsafe { (&raw const (*ctx).user_port).read_volatile() as u16 }
}

#[inline(always)]
fn write(ctx: *mut bpf_sock_addr, address: u32, port: u16) {
    // SAFETY: as above; both fields are writable in these hooks.
    unsafe {
        (&raw mut (*ctx).user_ip4).write_volatile(address);
        (&raw mut (*ctx).user_port).write_volatile(u32::from(port));
    }
}
