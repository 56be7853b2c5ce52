//! The way to the pods of other nodes: plain routes where the other node is on one Ethernet with this one, a VXLAN device
//! where it is not.
//!
//! The VXLAN device learns nothing and asks nobody. Each peer's end has a hardware address made of its node's address and
//! one IP address a pod CIDR, the network's own, which no pod has; so a route, a neighbour and a forwarding entry say all,
//! and any node can work them out from the Node objects alone. No packet filter rule is needed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

use crate::devices::VXLAN_DEVICE as DEVICE;
use crate::netlink::{Netlink, PEER_PROTOCOL, Route, Via, Vxlan};
use crate::network::{MIN_MTU, device_mtu};
use crate::{Error, Result, Routing, sysctl};

/// What [`Peers`] needs to know of this node.
#[derive(Clone, Debug)]
pub struct PeersConfig {
    /// How packets get to other nodes.
    pub routing: Routing,
    /// This node's addresses, the first of which is the VXLAN's.
    pub node_ips: Vec<IpAddr>,
    /// This node's pod CIDRs.
    pub pod_cidrs: Vec<IpNet>,
    /// The VXLAN network identifier, the same on all nodes: 1 to 16777215.
    pub vxlan_id: u32,
    /// The VXLAN's UDP port, the same on all nodes.
    pub vxlan_port: u16,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The Node's name.
    pub name: String,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
    /// Its internal addresses.
    pub addresses: Vec<IpAddr>,
}

/// What [`Peers::apply`] found and did. Numbers of pod CIDRs and entries, not of nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Pod CIDRs reached by a plain route.
    pub direct: usize,
    /// Pod CIDRs reached by VXLAN.
    pub vxlan: usize,
    /// Pod CIDRs that cannot be reached; each is logged.
    pub failed: usize,
    /// Routes, neighbours, forwarding entries and devices that were missing or wrong.
    pub changed: usize,
    /// Those that were there for no peer.
    pub removed: usize,
}

/// Keeps the routes of this node (of the calling thread's network namespace) to other nodes' pods.
#[derive(Clone, Debug)]
pub struct Peers {
    config: PeersConfig,
}

/// A pod CIDR of a peer with VXLAN, and the peer's address.
struct Tunnel {
    cidr: IpNet,
    machine: IpAddr,
}

impl Peers {
    /// With these settings. Changes nothing yet.
    ///
    /// # Errors
    /// When the identifier or the port cannot be used.
    pub fn new(config: PeersConfig) -> Result<Self> {
        if !(1..1 << 24).contains(&config.vxlan_id) {
            return Err(Error::Config(format!("the VXLAN identifier {} is not 1 to 16777215", config.vxlan_id)));
        }
        if config.vxlan_port == 0 {
            return Err(Error::Config("the VXLAN port cannot be 0".to_owned()));
        }
        Ok(Self { config })
    }

    /// Makes the kernel's routes, neighbours, forwarding entries and VXLAN device what `peers` (all other nodes) call for,
    /// and removes those of nodes that are not among them. Where all is well, nothing is written.
    ///
    /// # Errors
    /// When the present state cannot be read or the VXLAN device not be made. What fails for one peer is logged and counted.
    pub fn apply(&self, peers: &[Peer]) -> Result<Applied> {
        let mut netlink = Netlink::open()?;
        let mut done = Applied::default();
        let Ways { direct: mut wanted, tunnels, failed } = self.ways(peers, &netlink.routes()?);
        (done.direct, done.failed) = (wanted.len(), failed);
        if tunnels.is_empty() {
            done.removed += usize::from(netlink.delete_link(DEVICE)?);
        } else {
            let index = self.device(&mut netlink, &mut done)?;
            self.entries(&mut netlink, index, &tunnels, &mut done)?;
            for Tunnel { cidr, .. } in &tunnels {
                wanted.insert(*cidr, self.route(*cidr, Via::Gateway(index, cidr.network())));
            }
            done.vxlan = tunnels.len();
        }
        self.routes(&mut netlink, &wanted, &mut done)?;
        Ok(done)
    }

    /// Bytes of each packet that the ways need for themselves ([`Routing::overhead`]): none where [`Peers::apply`] found plain
    /// routes to all peers.
    pub fn overhead(&self, applied: &Applied) -> u32 {
        match self.config.routing {
            Routing::Auto if applied.vxlan == 0 => 0,
            routing => routing.overhead(self.config.node_ips.first().copied()),
        }
    }

    /// The ways to all pod CIDRs of `peers`, given the present routes. Where there is none, it is logged.
    fn ways(&self, peers: &[Peer], present: &[Route]) -> Ways {
        let mut ways = Ways::default();
        if self.config.routing == Routing::Routes {
            return ways;
        }
        for (peer, cidr) in peers.iter().flat_map(|peer| peer.pod_cidrs.iter().map(move |cidr| (peer, *cidr))) {
            match self.way(peer, cidr, present) {
                Ok(Way::Direct(route)) => drop(ways.direct.insert(cidr, route)),
                Ok(Way::Tunnel(machine)) => ways.tunnels.push(Tunnel { cidr, machine }),
                Err(reason) => {
                    tracing::warn!(node = peer.name, %cidr, "no way to the node's pods: {reason}");
                    ways.failed += 1;
                }
            }
        }
        ways
    }

