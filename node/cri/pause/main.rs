//! The pause program: holds a pod's namespaces, reaps orphans, ends on SIGTERM or SIGINT.

use std::ffi::c_int;
use std::ptr;

/// Room for the `sigset_t` of every Linux C library (glibc and musl use 128 bytes).
#[repr(C, align(8))]
struct SignalSet([u8; 128]);

const SIG_BLOCK: c_int = 0;
const SIGINT: c_int = 2;
const SIGTERM: c_int = 15;
const SIGCHLD: c_int = 17;
const WNOHANG: c_int = 1;

// SAFETY: the signatures are POSIX's.
unsafe extern "C" {
    fn sigemptyset(set: *mut SignalSet) -> c_int;
    fn sigaddset(set: *mut SignalSet, signal: c_int) -> c_int;
    fn sigprocmask(how: c_int, set: *const SignalSet, old: *mut SignalSet) -> c_int;
    fn sigwait(set: *const SignalSet, signal: *mut c_int) -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
}

fn main() {
    let mut set = SignalSet([0; 128]);
    // SAFETY: `set` is a valid, exclusively owned buffer at least as large as sigset_t; a null old set is allowed.
    let blocked = unsafe {
        sigemptyset(&mut set);
        sigaddset(&mut set, SIGINT);
        sigaddset(&mut set, SIGTERM);
        sigaddset(&mut set, SIGCHLD);
        sigprocmask(SIG_BLOCK, &set, ptr::null_mut())
    };
    if blocked != 0 {
        std::process::exit(1);
    }
    loop {
        let mut signal = 0;
        // SAFETY: `set` was initialised above, `signal` is a valid place for one int.
        if unsafe { sigwait(&set, &mut signal) } != 0 {
            std::process::exit(2);
        }
        if signal != SIGCHLD {
            return;
        }
        // SAFETY: a null status pointer is allowed.
        while unsafe { waitpid(-1, ptr::null_mut(), WNOHANG) } > 0 {}
    }
}
