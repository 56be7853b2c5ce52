//! The wire between a pod and its node.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd as _;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use netlink_packet_route::route::RouteProtocol;
use sha2::{Digest as _, Sha256};

use crate::netlink::{Link, Netlink, OWN_PROTOCOL, Route, Veth, Via};
use crate::{Error, Lease, Result, netns, sysctl};

/// Every pod's default gateway. No device has this address: the pod knows the hardware address behind it.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

const DEVICE_PREFIX: &str = "skep";
/// Hexadecimal digits of the hash in a device's name: with the prefix, the 15 letters a name may have.
const HASH_LEN: usize = 11;
/// Second byte of an end's hardware address.
const POD_END: u8 = 0x58;
const HOST_END: u8 = 0x59;
/// The loopback device is the first of every namespace.
const LOOPBACK: u32 = 1;

/// The name of a pod's device on the node, made of the sandbox's id and the interface's name inside the pod.
pub fn host_device_name(container: &str, interface: &str) -> String {
    let hash = Sha256::new().chain_update(container).chain_update("/").chain_update(interface).finalize();
    let mut name: String =
        std::iter::once(DEVICE_PREFIX.to_owned()).chain(hash.iter().map(|b| format!("{b:02x}"))).collect();
    name.truncate(DEVICE_PREFIX.len() + HASH_LEN);
    name
}

/// Whether a link is the node's end of a pod's wire, going by its kind and the form of its name.
pub(crate) fn is_host_device(link: &Link) -> bool {
    link.veth && is_host_device_name(&link.name)
}

/// Whether a device of that name is the node's end of a pod's wire, going by the form of the name.
pub fn is_host_device_name(name: &str) -> bool {
    let hash = |text: &str| text.len() == HASH_LEN && text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
    name.strip_prefix(DEVICE_PREFIX).is_some_and(hash)
}

/// Hardware address of the pod's end: made of its address, so that both ends can be rebuilt from a lease.
pub(crate) fn pod_mac(address: Ipv4Addr) -> [u8; 6] {
    mac(POD_END, address)
}

/// Hardware address of the node's end.
pub(crate) fn host_mac(address: Ipv4Addr) -> [u8; 6] {
    mac(HOST_END, address)
}

/// Hardware address of the pod's end, from that of the node's.
pub(crate) fn other_end(mut host: [u8; 6]) -> [u8; 6] {
    host[1] = POD_END;
    host
}

fn mac(second: u8, address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    // 0x0a: administered locally, for one receiver.
    [0x0a, second, a, b, c, d]
}

/// What the wires of a node have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wiring {
    pub(crate) mtu: u32,
    /// The source address of the node's own packets to pods.
    pub(crate) node_ip: Option<IpAddr>,
}

/// Joins a pod to the node. On failure nothing of it is left.
pub(crate) fn connect(lease: &Lease, wiring: Wiring) -> Result<()> {
    let namespace = netns::open(&lease.namespace)?;
    let name = host_device_name(&lease.container, &lease.interface);
    let mut host = Netlink::open()?;
    let mut pod = netns::within(&lease.namespace, &namespace, || {
        // The pod's end will be the only one with its address: asking around for another user only takes time.
        sysctl::set_if_present("ipv6/conf/default/accept_dad", "0")?;
        let mut pod = Netlink::open()?;
        pod.set_up(LOOPBACK, None)?;
        Ok(pod)
    })?;
    // Left by an ADD that was cut short; its other end may be in a namespace that is gone from us.
    host.delete_link(&name)?;
    host.add_veth(&Veth {
        name: &name,
        mac: host_mac(lease.address),
        peer_name: &lease.interface,
        peer_mac: pod_mac(lease.address),
        peer_namespace: namespace.as_fd(),
        mtu: wiring.mtu,
    })?;
    let configured = (|| {
        let pod_end = find(&mut pod, &lease.interface)?;
        // This end first: the one that comes up last carries packets at once, and that is to be the node's.
        pod.set_up(pod_end.index, None)?;
        configure_host(&mut host, lease, wiring)?;
        configure_pod(&mut pod, pod_end.index, lease)?;
        wait_until_running(&mut pod, &lease.interface)
    })();
    if configured.is_err() {
        let _ = host.delete_link(&name);
    }
    configured
}

/// The node's end: up, one route, one neighbour. Does no harm where it was done before.
pub(crate) fn configure_host(host: &mut Netlink, lease: &Lease, wiring: Wiring) -> Result<()> {
    let name = host_device_name(&lease.container, &lease.interface);
    let link = find(host, &name)?;
    // Before it is up, so that no IPv6 address is made and announced that nobody uses.
    sysctl::set_if_present(&format!("ipv6/conf/{name}/disable_ipv6"), "1")?;
    // Strict: what comes out of the pod has the pod's address.
    sysctl::set(&format!("ipv4/conf/{name}/rp_filter"), "1")?;
    host.set_up(link.index, Some(&format!("skep pod {} {}", lease.address, lease.container)))?;
    host.replace_route(&host_route(link.index, lease, wiring))?;
    host.replace_neighbour(link.index, lease.address.into(), pod_mac(lease.address))
}

