//! Facts about the host that settings fall back to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};

use anyhow::Context as _;

/// The host's name.
pub(crate) fn name() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname().context("asking for the host name")?;
    name.into_string().map_err(|name| anyhow::anyhow!("the host name {name:?} is not text: give --node-name"))
}

/// `address`, but all of IPv4 is all of IPv6, too, on a node that has an address there: so do upstream's daemons, for Go listens
/// on both when it is told 0.0.0.0.
pub(crate) fn everywhere(address: IpAddr, node_ips: &[IpAddr]) -> IpAddr {
    let all = address == IpAddr::V4(Ipv4Addr::UNSPECIFIED) && node_ips.iter().any(IpAddr::is_ipv6);
    if all { Ipv6Addr::UNSPECIFIED.into() } else { address }
}

/// The address from which this host would speak to the API server. Nothing is sent: a UDP connect only asks the routes.
pub(crate) fn address_towards(url: &http::Uri) -> anyhow::Result<IpAddr> {
    let host = url.host().context("the API server's URL has no host")?.trim_matches(['[', ']']);
    let target = (host, url.port_u16().unwrap_or(443))
        .to_socket_addrs()
        .with_context(|| format!("looking up {host}"))?
        .next()
        .with_context(|| format!("{host} has no address"))?;
    let any: SocketAddr = if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(target).with_context(|| format!("there is no route to {target}: give --node-ip"))?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_are_those_of_the_families_that_the_node_has() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let (v4, both) = ([ip("192.0.2.1")], [ip("192.0.2.1"), ip("fd00::1")]);
        assert_eq!([everywhere(ip("0.0.0.0"), &v4), everywhere(ip("0.0.0.0"), &both)], [ip("0.0.0.0"), ip("::")]);
        assert_eq!(everywhere(ip("127.0.0.1"), &both), ip("127.0.0.1"));
    }
}
