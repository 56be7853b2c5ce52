//! `skepctl endpoint list`: the pods of this node, as its network and its data plane know them.

use std::{collections::HashMap, fs, io::Write, net::IpAddr, path::Path};

use anyhow::Result;
use clap::Subcommand;
use serde::Serialize;
use skep_policy::reader::{PodRecord, Reader as PolicyReader};
use skep_proxy::maps::{Reader, reader::ServiceRecord};

use crate::{
    cli::Format,
    names::Names,
    output::{print, structured, table},
    trace::policy,
};

#[derive(Debug, Subcommand)]
pub(crate) enum EndpointCommand {
    /// Every pod with a device of its own on this node.
    List,
}

/// One pod.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Endpoint {
    /// `namespace/name`, if NetworkPolicy's maps or the API tell.
    pod: Option<String>,
    addresses: Vec<IpAddr>,
    /// The node's end of its wire.
    device: String,
    device_index: u32,
    /// Hardware address of the node's end.
    host_mac: Option<String>,
    /// Hardware address of the pod's end, if the node has talked to it lately.
    mac: Option<String>,
    #[serde(flatten)]
    policy: Option<Policy>,
    /// The service ports it is a backend of.
    services: Vec<String>,
}

/// What NetworkPolicy knows of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    /// All pods that policies cannot tell apart share one.
    identity: Option<u32>,
    ingress_isolated: bool,
    egress_isolated: bool,
}

/// Does what was asked.
pub(crate) fn run(
    command: &EndpointCommand,
    reader: &Reader,
    root: &Path,
    names: &Names,
    format: Format,
    out: &mut impl Write,
) -> Result<()> {
    let EndpointCommand::List = command;
    let endpoints = endpoints(reader, root, names)?;
    if let Some(text) = structured(format, &endpoints)? {
        return Ok(out.write_all(text.as_bytes())?);
    }
    let mut table = table(["POD", "ADDRESSES", "DEVICE", "MAC", "INGRESS", "EGRESS", "IDENTITY", "SERVICES"]);
    let word = |isolated: Option<bool>| match isolated {
        None => "-",
        Some(true) => "isolated",
        Some(false) => "open",
    };
    for endpoint in endpoints {
        let policy = endpoint.policy.as_ref();
        table.add_row([
            endpoint.pod.unwrap_or_else(|| "-".into()),
            join(endpoint.addresses.iter()),
            endpoint.device,
            endpoint.mac.unwrap_or_else(|| "-".into()),
            word(policy.map(|policy| policy.ingress_isolated)).into(),
            word(policy.map(|policy| policy.egress_isolated)).into(),
            policy.and_then(|policy| policy.identity).map_or_else(|| "-".into(), |identity| identity.to_string()),
            join(endpoint.services.iter()),
        ]);
    }
    print(&table, out)
}

/// Every pod of this node.
pub(crate) fn endpoints(reader: &Reader, root: &Path, names: &Names) -> Result<Vec<Endpoint>> {
    let policy = policy(root)?;
    let pods = policy.as_ref().map(PolicyReader::pods).transpose()?.unwrap_or_default();
    let services = reader.services()?;
    let neighbours = fs::read_to_string("/proc/net/arp").map(|text| neighbours(&text)).unwrap_or_default();
    let mut endpoints = Vec::new();
    for device in skep_network::pod_devices()? {
        let known = pods.iter().find(|pod| pod.device == device.index);
        let pod = match (known, device.addresses.first()) {
            (Some(pod), _) => Some(format!("{}/{}", pod.namespace, pod.name)),
            (None, Some(address)) => names.pod_at(*address)?,
            (None, None) => None,
        };
        let policy = match (&policy, known) {
            (Some(reader), Some(pod)) => Some(of(reader, pod)?),
            _ => None,
        };
        endpoints.push(Endpoint {
            pod,
            host_mac: fs::read_to_string(format!("/sys/class/net/{}/address", device.name))
                .ok()
                .map(|text| text.trim().to_owned()),
            mac: device.addresses.iter().find_map(|address| neighbours.get(address).cloned()),
            policy,
            services: served(&services, &device.addresses),
            addresses: device.addresses,
            device: device.name,
            device_index: device.index,
        });
    }
    Ok(endpoints)
}

fn of(reader: &PolicyReader, pod: &PodRecord) -> Result<Policy> {
    let identity = pod.addresses.first().map(|address| reader.identity(*address)).transpose()?;
    Ok(Policy { identity, ingress_isolated: pod.ingress.is_some(), egress_isolated: pod.egress.is_some() })
}

/// The service ports that have a backend at one of these addresses.
fn served(services: &[ServiceRecord], addresses: &[IpAddr]) -> Vec<String> {
    let has =
        |service: &&ServiceRecord| service.backends.iter().any(|backend| addresses.contains(&backend.address.ip()));
    let name = |service: &ServiceRecord| match service.port_name.as_str() {
        "" => format!("{}/{}", service.namespace, service.name),
        port => format!("{}/{}:{port}", service.namespace, service.name),
    };
    services.iter().filter(has).map(name).collect()
}

/// Hardware addresses by address, from the kernel's table of IPv4 neighbours.
fn neighbours(table: &str) -> HashMap<IpAddr, String> {
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let (address, mac) = (words.next()?.parse().ok()?, words.nth(2)?);
        (mac != "00:00:00:00:00:00").then(|| (address, mac.to_owned()))
    };
    table.lines().skip(1).filter_map(entry).collect()
}

fn join(items: impl Iterator<Item = impl ToString>) -> String {
    let text = items.map(|item| item.to_string()).collect::<Vec<_>>().join(",");
    if text.is_empty() { "-".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_read_and_unresolved_ones_left_out() {
        let text = "IP address       HW type     Flags       HW address            Mask     Device\n\
                    10.1.0.5         0x1         0x2         02:00:00:00:00:05     *        eth0\n\
                    10.1.0.6         0x1         0x0         00:00:00:00:00:00     *        eth0\n\
                    damaged\n";
        let all = neighbours(text);
        assert_eq!(all.len(), 1);
        assert_eq!(all[&"10.1.0.5".parse().unwrap()], "02:00:00:00:00:05");
    }
}
