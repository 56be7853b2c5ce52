//! The short way to this node's pods: which devices it may lead to.

use std::collections::BTreeSet;

use skep_policy::{Bypass, BypassError, Place};
use skep_proxy::direct::{HostRouting, Open, PodDevice};

/// Tells of the pods' devices that are there now. What comes by the `node`'s own takes the long way if the stack is to look at
/// where it comes from.
pub(crate) fn tell(routing: &HostRouting, node: &[String]) -> anyhow::Result<()> {
    let pods = skep_network::pod_devices()?.into_iter().map(pod).collect();
    let mut outside = node.to_vec();
    outside.push(skep_network::VXLAN_DEVICE.to_owned());
    Ok(routing.set_pods(pods, !skep_network::have_strict_reverse_path(&outside))?)
}

fn pod(device: skep_network::PodDevice) -> PodDevice {
    PodDevice {
        index: device.index,
        addresses: device.addresses,
        mtu: device.mtu,
        pod_mac: device.pod_mac,
        mac: device.mac,
        is_limited: device.is_limited,
    }
}

/// What NetworkPolicy has to say to it.
#[derive(Debug)]
pub(crate) struct UnderPolicy(pub(crate) HostRouting);

impl Bypass for UnderPolicy {
    fn close_all_but(&self, places: &BTreeSet<Place>) -> Result<(), BypassError> {
        Ok(self.0.close_all_but(places)?)
    }

    fn open(&self, places: Option<&BTreeSet<Place>>) -> Result<(), BypassError> {
        Ok(self.0.open(places.map_or(Open::All, |places| Open::Only(places.clone())))?)
    }
}
