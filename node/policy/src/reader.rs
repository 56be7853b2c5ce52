//! What the kernel enforces, read from the pinned maps; for people.

mod listen;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    path::{Path, PathBuf},
};

use aya::maps::lpm_trie::Key;
use serde::Serialize;
use skep_ebpf_common::{
    Address, octets,
    policy::{DeviceValue, IdentityKey, PolicyState, RuleKey, device_flags, direction, identity, state_flags},
};

use crate::{
    Error, Result,
    kernel::{Maps, PROGRAMS, Paths, maps::words},
};

pub use listen::{EventRecord, Listener};

/// A local pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRecord {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The kernel's number of the host's end of its device.
    pub device: u32,
    /// Its table, which pods that policies cannot tell apart share.
    pub table: u32,
    /// What may reach it; `None`: everything.
    pub ingress: Option<Vec<RuleRecord>>,
    /// What it may reach; `None`: everything.
    pub egress: Option<Vec<RuleRecord>>,
}

/// Something that is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleRecord {
    /// The peer's identity; 0 is everybody.
    pub identity: u32,
    /// What the identity stands for.
    pub peer: String,
    /// IP protocol number; `None`: every protocol, those without ports too.
    pub protocol: Option<u8>,
    /// First and last port, if the protocol is one with ports.
    pub ports: Option<(u16, u16)>,
}

/// What becomes of a connection at one of its ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// The pod whose policies are asked, `namespace/name`.
    pub pod: String,
    /// `egress` or `ingress`.
    pub direction: &'static str,
    /// The peer's identity.
    pub identity: u32,
    /// What the identity stands for.
    pub peer: String,
    /// Does it pass?
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What allows it, if a rule does.
    pub rule: Option<RuleRecord>,
}

/// Reads the maps pinned below a bpf root.
#[derive(Debug)]
pub struct Reader {
    maps: Maps,
    state: PolicyState,
    folder: PathBuf,
    links: PathBuf,
}

impl Reader {
    /// Opens the maps.
    ///
    /// # Errors
    /// When there are none, or they cannot be read.
    pub fn open(bpf_root: &Path) -> Result<Self> {
        let paths = Paths::new(bpf_root);
        if !paths.exist() {
            return Err(Error::NotLoaded(bpf_root.to_owned()));
        }
        let maps = Maps::open(&paths.maps)?;
        let state = maps.state()?;
        Ok(Self { maps, state, folder: paths.maps, links: paths.links })
    }

    /// Names of the programs on pods' devices, and the folder where their links are pinned, `<program>-<device>`.
    pub fn programs(&self) -> ([&'static str; 2], &Path) {
        (PROGRAMS.map(|(name, _)| name), &self.links)
    }

    /// What is not as it should be, in words; nothing mostly.
    pub fn warnings(&self) -> Vec<&'static str> {
        let all = [
            (state_flags::ON, true, "nothing is enforced: all packets pass"),
            (state_flags::CLOSED, false, "the map of identities is full: isolated pods reach nobody but their node"),
            (
                state_flags::UNKNOWN_CLOSED,
                false,
                "a selected pod waits for its device: devices of unknown pods are isolated",
            ),
        ];
        all.into_iter()
            .filter(|(flag, good, _)| (self.state.flags & flag != 0) != *good)
            .map(|(.., text)| text)
            .collect()
    }

