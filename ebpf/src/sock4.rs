//! Hooks of IPv4 sockets.

use aya_ebpf::{bindings::bpf_sock_addr, macros::cgroup_sock_addr, programs::SockAddrContext};
use skep_ebpf_common::{Address, mapped};

use crate::sock::{ALLOW, forward, port, protocol, reveal, reveal_source, set_port};

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

/// Shows the frontend as the source of a received datagram. Minimum kernel: 5.2.
#[cgroup_sock_addr(recvmsg4)]
fn recvmsg4(ctx: SockAddrContext) -> i32 {
    reveal_source(&ctx, read(ctx.sock_addr), write)
}

/// Shows the frontend as the peer of a connected socket. Minimum kernel: 5.8.
#[cgroup_sock_addr(getpeername4)]
fn getpeername4(ctx: SockAddrContext) -> i32 {
    match protocol(ctx.sock_addr) {
        Some(protocol) => reveal(&ctx, protocol, read(ctx.sock_addr), write),
        None => ALLOW,
    }
}

/// Address and port in the context.
#[inline(always)]
fn read(ctx: *mut bpf_sock_addr) -> (Address, u16) {
    // SAFETY: the kernel hands a valid context to the program.
    (mapped(unsafe { (&raw const (*ctx).user_ip4).read_volatile() }), port(ctx))
}

/// Backends are of the frontend's family, so the last word is all there is.
#[inline(always)]
fn write(ctx: *mut bpf_sock_addr, address: &Address, port: u16) {
    // SAFETY: as above; the field is writable in these hooks.
    unsafe { (&raw mut (*ctx).user_ip4).write_volatile(address[3]) };
    set_port(ctx, port);
}
