//! Which of the node's devices face whom.

use std::net::IpAddr;

use crate::Result;
use crate::netlink::{Link, Netlink, Via};
use crate::pod_link::{is_host_device, is_host_device_name};

/// The name of the device through which packets get to nodes on other networks.
pub const VXLAN_DEVICE: &str = "skep-vxlan";

/// Names of the Ethernet devices by which clients and other nodes reach this node (the calling thread's network namespace):
/// those that have one of `addresses`, and those a default route leads to. Pods' devices and the VXLAN are none of them.
///
/// # Errors
/// When the kernel does not tell.
pub fn node_devices(addresses: &[IpAddr]) -> Result<Vec<String>> {
    let mut netlink = Netlink::open()?;
    let mut indices: Vec<u32> = netlink
        .addresses()?
        .into_iter()
        .filter(|(_, address)| addresses.contains(address))
        .map(|(index, _)| index)
        .collect();
    let defaults = netlink.routes()?.into_iter().filter(|route| route.destination.prefix_len() == 0);
    indices.extend(defaults.filter_map(|route| match route.via {
        Via::Link(index) | Via::Gateway(index, _) => Some(index),
        Via::Unreachable => None,
    }));
    let faces = |link: &Link| link.ethernet && indices.contains(&link.index);
    let links = netlink.links()?.into_iter().filter(faces).map(|link| link.name);
    Ok(links.filter(|name| name != VXLAN_DEVICE && !is_host_device_name(name)).collect())
}

/// The node's end of a pod's wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodDevice {
    /// Its name.
    pub name: String,
    /// The kernel's number of it.
    pub index: u32,
    /// The pod's addresses: those with a route to it alone.
    pub addresses: Vec<IpAddr>,
}

/// The node's ends of all pods' wires (the calling thread's network namespace), in the order of their numbers.
///
/// # Errors
/// When the kernel does not tell.
pub fn pod_devices() -> Result<Vec<PodDevice>> {
    let mut netlink = Netlink::open()?;
    let mut devices: Vec<PodDevice> = netlink
        .links()?
        .into_iter()
        .filter(is_host_device)
        .map(|link| PodDevice { name: link.name, index: link.index, addresses: Vec::new() })
        .collect();
    devices.sort_by_key(|device| device.index);
    for route in netlink.routes()? {
        let Via::Link(index) = route.via else { continue };
        let host = route.destination.prefix_len() == route.destination.max_prefix_len();
        if let (true, Ok(place)) = (host, devices.binary_search_by_key(&index, |device| device.index)) {
            devices[place].addresses.push(route.destination.addr());
        }
    }
    Ok(devices)
}