    /// Every pod of this node, by namespace and name.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn pods(&self) -> Result<Vec<PodRecord>> {
        let rules = self.rules()?;
        let mut pods = Vec::new();
        for entry in self.maps.devices.iter() {
            let (key, device) = entry.map_err(Error::map("POLICY_DEVICES"))?;
            if key.generation != self.state.generation {
                continue;
            }
            let (namespace, name) = self.pod_name(key.index);
            let allowed = |flag: u32, way: u8| {
                (device.flags & flag != 0).then(|| rules.get(&(device.table, way)).cloned().unwrap_or_default())
            };
            pods.push(PodRecord {
                namespace,
                name,
                addresses: addresses(&device),
                device: key.index,
                table: device.table,
                ingress: allowed(device_flags::INGRESS, direction::INGRESS),
                egress: allowed(device_flags::EGRESS, direction::EGRESS),
            });
        }
        pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Ok(pods)
    }

    /// What would become of a new connection between two addresses, of which this node's pods have at least one. `port` is
    /// the destination's.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn trace(&self, from: IpAddr, to: IpAddr, protocol: u8, port: u16) -> Result<Vec<Step>> {
        let pods = self.pods()?;
        let mut steps = Vec::new();
        for (own, peer, way) in [(from, to, "egress"), (to, from, "ingress")] {
            if let Some(pod) = pods.iter().find(|pod| pod.addresses.contains(&own)) {
                steps.push(self.step(pod, own, peer, way, protocol, port)?);
            }
        }
        Ok(steps)
    }

    fn step(
        &self,
        pod: &PodRecord,
        own: IpAddr,
        peer: IpAddr,
        way: &'static str,
        protocol: u8,
        port: u16,
    ) -> Result<Step> {
        let identity = self.identity(peer)?;
        let rules = if way == "egress" { &pod.egress } else { &pod.ingress };
        let fits = |rule: &&RuleRecord| {
            (rule.identity == identity::ANY || rule.identity == identity)
                && rule.protocol.is_none_or(|wanted| wanted == protocol)
                && rule.ports.is_none_or(|(low, high)| (low..=high).contains(&port))
        };
        let rule = rules.iter().flatten().find(fits).cloned();
        let (allowed, reason) = match rules {
            None => (true, format!("no policy isolates its {way}")),
            Some(_) if own == peer => (true, "it is the pod itself".to_owned()),
            Some(_) if identity == identity::HOST => (true, "its own node is always allowed".to_owned()),
            Some(_) if self.state.flags & state_flags::ON == 0 => (true, "nothing is enforced".to_owned()),
            Some(_) if self.state.flags & state_flags::CLOSED != 0 => {
                (false, "the map of identities is full, so no rule is believed".to_owned())
            }
            Some(_) if rule.is_some() => (true, "a rule allows it".to_owned()),
            Some(_) => (false, format!("policies isolate its {way}, and no rule allows it")),
        };
        let pod = format!("{}/{}", pod.namespace, pod.name);
        Ok(Step { pod, direction: way, identity, peer: self.peer_name(identity), allowed, reason, rule })
    }

    /// The identity of an address.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn identity(&self, address: IpAddr) -> Result<u32> {
        let key = IdentityKey { generation: self.state.generation, address: words(address) };
        match self.maps.identities.get(&Key::new(IdentityKey::BITS, key), 0) {
            Ok(identity) => Ok(identity),
            Err(aya::maps::MapError::KeyNotFound) => Ok(identity::WORLD),
            Err(error) => Err(Error::map("POLICY_IDENTITIES")(error)),
        }
    }

    /// Everything tables allow, by table and direction; ranges that lie side by side are one.
    fn rules(&self) -> Result<BTreeMap<(u32, u8), Vec<RuleRecord>>> {
        let mut keys = Vec::new();
        for key in self.maps.rules.keys() {
            let key = key.map_err(Error::map("POLICY_RULES"))?;
            if key.data().generation == self.state.generation {
                keys.push((key.data(), key.prefix_len()));
            }
        }
        keys.sort_by_key(|(key, bits)| {
            (key.table, key.direction, key.identity, key.protocol, u16::from_be(key.port), *bits)
        });
        let mut all: BTreeMap<(u32, u8), Vec<RuleRecord>> = BTreeMap::new();
        for (key, bits) in keys {
            let list = all.entry((key.table, key.direction)).or_default();
            let next = self.rule(&key, bits);
            match (list.last_mut(), next.ports) {
                (Some(last), Some((low, high)))
                    if (last.identity, last.protocol) == (next.identity, next.protocol)
                        && last.ports.is_some_and(|(_, end)| u32::from(end) + 1 == u32::from(low)) =>
                {
                    last.ports = last.ports.map(|(start, _)| (start, high));
                }
                _ => list.push(next),
            }
        }
        Ok(all)
    }

    fn rule(&self, key: &RuleKey, bits: u32) -> RuleRecord {
        let peer = self.peer_name(key.identity);
        if bits <= RuleKey::BITS_ALL {
            return RuleRecord { identity: key.identity, peer, protocol: None, ports: None };
        }
        let low = u16::from_be(key.port);
        let free = RuleKey::BITS.saturating_sub(bits).min(16);
        let high = low | ((1_u32 << free) - 1) as u16;
        RuleRecord { identity: key.identity, peer, protocol: Some(key.protocol), ports: Some((low, high)) }
    }

    fn pod_name(&self, device: u32) -> (String, String) {
        match self.maps.pods.get(&device, 0) {
            Ok(pod) => (text(&pod.namespace), text(&pod.name)),
            Err(_) => ("?".to_owned(), format!("device-{device}")),
        }
    }

    fn peer_name(&self, identity: u32) -> String {
        match identity {
            identity::ANY => "everybody".to_owned(),
            identity::WORLD => "outside of the cluster".to_owned(),
            identity::HOST => "this node".to_owned(),
            _ => self
                .maps
                .names
                .get(&identity, 0)
                .map_or_else(|_| format!("identity {identity}"), |name| text(&name.text)),
        }
    }
}

fn addresses(device: &DeviceValue) -> Vec<IpAddr> {
    device.addresses.iter().filter(|address| **address != [0; 4]).map(|address| ip(*address)).collect()
}

fn ip(address: Address) -> IpAddr {
    let ip = Ipv6Addr::from(octets(address));
    ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4)
}

/// The text in a field that zeros fill up.
fn text(field: &[u8]) -> String {
    let length = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..length]).into_owned()
}