    /// The way to a pod CIDR of a peer, or why there is none.
    fn way(&self, peer: &Peer, cidr: IpNet, routes: &[Route]) -> Result<Way, String> {
        let overlaps = |own: &IpNet| own.contains(&cidr) || cidr.contains(own);
        if let Some(own) = self.config.pod_cidrs.iter().find(|own| overlaps(own)) {
            return Err(format!("it overlaps this node's own, {own}"));
        }
        let of_family = |v4: bool| peer.addresses.iter().copied().find(|address| address.is_ipv4() == v4);
        let neighbour = of_family(cidr.addr().is_ipv4()).and_then(|address| Some((address, on_link(routes, address)?)));
        if self.config.routing != Routing::Vxlan
            && let Some((address, index)) = neighbour
        {
            return Ok(Way::Direct(self.route(cidr, Via::Gateway(index, address))));
        }
        if self.config.routing == Routing::Direct {
            return Err(format!("none of its addresses {:?} is on a network of this node", peer.addresses));
        }
        let own = self.config.node_ips.first().ok_or("this node has no address")?;
        of_family(own.is_ipv4()).map(Way::Tunnel).ok_or_else(|| format!("it has no address of {own}'s family"))
    }

    fn route(&self, cidr: IpNet, via: Via) -> Route {
        Route { destination: cidr.trunc(), via, protocol: PEER_PROTOCOL, source: self.source(cidr, via) }
    }

    /// What the node's own packets to a pod CIDR have for source: its address, or inside the VXLAN its end's, so that the
    /// answers take the same way.
    fn source(&self, cidr: IpNet, via: Via) -> Option<IpAddr> {
        let v4 = cidr.addr().is_ipv4();
        match via {
            Via::Gateway(_, gateway) if gateway == cidr.network() => self.own_ends().find(|end| end.is_ipv4() == v4),
            _ => self.config.node_ips.iter().copied().find(|address| address.is_ipv4() == v4),
        }
    }

    /// The addresses of this node's end of the VXLAN.
    fn own_ends(&self) -> impl Iterator<Item = IpAddr> {
        self.config.pod_cidrs.iter().map(IpNet::network)
    }

    /// Makes the VXLAN device, unless the one that is there will do; returns its index.
    fn device(&self, netlink: &mut Netlink, done: &mut Applied) -> Result<u32> {
        let local = self.config.node_ips.first().copied();
        let own = local.ok_or_else(|| Error::Config("a VXLAN needs the node's address".to_owned()))?;
        let vxlan = Vxlan { id: self.config.vxlan_id, port: self.config.vxlan_port, local };
        let mac = end_mac(own);
        let mtu = device_mtu(netlink, local.as_slice())?.saturating_sub(Routing::Vxlan.overhead(local)).max(MIN_MTU);
        let fits = |link: &crate::netlink::Link| link.vxlan == Some(vxlan) && link.mac == mac && link.mtu == mtu;
        let mut link = netlink.link(DEVICE)?;
        if !link.as_ref().is_some_and(fits) {
            netlink.delete_link(DEVICE)?;
            netlink.add_vxlan(DEVICE, mac, mtu, &vxlan)?;
            done.changed += 1;
            link = netlink.link(DEVICE)?;
        }
        let link = link.ok_or_else(|| Error::Broken(format!("there is no link {DEVICE}")))?;
        // Loose: what other nodes send as themselves comes back by their own network.
        sysctl::set(&format!("ipv4/conf/{DEVICE}/rp_filter"), "2")?;
        if self.own_ends().any(|end| end.is_ipv6()) {
            sysctl::set_if_present(&format!("ipv6/conf/{DEVICE}/disable_ipv6"), "0")?;
            // No address that would be announced: nobody could hear it.
            sysctl::set_if_present(&format!("ipv6/conf/{DEVICE}/addr_gen_mode"), "1")?;
        } else {
            sysctl::set_if_present(&format!("ipv6/conf/{DEVICE}/disable_ipv6"), "1")?;
        }
        if !link.up {
            netlink.set_up(link.index, Some("skep: pods of nodes on other networks"))?;
        }
        let addresses = netlink.addresses()?;
        for end in self.own_ends().filter(|end| !addresses.contains(&(link.index, *end))) {
            netlink.replace_address(link.index, end)?;
            done.changed += 1;
        }
        Ok(link.index)
    }

