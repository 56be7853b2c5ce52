//! Facts about the host that settings fall back to.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};

use anyhow::Context as _;

/// The host's name.
pub(crate) fn name() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname().context("asking for the host name")?;
    name.into_string().map_err(|name| anyhow::anyhow!("the host name {name:?} is not text: give --node-name"))
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
