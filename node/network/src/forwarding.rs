//! Passing packets on between devices.

use std::fs;
use std::path::Path;

use crate::{Error, Result, sysctl};

const DEVICES: &str = "/proc/sys/net/ipv6/conf";

/// Lets this node (the calling thread's network namespace) pass on IPv4 packets, and IPv6 packets if `v6`.
///
/// # Errors
/// When the kernel refuses, or has no IPv6 where it is wanted.
pub(crate) fn enable(v6: bool) -> Result<()> {
    sysctl::set("ipv4/ip_forward", "1")?;
    if !v6 {
        return Ok(());
    }
    keep_router_advertisements()?;
    sysctl::set("ipv6/conf/all/forwarding", "1")
}

/// A device that forwards ignores its routers unless told otherwise, and loses its default route at once: those that have
/// listened are told before (`accept_ra` 2, <https://docs.kernel.org/networking/ip-sysctl.html>).
fn keep_router_advertisements() -> Result<()> {
    let devices = Path::new(DEVICES);
    for entry in fs::read_dir(devices).map_err(Error::io("read", devices))? {
        let name = entry.map_err(Error::io("read", devices))?.file_name();
        let Some(name) = name.to_str().filter(|name| !matches!(*name, "all" | "default" | "lo")) else { continue };
        let setting = |key| format!("ipv6/conf/{name}/{key}");
        // A device may go away meanwhile.
        let listens = sysctl::get(&setting("accept_ra")).is_ok_and(|value| value == "1")
            && sysctl::get(&setting("forwarding")).is_ok_and(|value| value == "0");
        if listens {
            sysctl::set_if_present(&setting("accept_ra"), "2")?;
        }
    }
    Ok(())
}
