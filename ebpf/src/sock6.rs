//! Hooks of IPv6 sockets that speak to IPv4 addresses (`::ffff:a.b.c.d`), as Java's do by default. A datagram sent to such
//! an address passes `sendmsg4`, so there is no hook for it here. True IPv6 peers are left alone.

use aya_ebpf::{bindings::bpf_sock_addr, macros::cgroup_sock_addr, programs::SockAddrContext};
use skep_ebpf_common::UDP;

use crate::{
    peer,
    sock4::{ALLOW, forward, port, protocol},
};

/// Third word of an IPv4-mapped address: `00 00 ff ff` in memory.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// As `connect4`. Minimum kernel: 4.17.
#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    let Some(peer) = read(ctx.sock_addr) else {
        return ALLOW;
    };
    forward(&ctx, peer, false, write)
}

/// As `recvmsg4`. Minimum kernel: 5.2.
#[cgroup_sock_addr(recvmsg6)]
fn recvmsg6(ctx: SockAddrContext) -> i32 {
    if let Some(backend) = read(ctx.sock_addr)
        && let Some((vip, port)) = peer::recall(UDP, peer::cookie(&ctx), backend)
    {
        write(ctx.sock_addr, vip, port);
    }
    ALLOW
}

/// As `getpeername4`. Minimum kernel: 5.8.
#[cgroup_sock_addr(getpeername6)]
fn getpeername6(ctx: SockAddrContext) -> i32 {
    if let Some(protocol) = protocol(ctx.sock_addr)
        && let Some(backend) = read(ctx.sock_addr)
        && let Some((vip, port)) = peer::recall(protocol, peer::cookie(&ctx), backend)
    {
        write(ctx.sock_addr, vip, port);
    }
    ALLOW
}

/// IPv4 address and port in the context, network order, if the address is an IPv4-mapped one.
#[inline(always)]
fn read(ctx: *mut bpf_sock_addr) -> Option<(u32, u16)> {
    // SAFETY: the kernel hands a valid context to the program.
    unsafe {
        let words = &raw const (*ctx).user_ip6;
        let word = |i: usize| words.cast::<u32>().add(i).read_volatile();
        (word(0) == 0 && word(1) == 0 && word(2) == MAPPED).then(|| (word(3), port(ctx)))
    }
}

#[inline(always)]
fn write(ctx: *mut bpf_sock_addr, address: u32, port: u16) {
    // SAFETY: as above; the fields are writable in these hooks. Only the last word of a mapped address differs.
    unsafe {
        (&raw mut (*ctx).user_ip6).cast::<u32>().add(3).write_volatile(address);
        (&raw mut (*ctx).user_port).write_volatile(u32::from(port));
    }
}
