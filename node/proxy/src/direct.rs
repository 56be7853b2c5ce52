//! The short way to this node's pods: which of them get packets directly, past the host's stack.
//!
//! `PODS` names every pod's device, so that the programs know who sends, and says for each whether it may be sent to
//! directly. What is sent directly is not seen at the egress of the node's end of the device. So a pod is open only if no
//! queue limits it there and NetworkPolicy has said that it need not look: [`HostRouting::close_all_but`] before a policy
//! comes into force, [`HostRouting::open`] after it has gone. A daemon that dies in between leaves the long way, which is
//! always right; one that comes back leaves pods as they are until it is told, and takes new ones the long way.
//!
//! The map is compared with the kernel's devices whenever they change, and once a minute. Until the entry of a device that has
//! gone is removed, what is sent to it is lost. Its number is given to another device only after two thousand million others, or
//! to one that asks for it; that one's pod refuses what is not for its own address. Its address is the last of the node's that
//! is given out again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use skep_ebpf_common::{
    Address, address,
    pod::{PodValue, pod_flags},
};

use crate::{
    Error, Result,
    bpffs::{self, Paths},
    maps::Table,
};

/// Name of the map.
pub(crate) const PODS: &str = "PODS";

/// A pod's address behind the node's end of its device.
pub type Place = (u32, IpAddr);

/// The node's end of a pod's device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodDevice {
    /// The kernel's number.
    pub index: u32,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// The longest packet it takes, bytes.
    pub mtu: u32,
    /// Hardware address of the pod's end.
    pub pod_mac: [u8; 6],
    /// Hardware address of this end.
    pub mac: [u8; 6],
    /// Does a queue here limit what the pod receives?
    pub is_limited: bool,
}

/// Whom NetworkPolicy lets be sent to without looking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Open {
    /// Everybody: there is no policy.
    All,
    /// These, which no policy selects.
    Only(BTreeSet<Place>),
}

impl Open {
    fn has(&self, place: &Place) -> bool {
        match self {
            Self::All => true,
            Self::Only(places) => places.contains(place),
        }
    }
}

/// Owner of `PODS`. Clones are the same one.
#[derive(Clone, Debug)]
pub struct HostRouting {
    root: PathBuf,
    is_on: bool,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    table: Option<Table<Address, PodValue>>,
    /// Were other layouts' maps closed?
    is_alone: bool,
    pods: Vec<PodDevice>,
    from_outside: bool,
    /// `None`: a former daemon's word holds.
    open: Option<Open>,
}

impl HostRouting {
    /// With the map below `bpf_root`, which may not be there yet. If not `is_on`, nobody is sent to directly, whatever is said
    /// here.
    pub fn new(bpf_root: &Path, is_on: bool) -> Self {
        Self { root: bpf_root.to_owned(), is_on, state: Arc::default() }
    }

    /// Which pods' devices there are, and whether packets from outside of the node may take the short way.
    ///
    /// # Errors
    /// When the map does not fit or refuses a write.
    pub fn set_pods(&self, pods: Vec<PodDevice>, from_outside: bool) -> Result<()> {
        let mut state = self.state();
        state.pods = if self.is_on { pods } else { Vec::new() };
        state.from_outside = from_outside;
        state.write(&self.root)
    }

    /// Closes the short way to all but these; nobody is opened. To be called before something is enforced at others.
    /// Programs that are under way may end as they began.
    ///
    /// # Errors
    /// When the map does not fit or refuses a write: then nothing may be enforced that relies on it.
    pub fn close_all_but(&self, places: &BTreeSet<Place>) -> Result<()> {
        let mut state = self.state();
        state.open = match state.open.take() {
            None => None,
            Some(Open::All) => Some(Open::Only(places.clone())),
            Some(Open::Only(open)) => Some(Open::Only(&open & places)),
        };
        state.close_others(&self.root)?;
        state.close(&self.root, places)
    }

