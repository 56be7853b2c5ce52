//! Links and their addresses.

use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Netlink;
use crate::{Error, Result};

/// A network device.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: Vec<u8>,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    /// Up, with the other end up too, and noticed so by the kernel: packets pass.
    pub(crate) running: bool,
    pub(crate) ethernet: bool,
    pub(crate) veth: bool,
    pub(crate) vxlan: Option<Vxlan>,
    /// Kind of the queue that packets wait in to leave by it; `noqueue` is none.
    pub(crate) queue: Option<String>,
}

/// What tells one VXLAN device from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vxlan {
    /// The network identifier (24 bits).
    pub(crate) id: u32,
    /// The UDP port at both ends.
    pub(crate) port: u16,
    /// The source of the outer packets.
    pub(crate) local: Option<IpAddr>,
}

impl Vxlan {
    fn read(infos: &[LinkInfo]) -> Option<Self> {
        let data = infos.iter().find_map(|info| match info {
            LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
            _ => None,
        })?;
        let mut vxlan = Self { id: 0, port: 0, local: None };
        for info in data {
            match info {
                InfoVxlan::Id(id) => vxlan.id = *id,
                InfoVxlan::Port(port) => vxlan.port = *port,
                InfoVxlan::Local(local) => vxlan.local = Some((*local).into()),
                InfoVxlan::Local6(local) => vxlan.local = Some((*local).into()),
                _ => {}
            }
        }
        Some(vxlan)
    }

    fn message(&self) -> Vec<InfoVxlan> {
        let mut data = vec![
            InfoVxlan::Id(self.id),
            InfoVxlan::Port(self.port),
            // Who is where is known from the Nodes.
            InfoVxlan::Learning(false),
        ];
        data.extend(self.local.map(|local| match local {
            IpAddr::V4(local) => InfoVxlan::Local(local),
            IpAddr::V6(local) => InfoVxlan::Local6(local),
        }));
        data
    }
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: Vec::new(),
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            running: message.header.flags.contains(LinkFlags::Running),
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            veth: false,
            vxlan: None,
            queue: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(mac) => link.mac = mac,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Qdisc(queue) => link.queue = Some(queue),
                LinkAttribute::LinkInfo(infos) => {
                    link.veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth));
                    link.vxlan = Vxlan::read(&infos);
                }
                _ => {}
            }
        }
        link
    }
}

/// A veth pair to be made: the near end here, the far end in another namespace, both down (neither can be up before both
/// are there).
pub(crate) struct Veth<'a> {
    pub(crate) name: &'a str,
    pub(crate) mac: [u8; 6],
    pub(crate) peer_name: &'a str,
    pub(crate) peer_mac: [u8; 6],
    pub(crate) peer_namespace: BorrowedFd<'a>,
    pub(crate) mtu: u32,
}

impl Netlink {
    /// The link called `name`, if there is one.
    pub(crate) fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.get(RouteNetlinkMessage::GetLink(message), || format!("look up the link {name}")) {
            Ok(answers) => Ok(links_of(answers).into_iter().next()),
            Err(error) if is_no_device(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All links.
    pub(crate) fn links(&mut self) -> Result<Vec<Link>> {
        Ok(links_of(self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), "list the links")?))
    }

    /// Makes a veth pair.
    pub(crate) fn add_veth(&mut self, veth: &Veth<'_>) -> Result<()> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(veth.peer_name.to_owned()),
            LinkAttribute::Address(veth.peer_mac.to_vec()),
            LinkAttribute::Mtu(veth.mtu),
            LinkAttribute::NetNsFd(veth.peer_namespace.as_raw_fd()),
        ];
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(veth.name.to_owned()),
            LinkAttribute::Address(veth.mac.to_vec()),
            LinkAttribute::Mtu(veth.mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        self.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL, || {
            format!("create the veth pair {} and {} in the pod", veth.name, veth.peer_name)
        })
    }

    /// Makes a VXLAN device, down.
    pub(crate) fn add_vxlan(&mut self, name: &str, mac: [u8; 6], mtu: u32, vxlan: &Vxlan) -> Result<()> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vxlan),
                LinkInfo::Data(InfoData::Vxlan(vxlan.message())),
            ]),
        ];
        self.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL, || {
            format!("create the VXLAN device {name}")
        })
    }

    /// Sets a link up, with a note for people (`ip link` shows it as alias) when given.
    pub(crate) fn set_up(&mut self, index: u32, alias: Option<&str>) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes.extend(alias.map(|alias| LinkAttribute::IfAlias(alias.to_owned())));
        self.change(RouteNetlinkMessage::SetLink(message), 0, || format!("set link {index} up"))
    }

    /// Deletes a link; returns whether it was there.
    pub(crate) fn delete_link(&mut self, name: &str) -> Result<bool> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.change(RouteNetlinkMessage::DelLink(message), 0, || format!("delete the link {name}")) {
            Ok(()) => Ok(true),
            Err(error) if is_no_device(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives a link an address as a /32 or /128, usable at once.
    pub(crate) fn replace_address(&mut self, index: u32, address: IpAddr) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.scope = AddressScope::Universe;
        message.header.index = index;
        message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
        (message.header.family, message.header.prefix_len) = match address {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        if address.is_ipv6() {
            // Nobody else can have it: asking around only takes time.
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        self.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE, || {
            format!("add the address {address}")
        })
    }

    /// All addresses, with their links' indices.
    pub(crate) fn addresses(&mut self) -> Result<Vec<(u32, IpAddr)>> {
        let answers = self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), "list the addresses")?;
        let mut addresses = Vec::new();
        for answer in answers {
            if let RouteNetlinkMessage::NewAddress(message) = answer {
                // IFA_LOCAL is the address itself; IPv6 has only IFA_ADDRESS.
                let local = message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Local(address) => Some(*address),
                    _ => None,
                });
                let plain = message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Address(address) => Some(*address),
                    _ => None,
                });
                addresses.extend(local.or(plain).map(|address| (message.header.index, address)));
            }
        }
        Ok(addresses)
    }
}

fn links_of(answers: Vec<RouteNetlinkMessage>) -> Vec<Link> {
    answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => Some(message.into()),
            _ => None,
        })
        .collect()
}

fn is_no_device(error: &Error) -> bool {
    error.errno() == Some(nix::errno::Errno::ENODEV as i32)
}
