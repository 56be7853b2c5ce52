//! Which of the node's devices face whom.

use std::net::IpAddr;

use crate::netlink::{Link, Netlink, Via};
use crate::pod_link::{is_host_device, is_host_device_name, other_end};
use crate::{Result, sysctl};

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
    /// The longest packet it takes, bytes.
    pub mtu: u32,
    /// Hardware address of the node's end.
    pub mac: [u8; 6],
    /// Hardware address of the pod's end.
    pub pod_mac: [u8; 6],
    /// Does a queue at the node's end limit (or reorder) what the pod receives?
    pub is_limited: bool,
}

impl From<Link> for PodDevice {
    fn from(link: Link) -> Self {
        let mac = link.mac.as_slice().try_into().unwrap_or_default();
        Self {
            index: link.index,
            addresses: Vec::new(),
            mtu: link.mtu,
            mac,
            pod_mac: other_end(mac),
            is_limited: link.queue.is_some_and(|queue| queue != "noqueue"),
            name: link.name,
        }
    }
}

/// The node's ends of all pods' wires (the calling thread's network namespace), in the order of their numbers.
///
/// # Errors
/// When the kernel does not tell.
pub fn pod_devices() -> Result<Vec<PodDevice>> {
    let mut netlink = Netlink::open()?;
    let mut devices: Vec<PodDevice> =
        netlink.links()?.into_iter().filter(is_host_device).map(PodDevice::from).collect();
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

/// Does the kernel drop what comes by one of these devices (the calling thread's network namespace) if its source is not
/// reached by the same? (`rp_filter` 1, RFC 3704's strict mode; of a device's and `all`, the higher counts.)
pub fn have_strict_reverse_path(devices: &[String]) -> bool {
    let value =
        |name: &str| sysctl::get(&format!("ipv4/conf/{name}/rp_filter")).ok().and_then(|text| text.parse().ok());
    let all: u8 = value("all").unwrap_or(0);
    devices.iter().any(|device| value(device).unwrap_or(0).max(all) == 1)
}
