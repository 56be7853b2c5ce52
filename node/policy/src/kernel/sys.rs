//! The one system call without a safe form.
//!
//! Audit: the only module of this crate with `unsafe`. The call takes integers only.
#![allow(unsafe_code)]

/// Waits until every kernel program that runs now has ended: what is written after this is seen by none that missed what was
/// written before. (`membarrier` waits for an RCU grace period; programs on devices run within one.)
///
/// Minimum kernel: 4.3. Where it is refused (nohz_full), a pause stands in: a program runs for microseconds.
pub(crate) fn wait_for_programs() {
    // SAFETY: the call reads and writes no memory of this process.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        #[expect(clippy::disallowed_methods, reason = "called where blocking is allowed, like every write to a map")]
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
