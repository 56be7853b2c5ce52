//! Routes and neighbours.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Netlink;
use crate::Result;

/// What marks the node's routes as made here (`ip route show proto 83`).
pub(crate) const OWN_PROTOCOL: RouteProtocol = RouteProtocol::Other(83);
/// What marks the routes to other nodes' pods.
pub(crate) const PEER_PROTOCOL: RouteProtocol = RouteProtocol::Other(84);

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) destination: IpNet,
    pub(crate) via: Via,
    pub(crate) protocol: RouteProtocol,
    /// The source address of the node's own packets.
    pub(crate) source: Option<IpAddr>,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// To a link whose other end is the destination.
    Link(u32),
    /// To a gateway that is taken to be on the link.
    Gateway(u32, IpAddr),
    /// Nowhere: senders are told "no route to host" at once.
    Unreachable,
}

impl Route {
    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: match self.destination {
                IpNet::V4(_) => AddressFamily::Inet,
                IpNet::V6(_) => AddressFamily::Inet6,
            },
            destination_prefix_length: self.destination.prefix_len(),
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: self.protocol,
            scope: if matches!(self.via, Via::Link(_)) { RouteScope::Link } else { RouteScope::Universe },
            kind: if self.via == Via::Unreachable { RouteType::Unreachable } else { RouteType::Unicast },
            ..RouteHeader::default()
        };
        if self.destination.prefix_len() > 0 {
            message.attributes.push(RouteAttribute::Destination(self.destination.network().into()));
        }
        match self.via {
            Via::Link(index) => message.attributes.push(RouteAttribute::Oif(index)),
            Via::Gateway(index, gateway) => {
                message.header.flags = RouteFlags::Onlink;
                message.attributes.push(RouteAttribute::Oif(index));
                message.attributes.push(RouteAttribute::Gateway(gateway.into()));
            }
            Via::Unreachable => {}
        }
        message.attributes.extend(self.source.map(|source| RouteAttribute::PrefSource(source.into())));
        message
    }

    fn read(message: &RouteMessage) -> Option<Self> {
        let (mut network, mut index, mut gateway, mut source) = (None, 0, None, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => network = ip(address),
                RouteAttribute::Oif(oif) => index = *oif,
                RouteAttribute::Gateway(address) => gateway = ip(address),
                RouteAttribute::PrefSource(address) => source = ip(address),
                _ => {}
            }
        }
        let any = match message.header.address_family {
            AddressFamily::Inet => IpAddr::from([0; 4]),
            AddressFamily::Inet6 => IpAddr::from([0; 16]),
            _ => return None,
        };
        let via = match (message.header.kind, gateway) {
            (RouteType::Unreachable, _) => Via::Unreachable,
            (RouteType::Unicast, Some(gateway)) => Via::Gateway(index, gateway),
            (RouteType::Unicast, None) => Via::Link(index),
            _ => return None,
        };
        let destination = IpNet::new(network.unwrap_or(any), message.header.destination_prefix_length).ok()?;
        Some(Self { destination, via, protocol: message.header.protocol, source })
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

impl Netlink {
    /// Adds a route, or changes the one to the same destination.
    pub(crate) fn replace_route(&mut self, route: &Route) -> Result<()> {
        self.change(RouteNetlinkMessage::NewRoute(route.message()), NLM_F_CREATE | NLM_F_REPLACE, || {
            format!("add the route to {}", route.destination)
        })
    }

    /// Deletes a route.
    pub(crate) fn delete_route(&mut self, route: &Route) -> Result<()> {
        self.change(RouteNetlinkMessage::DelRoute(route.message()), 0, || {
            format!("delete the route to {}", route.destination)
        })
    }

