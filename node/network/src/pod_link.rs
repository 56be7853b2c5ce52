//! The wire between a pod and its node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use netlink_packet_route::route::RouteProtocol;
use sha2::{Digest as _, Sha256};

use crate::netlink::{Link, Netlink, OWN_PROTOCOL, Route, Veth, Via};
use crate::{Addresses, Error, Lease, Result, netns, sysctl};

/// Every pod's default gateway. No device has this address: the pod knows the hardware address behind it.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The same of IPv6.
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

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

/// The default gateway of `address`'s family.
pub(crate) fn gateway(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { GATEWAY.into() } else { GATEWAY6.into() }
}

/// Hardware address of the pod's end: made of its addresses, so that both ends can be rebuilt from a lease.
pub(crate) fn pod_mac(addresses: Addresses) -> [u8; 6] {
    mac(POD_END, addresses)
}

/// Hardware address of the node's end.
pub(crate) fn host_mac(addresses: Addresses) -> [u8; 6] {
    mac(HOST_END, addresses)
}

/// Hardware address of the pod's end, from that of the node's.
pub(crate) fn other_end(mut host: [u8; 6]) -> [u8; 6] {
    host[1] = POD_END;
    host
}

fn mac(second: u8, addresses: Addresses) -> [u8; 6] {
    let [a, b, c, d] = match addresses.primary() {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => {
            let hash = Sha256::digest(address.octets());
            [hash[0], hash[1], hash[2], hash[3]]
        }
    };
    // 0x0a: administered locally, for one receiver.
    [0x0a, second, a, b, c, d]
}

/// What the wires of a node have in common.
#[derive(Clone, Debug)]
pub(crate) struct Wiring {
    pub(crate) mtu: u32,
    /// The source addresses of the node's own packets to pods; the first of a family counts.
    pub(crate) node_ips: Vec<IpAddr>,
}

/// Joins a pod to the node. On failure nothing of it is left.
pub(crate) fn connect(lease: &Lease, wiring: &Wiring) -> Result<()> {
    let namespace = netns::open(&lease.namespace)?;
    let name = host_device_name(&lease.container, &lease.interface);
    let mut host = Netlink::open()?;
    let mut pod = netns::within(&lease.namespace, &namespace, || {
        // The pod's end will be the only one with its address: asking around for another user only takes time.
        sysctl::set_if_present("ipv6/conf/default/accept_dad", "0")?;
        if lease.addresses.has_v6() {
            // A runtime may have turned IPv6 off. All a pod has to know of its network it is told here, nothing by routers.
            sysctl::set("ipv6/conf/default/disable_ipv6", "0")?;
            sysctl::set("ipv6/conf/default/accept_ra", "0")?;
        }
        let mut pod = Netlink::open()?;
        pod.set_up(LOOPBACK, None)?;
        Ok(pod)
    })?;
    // Left by an ADD that was cut short; its other end may be in a namespace that is gone from us.
    host.delete_link(&name)?;
    host.add_veth(&Veth {
        name: &name,
        mac: host_mac(lease.addresses),
        peer_name: &lease.interface,
        peer_mac: pod_mac(lease.addresses),
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

/// The node's end: up, of each address one route and one neighbour. Does no harm where it was done before.
pub(crate) fn configure_host(host: &mut Netlink, lease: &Lease, wiring: &Wiring) -> Result<()> {
    let name = host_device_name(&lease.container, &lease.interface);
    let link = find(host, &name)?;
    // Before it is up, so that no IPv6 address is made and announced that nobody uses.
    if lease.addresses.has_v6() {
        sysctl::set(&format!("ipv6/conf/{name}/disable_ipv6"), "0")?;
        sysctl::set(&format!("ipv6/conf/{name}/addr_gen_mode"), "1")?;
        sysctl::set(&format!("ipv6/conf/{name}/accept_ra"), "0")?;
    } else {
        sysctl::set_if_present(&format!("ipv6/conf/{name}/disable_ipv6"), "1")?;
    }
    // Strict: what comes out of the pod has the pod's address.
    sysctl::set(&format!("ipv4/conf/{name}/rp_filter"), "1")?;
    host.set_up(link.index, Some(&format!("skep pod {} {}", lease.addresses, lease.container)))?;
    for (address, route) in lease.addresses.iter().zip(host_routes(link.index, lease, wiring)) {
        host.replace_route(&route)?;
        host.replace_neighbour(link.index, address, pod_mac(lease.addresses))?;
    }
    Ok(())
}

fn configure_pod(pod: &mut Netlink, index: u32, lease: &Lease) -> Result<()> {
    for address in lease.addresses.iter() {
        pod.replace_address(index, address)?;
        pod.replace_neighbour(index, gateway(address), host_mac(lease.addresses))?;
        pod.replace_route(&default_route(index, address))?;
    }
    Ok(())
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
pub(crate) fn check(lease: &Lease, wiring: &Wiring) -> Result<()> {
    check_host(&mut Netlink::open()?, lease, wiring)?;
    let namespace = netns::open(&lease.namespace)?;
    let mut pod = netns::within(&lease.namespace, &namespace, Netlink::open)?;
    let link = find_up(&mut pod, &lease.interface, &pod_mac(lease.addresses))?;
    let (addresses, routes) = (pod.addresses()?, pod.routes()?);
    for address in lease.addresses.iter() {
        if !addresses.contains(&(link.index, address)) {
            return Err(Error::Broken(format!("{} in the pod has not the address {address}", link.name)));
        }
        if !routes.contains(&default_route(link.index, address)) {
            let gateway = gateway(address);
            return Err(Error::Broken(format!("the pod has no default route over {} to {gateway}", link.name)));
        }
    }
    Ok(())
}

/// Whether the node's end is as [`connect`] left it.
pub(crate) fn check_host(host: &mut Netlink, lease: &Lease, wiring: &Wiring) -> Result<()> {
    let link = find_up(host, &host_device_name(&lease.container, &lease.interface), &host_mac(lease.addresses))?;
    let routes = host.routes()?;
    match host_routes(link.index, lease, wiring).find(|route| !routes.contains(route)) {
        Some(route) => {
            Err(Error::Broken(format!("the node has no route to {} over {}", route.destination.addr(), link.name)))
        }
        None => Ok(()),
    }
}

/// Sets up the loopback device of a namespace.
pub(crate) fn loopback_up(namespace: &std::path::Path) -> Result<()> {
    let file = netns::open(namespace)?;
    netns::within(namespace, &file, || Netlink::open()?.set_up(LOOPBACK, None))
}

/// The node's routes to a pod, in the order of its addresses.
pub(crate) fn host_routes(index: u32, lease: &Lease, wiring: &Wiring) -> impl Iterator<Item = Route> {
    lease.addresses.iter().map(move |address| Route {
        destination: address.into(),
        via: Via::Link(index),
        protocol: OWN_PROTOCOL,
        source: wiring.node_ips.iter().copied().find(|source| source.is_ipv4() == address.is_ipv4()),
    })
}

/// The pod's route to everybody of `address`'s family.
fn default_route(index: u32, address: IpAddr) -> Route {
    Route {
        destination: if address.is_ipv4() { Ipv4Net::default().into() } else { Ipv6Net::default().into() },
        via: Via::Gateway(index, gateway(address)),
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
        let address = Addresses::new([Ipv4Addr::new(10, 1, 2, 3).into()]).unwrap();
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
