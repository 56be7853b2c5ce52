//! skep's kernel programs: Service traffic is translated where a socket names its peer, so no packet pays for it.
//!
//! Minimum kernel for the whole object: 5.8 (ring buffer for logs, `getpeername` hooks). On 5.18 and newer a refused
//! connect fails with ECONNREFUSED, before that with EPERM.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod flows;
mod load;
mod lookup;
mod maps;
mod peer;
mod sock;
mod sock4;
mod sock6;
mod stats;
mod tc;
mod xdp;

/// Nothing here can panic: the verifier would refuse the loop.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Helpers such as ring buffers and `bpf_set_retval` are open to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
