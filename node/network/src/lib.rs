//! The pod network of one node: `skep-node` installs itself as the CNI plugin ([`Network::setup`], [`cni_main`]), gives every
//! pod an address of the node's pod CIDR and joins it to the node by a routed veth pair.
//!
//! There is no bridge and no packet filter rule. A pod has its address as a /32 on `eth0` and one route, the default route
//! over the link-local gateway 169.254.1.1; the node has one /32 route a pod. Both ends know each other's hardware address
//! from the start, so no ARP is ever spoken, and a strict reverse path check on the node's end keeps a pod from using
//! another's address (unless the node's `net.ipv4.conf.all.rp_filter` is 2, which overrules it: setup warns of that).
//!
//! Everything here is synchronous: a call takes a few netlink messages, and the plugin is a process of its own that lives
//! for some milliseconds. Works on Linux 5.4 and later; needs CAP_NET_ADMIN and CAP_SYS_ADMIN.
#![forbid(unsafe_code)]

mod bandwidth;
mod cni;
mod devices;
mod error;
mod files;
mod ipam;
mod netlink;
mod netns;
mod network;
mod peers;
mod pod_link;
mod sysctl;

pub use cni::{Environment, PLUGIN_NAME, cni_main, is_cni_call, respond};
pub use devices::{PodDevice, VXLAN_DEVICE, have_strict_reverse_path, node_devices, pod_devices};
pub use error::{Error, Result};
pub use ipam::{Ipam, Lease};
pub use netlink::Watch;
pub use network::{CONFLIST_NAME, Config, Network, Reconciled};
pub use peers::{Applied, Peer, Peers, PeersConfig, Routing};
pub use pod_link::{GATEWAY, host_device_name, is_host_device_name};