    /// The neighbours and forwarding entries of the VXLAN device.
    fn entries(&self, netlink: &mut Netlink, index: u32, tunnels: &[Tunnel], done: &mut Applied) -> Result<()> {
        let wanted: BTreeMap<IpAddr, [u8; 6]> =
            tunnels.iter().map(|tunnel| (tunnel.cidr.network(), end_mac(tunnel.machine))).collect();
        let machines: BTreeMap<IpAddr, [u8; 6]> =
            tunnels.iter().map(|tunnel| (tunnel.machine, end_mac(tunnel.machine))).collect();
        let same = |wanted: &BTreeMap<IpAddr, [u8; 6]>, address: &IpAddr, mac: &[u8]| {
            wanted.get(address).is_some_and(|wanted| wanted == mac)
        };
        let present = netlink.neighbours(index)?;
        for (address, mac) in present.iter().filter(|(address, _)| !wanted.contains_key(address)) {
            // The kernel's own, of multicast and broadcast, are not lasting ones, but cost nothing to leave alone.
            if !address.is_multicast() {
                netlink.delete_neighbour(index, *address, mac)?;
                done.removed += 1;
            }
        }
        for (address, mac) in wanted.iter().filter(|(address, mac)| !present.contains(&(**address, mac.to_vec()))) {
            netlink.replace_neighbour(index, *address, *mac)?;
            done.changed += 1;
        }
        let present = netlink.forwardings(index)?;
        for (machine, mac) in present.iter().filter(|(machine, mac)| !same(&machines, machine, mac)) {
            netlink.delete_forwarding(index, mac, *machine)?;
            done.removed += 1;
        }
        for (machine, mac) in machines.iter().filter(|(machine, mac)| !present.contains(&(**machine, mac.to_vec()))) {
            netlink.replace_forwarding(index, *mac, *machine)?;
            done.changed += 1;
        }
        Ok(())
    }

    fn routes(&self, netlink: &mut Netlink, wanted: &BTreeMap<IpNet, Route>, done: &mut Applied) -> Result<()> {
        // Anew: those of a VXLAN device that was made again went with the old one.
        let present: Vec<Route> =
            netlink.routes()?.into_iter().filter(|route| route.protocol == PEER_PROTOCOL).collect();
        let is_wanted = |route: &Route| wanted.get(&route.destination) == Some(route);
        for route in wanted.values().filter(|route| !present.contains(route)) {
            match netlink.replace_route(route) {
                Ok(()) => done.changed += 1,
                Err(error) => {
                    tracing::warn!(%error, "no way to a node's pods");
                    done.failed += 1;
                }
            }
        }
        // An IPv4 route was replaced by the wanted one to the same destination; IPv6 has both then.
        let left = netlink.routes()?.into_iter().filter(|route| route.protocol == PEER_PROTOCOL);
        for route in left.filter(|route| !is_wanted(route)) {
            netlink.delete_route(&route)?;
            done.removed += 1;
        }
        Ok(())
    }
}

/// The ways to all peers.
#[derive(Default)]
struct Ways {
    direct: BTreeMap<IpNet, Route>,
    tunnels: Vec<Tunnel>,
    /// Pod CIDRs that none leads to.
    failed: usize,
}

enum Way {
    Direct(Route),
    Tunnel(IpAddr),
}

/// Removes every route to other nodes, and the VXLAN device.
pub(crate) fn remove(netlink: &mut Netlink) -> Result<()> {
    netlink.delete_link(DEVICE)?;
    for route in netlink.routes()?.iter().filter(|route| route.protocol == PEER_PROTOCOL) {
        netlink.delete_route(route)?;
    }
    Ok(())
}

/// The link an address is a neighbour on, going by the most specific route to it.
fn on_link(routes: &[Route], address: IpAddr) -> Option<u32> {
    let leads = |route: &&Route| route.protocol != PEER_PROTOCOL && route.destination.contains(&address);
    match routes.iter().filter(leads).max_by_key(|route| route.destination.prefix_len())?.via {
        Via::Link(index) => Some(index),
        Via::Gateway(..) | Via::Unreachable => None,
    }
}

/// The hardware address of a node's end of the VXLAN, made of its address so that every node knows it.
fn end_mac(node: IpAddr) -> [u8; 6] {
    let [a, b, c, d] = match node {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => {
            let hash = Sha256::digest(address.octets());
            [hash[0], hash[1], hash[2], hash[3]]
        }
    };
    // 0x0a: administered locally, for one receiver.
    [0x0a, 0x5a, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::route::RouteProtocol;

    use super::*;

    #[test]
    fn the_most_specific_route_tells_who_is_a_neighbour() {
        let route = |destination: &str, via| Route {
            destination: destination.parse().unwrap(),
            via,
            protocol: RouteProtocol::Kernel,
            source: None,
        };
        let gateway = Via::Gateway(2, [192, 0, 2, 254].into());
        let routes = [
            route("0.0.0.0/0", gateway),
            route("192.0.2.0/24", Via::Link(2)),
            route("192.0.2.128/25", gateway),
            Route { protocol: PEER_PROTOCOL, ..route("198.51.100.0/24", Via::Link(9)) },
        ];
        assert_eq!(on_link(&routes, [192, 0, 2, 7].into()), Some(2));
        for elsewhere in [[192, 0, 2, 129], [198, 51, 100, 1], [203, 0, 113, 1]] {
            assert_eq!(on_link(&routes, elsewhere.into()), None, "{elsewhere:?}");
        }
    }
}
