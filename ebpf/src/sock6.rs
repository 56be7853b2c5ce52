//! Hooks of IPv6 sockets. One that speaks to IPv4 names them as the maps do (`::ffff:a.b.c.d`), so both are one here; but a
//! datagram to such an address passes `sendmsg4`.

use aya_ebpf::{bindings::bpf_sock_addr, macros::cgroup_sock_addr, programs::SockAddrContext};
use skep_ebpf_common::Address;

use crate::sock::{ALLOW, forward, port, protocol, reveal, reveal_source, set_port};

/// As `connect4`. Minimum kernel: 4.17.
#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    forward(&ctx, read(ctx.sock_addr), false, write)
}

/// As `sendmsg4`. Minimum kernel: 4.18.
#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    forward(&ctx, read(ctx.sock_addr), true, write)
}

/// As `recvmsg4`. Minimum kernel: 5.2.
#[cgroup_sock_addr(recvmsg6)]
fn recvmsg6(ctx: SockAddrContext) -> i32 {
    reveal_source(&ctx, read(ctx.sock_addr), write)
}

/// As `getpeername4`. Minimum kernel: 5.8.
#[cgroup_sock_addr(getpeername6)]
fn getpeername6(ctx: SockAddrContext) -> i32 {
    match protocol(ctx.sock_addr) {
        Some(protocol) => reveal(&ctx, protocol, read(ctx.sock_addr), write),
        None => ALLOW,
    }
}

/// Address and port in the context.
#[inline(always)]
fn read(ctx: *mut bpf_sock_addr) -> (Address, u16) {
    // SAFETY: the kernel hands a valid context to the program.
    let word = |i: usize| unsafe { (&raw const (*ctx).user_ip6).cast::<u32>().add(i).read_volatile() };
    ([word(0), word(1), word(2), word(3)], port(ctx))
}

#[inline(always)]
fn write(ctx: *mut bpf_sock_addr, address: &Address, port: u16) {
    // SAFETY: as above; the fields are writable in these hooks.
    unsafe {
        let words = (&raw mut (*ctx).user_ip6).cast::<u32>();
        words.write_volatile(address[0]);
        words.add(1).write_volatile(address[1]);
        words.add(2).write_volatile(address[2]);
        words.add(3).write_volatile(address[3]);
    }
    set_port(ctx, port);
}
