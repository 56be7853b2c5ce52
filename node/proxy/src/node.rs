//! Which addresses are this node's: there its node ports are served.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
};

use tokio::io::unix::AsyncFd;

use crate::sys;

/// Follows the addresses of the interfaces in the network namespace it was made in.
#[derive(Debug)]
pub(crate) struct NodeAddresses {
    news: AsyncFd<OwnedFd>,
    /// Cookie of that namespace.
    netns: u64,
    /// Ranges to keep to; empty: all addresses.
    ranges: Vec<(IpAddr, u8)>,
}

impl NodeAddresses {
    /// Must be made in a tokio runtime with I/O enabled.
    pub(crate) fn new(ranges: Vec<(IpAddr, u8)>) -> io::Result<Self> {
        Ok(Self { news: sys::address_news()?, netns: sys::netns_cookie(), ranges })
    }

    /// Waits until an address came or went.
    pub(crate) async fn changed(&self) -> io::Result<()> {
        let mut guard = self.news.readable().await?;
        sys::drain(self.news.as_fd());
        guard.clear_ready();
        Ok(())
    }

    /// The addresses as they are, with the network namespace to which each is bound (zero: none).
    pub(crate) fn read(&self) -> io::Result<HashMap<IpAddr, u64>> {
        Ok(select(sys::interface_addresses()?, self.netns, &self.ranges))
    }
}

/// Those of `addresses` that serve node ports. A loopback address is this node's only for its own sockets, and nowhere if
/// their namespace cannot be told; link-local ones mean something on their link only.
fn select(addresses: Vec<IpAddr>, netns: u64, ranges: &[(IpAddr, u8)]) -> HashMap<IpAddr, u64> {
    let link_local = |address: &IpAddr| matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    addresses
        .into_iter()
        .filter(|address| !(link_local(address) || address.is_loopback() && netns == 0))
        .filter(|address| ranges.is_empty() || ranges.iter().any(|range| contains(*range, *address)))
        .map(|address| (address, if address.is_loopback() { netns } else { 0 }))
        .collect()
}

fn contains((range, length): (IpAddr, u8), address: IpAddr) -> bool {
    let differs = match (range, address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u32::from(a) ^ u32::from(b)).checked_shr(32 - u32::from(length.min(32))),
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let shifted = (u128::from(a) ^ u128::from(b)).checked_shr(128 - u32::from(length.min(128)));
            shifted.map(|rest| u32::from(rest != 0))
        }
        _ => return false,
    };
    // A shift by the whole width: a range of everything.
    differs.unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_belongs_to_one_namespace_and_ranges_choose() {
        let all: Vec<IpAddr> = ["127.0.0.1", "10.0.0.1", "192.168.1.1", "::1", "fd00::1", "fe80::1"]
            .map(|address| address.parse().unwrap())
            .into();
        let shown = |netns, ranges: &[(&str, u8)]| {
            let ranges: Vec<_> = ranges.iter().map(|(at, length)| (at.parse().unwrap(), *length)).collect();
            let mut shown: Vec<String> =
                select(all.clone(), netns, &ranges).into_iter().map(|(at, netns)| format!("{at} {netns}")).collect();
            shown.sort();
            shown
        };
        assert_eq!(shown(7, &[]), ["10.0.0.1 0", "127.0.0.1 7", "192.168.1.1 0", "::1 7", "fd00::1 0"]);
        assert_eq!(shown(0, &[]), ["10.0.0.1 0", "192.168.1.1 0", "fd00::1 0"]);
        assert_eq!(shown(7, &[("10.0.0.0", 8), ("::", 0)]), ["10.0.0.1 0", "::1 7", "fd00::1 0"]);
    }
}