fn configure_pod(pod: &mut Netlink, index: u32, lease: &Lease) -> Result<()> {
    pod.replace_address(index, lease.address.into())?;
    pod.replace_neighbour(index, GATEWAY.into(), host_mac(lease.address))?;
    pod.replace_route(&default_route(index))
}

/// The end that came up first drops packets until a kernel worker has noticed the other: mostly done by now, always soon.
#[expect(clippy::disallowed_methods, reason = "the plugin's process has no runtime, and nothing else to do")]
fn wait_until_running(netlink: &mut Netlink, name: &str) -> Result<()> {
    for _ in 0..100 {
        if find(netlink, name)?.running {
            break;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// Takes the node's end away, and with it the pod's, its routes and neighbours; returns whether it was there.
pub(crate) fn disconnect(container: &str, interface: &str) -> Result<bool> {
    Netlink::open()?.delete_link(&host_device_name(container, interface))
}

/// Whether everything is as [`connect`] left it.
pub(crate) fn check(lease: &Lease, wiring: Wiring) -> Result<()> {
    check_host(&mut Netlink::open()?, lease, wiring)?;
    let namespace = netns::open(&lease.namespace)?;
    let mut pod = netns::within(&lease.namespace, &namespace, Netlink::open)?;
    let link = find_up(&mut pod, &lease.interface, &pod_mac(lease.address))?;
    if !pod.addresses()?.contains(&(link.index, lease.address.into())) {
        return Err(Error::Broken(format!("{} in the pod has not the address {}", link.name, lease.address)));
    }
    if !pod.routes()?.contains(&default_route(link.index)) {
        return Err(Error::Broken(format!("the pod has no default route over {}", link.name)));
    }
    Ok(())
}

/// Whether the node's end is as [`connect`] left it.
pub(crate) fn check_host(host: &mut Netlink, lease: &Lease, wiring: Wiring) -> Result<()> {
    let link = find_up(host, &host_device_name(&lease.container, &lease.interface), &host_mac(lease.address))?;
    let route = host_route(link.index, lease, wiring);
    if !host.routes()?.contains(&route) {
        return Err(Error::Broken(format!("the node has no route to {} over {}", lease.address, link.name)));
    }
    Ok(())
}

/// Sets up the loopback device of a namespace.
pub(crate) fn loopback_up(namespace: &std::path::Path) -> Result<()> {
    let file = netns::open(namespace)?;
    netns::within(namespace, &file, || Netlink::open()?.set_up(LOOPBACK, None))
}

pub(crate) fn host_route(index: u32, lease: &Lease, wiring: Wiring) -> Route {
    Route {
        destination: IpNet::V4(lease.address.into()),
        via: Via::Link(index),
        protocol: OWN_PROTOCOL,
        source: wiring.node_ip.filter(IpAddr::is_ipv4),
    }
}

fn default_route(index: u32) -> Route {
    Route {
        destination: IpNet::V4(Ipv4Net::default()),
        via: Via::Gateway(index, GATEWAY.into()),
        protocol: RouteProtocol::Boot,
        source: None,
    }
}

fn find(netlink: &mut Netlink, name: &str) -> Result<Link> {
    netlink.link(name)?.ok_or_else(|| Error::Broken(format!("there is no link {name}")))
}

fn find_up(netlink: &mut Netlink, name: &str, mac: &[u8]) -> Result<Link> {
    let link = find(netlink, name)?;
    if !link.up {
        return Err(Error::Broken(format!("the link {name} is down")));
    }
    if link.mac != mac {
        return Err(Error::Broken(format!("the link {name} has another hardware address")));
    }
    Ok(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_fit_the_kernel_and_differ_by_container_and_interface() {
        let name = host_device_name(&"a".repeat(64), "eth0");
        assert_eq!(name.len(), 15);
        assert_eq!(name, host_device_name(&"a".repeat(64), "eth0"));
        assert_ne!(name, host_device_name(&"a".repeat(64), "eth1"));
        assert_ne!(name, host_device_name(&"a".repeat(63), "eth0"));
    }

    #[test]
    fn one_end_tells_the_hardware_address_of_the_other() {
        let address = Ipv4Addr::new(10, 1, 2, 3);
        assert_eq!(other_end(host_mac(address)), pod_mac(address));
    }

    #[test]
    fn only_veths_with_such_a_name_are_taken_for_ours() {
        let link = |name: &str, veth| Link {
            index: 7,
            name: name.to_owned(),
            mac: vec![],
            mtu: 1500,
            up: true,
            running: true,
            ethernet: true,
            veth,
            vxlan: None,
            queue: None,
        };
        assert!(is_host_device(&link(&host_device_name("c", "eth0"), true)));
        assert!(!is_host_device(&link(&host_device_name("c", "eth0"), false)));
        for name in ["skep0", "skep-node", "skepABCDEF01234", "eth0", "skep0123456789"] {
            assert!(!is_host_device(&link(name, true)), "{name}");
        }
    }
}
