//! The maps, typed. Every write is one system call; who writes in which order is the [`crate::Programmer`]'s matter.

use std::{
    collections::{BTreeSet, HashMap as StdHashMap},
    fmt,
    net::{IpAddr, Ipv6Addr},
    path::Path,
};

use aya::{
    Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, lpm_trie::Key},
};
use ipnet::IpNet;
use skep_ebpf_common::{
    Address, address, octets,
    policy::{DeviceKey, DeviceValue, IdentityKey, IdentityName, PodName, PolicyState, RuleKey, direction},
};

use crate::{Direction, Entry, Error, Identity, Result, TableId, prefixes};

/// Every map that is pinned; the others are the programs' own scratch.
pub(crate) const PINNED: [&str; 12] = [
    "POLICY_STATE",
    "POLICY_DEVICES",
    "POLICY_IDENTITIES",
    "POLICY_RULES",
    "POLICY_FLOWS",
    "POLICY_FRAGMENTS",
    "POLICY_COUNTERS",
    "POLICY_LISTEN",
    "POLICY_TOLD",
    "POLICY_EVENTS",
    "POLICY_PODS",
    "POLICY_NAMES",
];

/// What user space writes.
pub(crate) struct Maps {
    pub(crate) state: Array<MapData, PolicyState>,
    pub(crate) devices: HashMap<MapData, DeviceKey, DeviceValue>,
    pub(crate) identities: LpmTrie<MapData, IdentityKey, u32>,
    pub(crate) rules: LpmTrie<MapData, RuleKey, u32>,
    pub(crate) pods: HashMap<MapData, u32, PodName>,
    pub(crate) names: HashMap<MapData, u32, IdentityName>,
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maps").field("devices", &self.devices).finish_non_exhaustive()
    }
}

impl Maps {
    /// Opens those pinned in a folder.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        Ok(Self {
            state: open(folder, "POLICY_STATE")?,
            devices: open(folder, "POLICY_DEVICES")?,
            identities: open(folder, "POLICY_IDENTITIES")?,
            rules: open(folder, "POLICY_RULES")?,
            pods: open(folder, "POLICY_PODS")?,
            names: open(folder, "POLICY_NAMES")?,
        })
    }

    pub(crate) fn state(&self) -> Result<PolicyState> {
        self.state.get(&0, 0).map_err(Error::map("POLICY_STATE"))
    }

    pub(crate) fn set_state(&mut self, state: PolicyState) -> Result<()> {
        self.state.set(0, state, 0).map_err(Error::map("POLICY_STATE"))
    }

    pub(crate) fn set_device(&mut self, generation: u32, index: u32, value: Option<DeviceValue>) -> Result<()> {
        let key = DeviceKey { generation, index };
        let result = match value {
            Some(value) => self.devices.insert(key, value.sealed(&key), 0),
            None => or_absent(self.devices.remove(&key)),
        };
        result.map_err(Error::map("POLICY_DEVICES"))
    }

    pub(crate) fn set_identity(&mut self, generation: u32, prefix: IpNet, identity: Option<Identity>) -> Result<()> {
        let key = identity_key(generation, prefix);
        let result = match identity {
            Some(identity) => self.identities.insert(&key, identity.0, 0),
            None => or_absent(self.identities.remove(&key)),
        };
        result.map_err(Error::map("POLICY_IDENTITIES"))
    }

    pub(crate) fn set_rule(&mut self, rule: &Rule, allowed: bool) -> Result<()> {
        let result =
            if allowed { self.rules.insert(&rule.key(), 1, 0) } else { or_absent(self.rules.remove(&rule.key())) };
        result.map_err(Error::map("POLICY_RULES"))
    }

    /// Devices of a generation, sealed.
    pub(crate) fn devices_of(&self, generation: u32) -> Result<Vec<(u32, DeviceValue)>> {
        let mut all = Vec::new();
        for entry in self.devices.iter() {
            let (key, value) = entry.map_err(Error::map("POLICY_DEVICES"))?;
            all.extend((key.generation == generation).then_some((key.index, value)));
        }
        Ok(all)
    }

    /// Identities of a generation.
    pub(crate) fn identities_of(&self, generation: u32) -> Result<StdHashMap<IpNet, Identity>> {
        let mut all = StdHashMap::new();
        for entry in self.identities.iter() {
            let (key, identity) = entry.map_err(Error::map("POLICY_IDENTITIES"))?;
            if key.data().generation == generation
                && let Some(prefix) = prefix_of(&key)
            {
                all.insert(prefix, Identity(identity));
            }
        }
        Ok(all)
    }

    /// Rules of a generation.
    pub(crate) fn rules_of(&self, generation: u32) -> Result<BTreeSet<Rule>> {
        let mut all = BTreeSet::new();
        for key in self.rules.keys() {
            let key = key.map_err(Error::map("POLICY_RULES"))?;
            if key.data().generation == generation {
                all.insert(Rule { key: key.data(), bits: key.prefix_len() });
            }
        }
        Ok(all)
    }

    /// Removes every entry that is of another generation, nobody's leftovers.
    pub(crate) fn remove_other_generations(&mut self, kept: u32) -> Result<()> {
        let devices: Vec<DeviceKey> = self.devices.keys().flatten().filter(|key| key.generation != kept).collect();
        for key in devices {
            or_absent(self.devices.remove(&key)).map_err(Error::map("POLICY_DEVICES"))?;
        }
        let identities: Vec<_> = self.identities.keys().flatten().filter(|key| key.data().generation != kept).collect();
        for key in identities {
            or_absent(self.identities.remove(&key)).map_err(Error::map("POLICY_IDENTITIES"))?;
        }
        let rules: Vec<_> = self.rules.keys().flatten().filter(|key| key.data().generation != kept).collect();
        for key in rules {
            or_absent(self.rules.remove(&key)).map_err(Error::map("POLICY_RULES"))?;
        }
        Ok(())
    }
}