    /// Says whom the short way may lead to from now on. To be called when nothing is enforced at them any more.
    ///
    /// # Errors
    /// As [`HostRouting::set_pods`].
    pub fn open(&self, open: Open) -> Result<()> {
        let mut state = self.state();
        state.open = Some(open);
        state.write(&self.root)
    }

    /// A writer that panicked has left a map that the next write puts right.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The map, once it is there.
    fn table(&mut self, root: &Path) -> Result<Option<&mut Table<Address, PodValue>>> {
        if self.table.is_none() {
            self.table = open(&Paths::new(root).maps)?;
        }
        Ok(self.table.as_mut())
    }

    /// Makes the map say what it should. Entries that are wrong go before others come.
    fn write(&mut self, root: &Path) -> Result<()> {
        let Some(table) = self.table(root)? else { return Ok(()) };
        let found: BTreeMap<Address, PodValue> = table.entries()?.into_iter().collect();
        let wanted = self.wanted(&found);
        let Some(table) = self.table(root)? else { return Ok(()) };
        for key in found.keys().filter(|key| !wanted.contains_key(*key)) {
            table.remove(key)?;
        }
        wanted.iter().filter(|(key, value)| found.get(*key) != Some(value)).try_for_each(|(k, v)| table.insert(k, v))
    }

    fn wanted(&self, found: &BTreeMap<Address, PodValue>) -> BTreeMap<Address, PodValue> {
        let mut wanted = BTreeMap::new();
        for pod in &self.pods {
            for ip in &pod.addresses {
                let key = key(*ip);
                let is_open = match &self.open {
                    Some(open) => open.has(&(pod.index, *ip)),
                    None => found.get(&key).is_some_and(|old| old.index == pod.index && is_open(old)),
                };
                wanted.insert(key, self.value(pod, is_open).sealed_for(&key));
            }
        }
        wanted
    }

    fn value(&self, pod: &PodDevice, is_open: bool) -> PodValue {
        let mut flags = 0;
        if is_open && !pod.is_limited {
            flags |= pod_flags::DIRECT;
            flags |= if self.from_outside { pod_flags::FROM_OUTSIDE } else { 0 };
        }
        PodValue { index: pod.index, mtu: pod.mtu, flags, seal: 0, macs: [pod.pod_mac, pod.mac] }
    }

    /// Closes entries that are there, whatever else is known of them.
    fn close(&mut self, root: &Path, but: &BTreeSet<Place>) -> Result<()> {
        let Some(table) = self.table(root)? else { return Ok(()) };
        let stays: BTreeSet<(u32, Address)> = but.iter().map(|(index, ip)| (*index, key(*ip))).collect();
        for (address, value) in table.entries()? {
            if is_open(&value) && !stays.contains(&(value.index, address)) {
                table.insert(&address, &PodValue { flags: 0, ..value }.sealed_for(&address))?;
            }
        }
        Ok(())
    }

    /// Programs of another version that are still attached must not go past a policy either.
    fn close_others(&mut self, root: &Path) -> Result<()> {
        if self.is_alone {
            return Ok(());
        }
        for version in bpffs::other_versions(root)? {
            let Some(mut table) = open(&version.join("maps"))? else { continue };
            let keys: Vec<Address> = table.entries()?.into_iter().map(|(key, _)| key).collect();
            keys.iter().try_for_each(|key| table.remove(key))?;
        }
        self.is_alone = true;
        Ok(())
    }
}

fn is_open(value: &PodValue) -> bool {
    value.flags & pod_flags::DIRECT != 0
}

fn key(ip: IpAddr) -> Address {
    address(match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    })
}

/// Opens the map of a layout, if it has one.
fn open(maps: &Path) -> Result<Option<Table<Address, PodValue>>> {
    let pin = maps.join(PODS);
    let exists = pin.try_exists().map_err(Error::io(format!("look for {}", pin.display())))?;
    if exists { Table::open(maps, PODS).map(Some) } else { Ok(None) }
}
