//! The pod network of one node: `skep-node` installs itself as the CNI plugin ([`Network::setup`], [`cni_main`]), gives every
//! pod an address of each of the node's pod CIDRs and joins it to the node by a routed veth pair.
//!
//! There is no bridge and no packet filter rule. A pod has its addresses as a /32 and a /128 on `eth0` and of each family one
//! route, the default route over the link-local gateway 169.254.1.1 or fe80::1; the node has one /32 and one /128 route a pod.
//! Both ends know each other's hardware address from the start, so neither ARP nor neighbour discovery is ever spoken, and of
//! IPv4 a strict reverse path check on the node's end keeps a pod from using another's address (unless the node's
//! `net.ipv4.conf.all.rp_filter` is 2, which overrules it: setup warns of that). IPv6 knows no such check in the kernel.
//!
//! Everything here is synchronous: a call takes a few netlink messages, and the plugin is a process of its own that lives
//! for some milliseconds. Works on Linux 5.4 and later; needs CAP_NET_ADMIN and CAP_SYS_ADMIN.
#![forbid(unsafe_code)]

mod addresses;
mod bandwidth;
mod closed;
mod cni;
mod devices;
mod error;
mod files;
mod forwarding;
mod ipam;
mod netlink;
mod netns;
mod network;
mod peers;
mod pod_link;
mod routing;
mod sysctl;

pub use addresses::Addresses;
pub use bandwidth::Bandwidth;
pub use cni::{Environment, PLUGIN_NAME, cni_main, is_cni_call, respond};
pub use devices::{PodDevice, VXLAN_DEVICE, have_strict_reverse_path, node_devices, pod_devices};
pub use error::{Error, Result};
pub use ipam::{Ipam, Lease};
pub use netlink::Watch;
pub use network::{CONFLIST_NAME, Config, Network, Reconciled};
pub use peers::{Applied, Peer, Peers, PeersConfig};
pub use pod_link::{GATEWAY, GATEWAY6, host_device_name, is_host_device_name};
pub use routing::Routing;