/// One entry of `POLICY_RULES`: an [`Entry`] has as many as its range of ports takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Rule {
    key: RuleKey,
    bits: u32,
}

impl Rule {
    /// What an entry of a table is in the map.
    pub(crate) fn all(generation: u32, table: TableId, entry: &Entry) -> Vec<Self> {
        let direction = match entry.direction {
            Direction::Ingress => direction::INGRESS,
            Direction::Egress => direction::EGRESS,
        };
        let key =
            RuleKey { generation, table, identity: entry.identity.0, direction, protocol: entry.protocol, port: 0 };
        if entry.protocol == 0 {
            return vec![Self { key, bits: RuleKey::BITS_ALL }];
        }
        prefixes(entry.low, entry.high)
            .into_iter()
            .map(|(port, bits)| Self {
                key: RuleKey { port: port.to_be(), ..key },
                bits: RuleKey::BITS_BEFORE_PORT + u32::from(bits),
            })
            .collect()
    }

    fn key(&self) -> Key<RuleKey> {
        Key::new(self.bits, self.key)
    }
}

/// An address as the maps keep it.
pub(crate) fn words(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(ip) => address(ip.to_ipv6_mapped().octets()),
        IpAddr::V6(ip) => address(ip.octets()),
    }
}

fn identity_key(generation: u32, prefix: IpNet) -> Key<IdentityKey> {
    let before = match prefix {
        IpNet::V4(_) => IdentityKey::BITS_BEFORE_IP4,
        IpNet::V6(_) => IdentityKey::BITS_BEFORE_IP6,
    };
    let key = IdentityKey { generation, address: words(prefix.network()) };
    Key::new(before + u32::from(prefix.prefix_len()), key)
}

/// The prefix that a key stands for; `None` for one that is not written here.
fn prefix_of(key: &Key<IdentityKey>) -> Option<IpNet> {
    let bits = key.prefix_len();
    let address = Ipv6Addr::from(octets(key.data().address));
    match address.to_ipv4_mapped() {
        Some(ip) if bits >= IdentityKey::BITS_BEFORE_IP4 => {
            IpNet::new(ip.into(), u8::try_from(bits - IdentityKey::BITS_BEFORE_IP4).ok()?).ok()
        }
        _ => IpNet::new(address.into(), u8::try_from(bits.checked_sub(IdentityKey::BITS_BEFORE_IP6)?).ok()?).ok(),
    }
}

/// Removing what is not there is no error.
fn or_absent(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// Opens a map pinned in `folder`.
pub(crate) fn open<M: TryFrom<Map, Error = MapError>>(folder: &Path, name: &'static str) -> Result<M> {
    let data = MapData::from_pin(folder.join(name)).map_err(Error::map(name))?;
    Map::from_map_data(data).map_err(Error::map(name))?.try_into().map_err(Error::map(name))
}

/// Text in a field that zeros fill up; cut if it is too long.
pub(crate) fn text<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [0; N];
    let length = text.floor_char_boundary(N);
    field[..length].copy_from_slice(&text.as_bytes()[..length]);
    field
}

/// Forgets what a map says of a key, if anything.
pub(crate) fn forget<K: Pod, V: Pod>(map: &mut HashMap<MapData, K, V>, key: &K) {
    // Names are for people: what is left of one does no harm.
    let _ = map.remove(key);
}
