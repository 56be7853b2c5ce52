//! What the process may do and the kernel can do.

use std::fs;

use aya::util::KernelVersion;

use crate::{Error, Result, sys};

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

/// May this process load and attach programs?
pub(crate) fn check() -> Result<()> {
    let found = KernelVersion::current().map_err(|error| Error::Io {
        what: "learn the kernel's version".into(),
        source: std::io::Error::other(error.to_string()),
    })?;
    if found < KernelVersion::new(5, 8, 0) {
        return Err(Error::Kernel {
            found: release(),
            needed: "5.8",
            what: "service load balancing (BPF ring buffer, getpeername hooks)",
        });
    }
    if found < KernelVersion::new(5, 11, 0) {
        sys::lift_memlock_limit();
    }
    need(&[CAP_BPF, CAP_NET_ADMIN], "load service load balancing into the kernel")
}

/// May this process read maps?
pub(crate) fn check_reader() -> Result<()> {
    need(&[CAP_BPF], "read the service maps")
}

/// Can programs set the result of a call (5.18)? Else a refused connect fails with EPERM.
pub(crate) fn has_set_retval() -> bool {
    KernelVersion::current().is_ok_and(|found| found >= KernelVersion::new(5, 18, 0))
}

/// The kernel's release, as `uname -r` says it.
pub(crate) fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(|_| "unknown".into(), |text| text.trim().into())
}

fn need(capabilities: &[u32], purpose: &'static str) -> Result<()> {
    let effective = effective();
    // CAP_SYS_ADMIN includes CAP_BPF, which was split off it in 5.8.
    let has = |capability: u32| {
        effective & (1 << capability) != 0 || (capability == CAP_BPF && effective & (1 << CAP_SYS_ADMIN) != 0)
    };
    let missing: Vec<&str> = capabilities
        .iter()
        .filter(|capability| !has(**capability))
        .map(|capability| match *capability {
            CAP_BPF => "CAP_BPF",
            CAP_NET_ADMIN => "CAP_NET_ADMIN",
            _ => "CAP_SYS_ADMIN",
        })
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(Error::Privilege { missing: missing.join(" and "), purpose }) }
}

/// Effective capabilities; all of them when /proc does not say (the calls themselves will).
fn effective() -> u64 {
    fs::read_to_string("/proc/thread-self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        })
        .unwrap_or(u64::MAX)
}