    /// The main table's routes of the kinds of [`Via`], IPv4 and IPv6.
    pub(crate) fn routes(&mut self) -> Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            for answer in self.dump(RouteNetlinkMessage::GetRoute(request), "list the routes")? {
                if let RouteNetlinkMessage::NewRoute(message) = answer
                    && message.header.table == RouteHeader::RT_TABLE_MAIN
                {
                    routes.extend(Route::read(&message));
                }
            }
        }
        Ok(routes)
    }

    /// Tells the kernel once and for all at which hardware address a neighbour is.
    pub(crate) fn replace_neighbour(&mut self, index: u32, address: IpAddr, mac: [u8; 6]) -> Result<()> {
        let message = neighbour(index, address, &mac);
        self.change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE, || {
            format!("add the neighbour {address}")
        })
    }

    /// Forgets a neighbour.
    pub(crate) fn delete_neighbour(&mut self, index: u32, address: IpAddr, mac: &[u8]) -> Result<()> {
        let message = neighbour(index, address, mac);
        self.change(RouteNetlinkMessage::DelNeighbour(message), 0, || format!("delete the neighbour {address}"))
    }

    /// The lasting neighbours of a link.
    pub(crate) fn neighbours(&mut self, index: u32) -> Result<Vec<(IpAddr, Vec<u8>)>> {
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            all.extend(self.neighbours_of(index, family)?);
        }
        Ok(all)
    }

    /// Tells a VXLAN device behind which machine a hardware address is.
    pub(crate) fn replace_forwarding(&mut self, index: u32, mac: [u8; 6], machine: IpAddr) -> Result<()> {
        let message = forwarding(index, &mac, machine);
        self.change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE, || {
            format!("add the forwarding entry for {machine}")
        })
    }

    /// Deletes a forwarding entry of a VXLAN device.
    pub(crate) fn delete_forwarding(&mut self, index: u32, mac: &[u8], machine: IpAddr) -> Result<()> {
        let message = forwarding(index, mac, machine);
        self.change(RouteNetlinkMessage::DelNeighbour(message), 0, || {
            format!("delete the forwarding entry for {machine}")
        })
    }

    /// The lasting forwarding entries of a VXLAN device.
    pub(crate) fn forwardings(&mut self, index: u32) -> Result<Vec<(IpAddr, Vec<u8>)>> {
        self.neighbours_of(index, AddressFamily::Bridge)
    }

    fn neighbours_of(&mut self, index: u32, family: AddressFamily) -> Result<Vec<(IpAddr, Vec<u8>)>> {
        let mut request = NeighbourMessage::default();
        request.header.family = family;
        let answers = self.dump(RouteNetlinkMessage::GetNeighbour(request), "list the neighbours")?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewNeighbour(message) => Some(message),
                _ => None,
            })
            .filter(|message| message.header.ifindex == index && message.header.state == NeighbourState::Permanent)
            .filter_map(|message| {
                let address = message.attributes.iter().find_map(|attribute| match attribute {
                    NeighbourAttribute::Destination(address) => neighbour_ip(address),
                    _ => None,
                });
                let mac = message.attributes.into_iter().find_map(|attribute| match attribute {
                    NeighbourAttribute::LinkLayerAddress(mac) => Some(mac),
                    _ => None,
                });
                address.zip(mac)
            })
            .collect())
    }
}

fn neighbour(index: u32, address: IpAddr, mac: &[u8]) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message.attributes =
        vec![NeighbourAttribute::Destination(address.into()), NeighbourAttribute::LinkLayerAddress(mac.to_vec())];
    message
}

fn forwarding(index: u32, mac: &[u8], machine: IpAddr) -> NeighbourMessage {
    let mut message = neighbour(index, machine, mac);
    message.header.family = AddressFamily::Bridge;
    // In the device's own table, not in that of a bridge above it.
    message.header.flags = NeighbourFlags::Own;
    message
}

/// Where the family is that of a bridge, the address is bytes.
fn neighbour_ip(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(address) => Some((*address).into()),
        NeighbourAddress::Inet6(address) => Some((*address).into()),
        NeighbourAddress::Other(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(bytes.as_slice()).ok().map(IpAddr::from),
            16 => <[u8; 16]>::try_from(bytes.as_slice()).ok().map(IpAddr::from),
            _ => None,
        },
        _ => None,
    }
}
