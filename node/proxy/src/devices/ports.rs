//! The ports of translated sources, which nobody else may get.

use std::{fs, io, ops::RangeInclusive};

use skep_ebpf_common::conntrack::Node;

use crate::{Error, Result};

/// Above the kernel's own range, as that is by default.
pub(super) const HIGH: RangeInclusive<u16> = Node::FIRST_PORT..=Node::LAST_PORT;
/// Below it, and below node ports as they are by default.
pub(super) const LOW: RangeInclusive<u16> = 1024..=29_999;
/// Where Linux has the range from which it chooses by itself.
const OWN: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Where Linux lists ports it shall not choose by itself.
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// The ports that translated sources should get on this node: those of two ranges that are more and outside of the kernel's
/// own. (A port is not taken while a socket of the node would get what is sent to it.)
pub fn source_ports() -> RangeInclusive<u16> {
    match fs::read_to_string(OWN) {
        Ok(own) => beside(&own),
        Err(_) => HIGH,
    }
}

fn beside(own: &str) -> RangeInclusive<u16> {
    let first = own.split_whitespace().next().and_then(|first| first.parse::<u16>().ok());
    if first.is_some_and(|first| first > *LOW.end()) { LOW } else { HIGH }
}

/// Keeps the kernel from giving these ports to sockets that do not ask for one.
pub(super) fn reserve(ports: &RangeInclusive<u16>) -> Result<()> {
    match with(&read()?, ports) {
        Some(list) => write(&list),
        None => Ok(()),
    }
}

/// Undoes [`reserve`].
pub(super) fn release(ports: &RangeInclusive<u16>) -> Result<()> {
    match without(&read()?, ports) {
        Some(list) => write(&list),
        None => Ok(()),
    }
}

fn read() -> Result<String> {
    let list = fs::read_to_string(RESERVED).map_err(Error::io(format!("read {RESERVED}")))?;
    Ok(list.trim().to_owned())
}

fn write(list: &str) -> Result<()> {
    // The kernel takes an empty list as a line.
    match fs::write(RESERVED, format!("{list}\n")) {
        Ok(()) => Ok(()),
        // Read-only in some containers. The range lies outside the kernel's own by default, so this is no reason to stop.
        Err(error) if matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied) => {
            tracing::warn!(%list, %error, "cannot reserve the ports of translated sources");
            Ok(())
        }
        Err(error) => Err(Error::io(format!("write {RESERVED}"))(error)),
    }
}

fn ranges(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').filter(|range| !range.is_empty())
}

/// The list with that range added; `None` if it is in it already.
fn with(list: &str, ports: &RangeInclusive<u16>) -> Option<String> {
    let holds = |range: &str| {
        let (start, end) = range.split_once('-').unwrap_or((range, range));
        let ends = (start.parse::<u16>(), end.parse::<u16>());
        matches!(ends, (Ok(start), Ok(end)) if start <= *ports.start() && *ports.end() <= end)
    };
    if ranges(list).any(holds) {
        return None;
    }
    Some(ranges(list).map(str::to_owned).chain([name(ports)]).collect::<Vec<_>>().join(","))
}

/// The list without that very range; `None` if it is not in it.
fn without(list: &str, ports: &RangeInclusive<u16>) -> Option<String> {
    let own = name(ports);
    let rest: Vec<&str> = ranges(list).filter(|range| *range != own).collect();
    (rest.len() < ranges(list).count()).then(|| rest.join(","))
}

fn name(ports: &RangeInclusive<u16>) -> String {
    format!("{}-{}", ports.start(), ports.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_get_more_ports_where_the_kernel_leaves_them() {
        assert_eq!(beside("32768\t60999\n"), LOW);
        assert_eq!(beside("30000 60999"), LOW);
        for own in ["1024\t65535\n", "29999 60999", "", "x y"] {
            assert_eq!(beside(own), HIGH, "{own:?}");
        }
    }

    #[test]
    fn a_range_is_reserved_beside_the_others_and_once() {
        let all = 61_000..=65_535;
        assert_eq!(with("", &all).as_deref(), Some("61000-65535"));
        assert_eq!(with("22,30000-32767", &all).as_deref(), Some("22,30000-32767,61000-65535"));
        assert_eq!(with("22,60000-65535", &all), None);
        assert_eq!(with("61000-65534", &all).as_deref(), Some("61000-65534,61000-65535"));
    }

    #[test]
    fn a_range_that_is_given_back_leaves_the_others() {
        let all = 61_000..=65_535;
        assert_eq!(without("22,61000-65535", &all).as_deref(), Some("22"));
        assert_eq!(without("61000-65535", &all).as_deref(), Some(""));
        assert_eq!(without("22,60000-65535", &all), None);
    }
}
